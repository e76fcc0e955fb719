"""Parties that hold different columns of the same records learn together."""
