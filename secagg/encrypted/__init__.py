"""Rounds over ciphertexts: what both encryptions share, whatever they encrypt with."""
