"""Sums over the records that two parties share: one has amounts for its records, and nobody learns which."""
