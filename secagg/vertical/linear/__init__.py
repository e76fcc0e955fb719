"""Linear models of several parties' columns: logistic and ridge regression without an arbiter."""
