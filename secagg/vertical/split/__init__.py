"""Split neural networks: a bottom model at each party on its own columns, a top where the labels are."""
