"""CKKS: sums of real vectors under one key that the silos share; approximate, with a proven error bound."""
