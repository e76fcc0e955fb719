"""A data holder."""
