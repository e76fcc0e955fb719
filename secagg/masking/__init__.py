"""Pairwise masks with dropout recovery."""
