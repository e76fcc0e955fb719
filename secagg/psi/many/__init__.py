"""Intersection of three to ten parties, of which nobody learns what only some of them share."""
