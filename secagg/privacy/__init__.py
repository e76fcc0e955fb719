"""Differential privacy: clipping, integer noise, sampling, accounts and the ledger of what was spent."""
