"""What noise costs a model, and what its absence costs a patient."""
