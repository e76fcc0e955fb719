"""Measurements; each prints machine, versions, sizes and medians. Never part of the test run."""
