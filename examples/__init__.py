"""Runnable examples. A package with a file, because others install a package of this name."""
