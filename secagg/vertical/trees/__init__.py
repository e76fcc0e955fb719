"""Boosted trees over columns that several parties hold, by sums of encrypted gradients."""
