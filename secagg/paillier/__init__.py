"""Additively homomorphic encryption after Paillier: sums of vectors that whoever adds them cannot read.

``public`` and ``ciphertexts`` are for everybody, ``obfuscators`` for whoever encrypts; ``secret`` opens.
"""
