"""Tests of the sealed channel between two silos."""
