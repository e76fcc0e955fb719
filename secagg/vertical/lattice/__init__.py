"""Products of one party's matrix with another party's hidden vector, on lattice ciphertexts."""
