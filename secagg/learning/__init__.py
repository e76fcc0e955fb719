"""Federated learning over any scheme."""
