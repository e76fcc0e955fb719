"""What a modulus is proven to be, and that no proof is made for one that is not so."""

from __future__ import annotations

from collections.abc import Callable

import gmpy2
import pytest
from gmpy2 import mpz

from secagg.errors import MalformedMessage
from secagg.paillier import permutation
from secagg.paillier.permutation import ROOTS, check_permutation, prove_permutation
from secagg.paillier.public import PublicKey
from tests.paillier_keys import PLANTED, SMALL, secret_key, shared_key

KEY = secret_key()
PUBLIC = KEY.public
SIZE = PUBLIC.bits // 8
PROOF = prove_permutation(KEY, context=b"sum")


def test_a_proof_is_roots_of_what_a_hash_draws() -> None:
    check_permutation(PUBLIC, PROOF, context=b"sum")
    assert len(PROOF) == ROOTS * SIZE
    roots = [mpz.from_bytes(PROOF[at : at + SIZE], "big") for at in range(0, len(PROOF), SIZE)]
    assert [gmpy2.powmod(root, PUBLIC.n, PUBLIC.n) for root in roots] == permutation._drawn(PUBLIC, b"sum")
    assert len(set(roots)) == ROOTS


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda proof: proof[:-1], "another size"),
        (lambda proof: proof + bytes(SIZE), "another size"),
        (lambda proof: proof[:-1] + bytes([proof[-1] ^ 1]), "does not hold"),
        (lambda proof: bytes([proof[0] ^ 1]) + proof[1:], "does not hold"),
        (lambda proof: proof[SIZE:] + proof[:SIZE], "does not hold"),
        (lambda proof: b"\xff" * SIZE + proof[SIZE:], "does not hold"),
        (lambda proof: bytes(len(proof)), "does not hold"),
    ],
)
def test_what_is_no_proof_is_refused(change: Callable[[bytes], bytes], text: str) -> None:
    with pytest.raises(MalformedMessage, match=text):
        check_permutation(PUBLIC, change(PROOF), context=b"sum")


def test_a_root_is_below_the_modulus() -> None:
    proofs = {context: prove_permutation(KEY, context=context) for context in (b"%d" % at for at in range(8))}
    larger = {context: mpz.from_bytes(proof[:SIZE], "big") + PUBLIC.n for context, proof in proofs.items()}
    fitting = {context: each for context, each in larger.items() if each.bit_length() <= PUBLIC.bits}
    assert fitting, "take more contexts"
    for context, each in fitting.items():
        with pytest.raises(MalformedMessage):
            check_permutation(PUBLIC, each.to_bytes(SIZE, "big") + proofs[context][SIZE:], context=context)


def test_a_proof_is_for_one_key_and_one_use() -> None:
    with pytest.raises(MalformedMessage):
        check_permutation(PUBLIC, PROOF, context=b"another sum")
    with pytest.raises(MalformedMessage):
        check_permutation(shared_key().public, PROOF, context=b"sum")


def test_what_has_a_factor_of_the_modulus_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    p, _ = KEY.primes()
    root = mpz(p)
    monkeypatch.setattr(permutation, "_drawn", lambda key, _: [gmpy2.powmod(root, key.n, key.n)] * ROOTS)
    with pytest.raises(MalformedMessage):
        check_permutation(PUBLIC, root.to_bytes(SIZE, "big") * ROOTS, context=b"sum")


def test_for_a_planted_modulus_there_is_no_proof() -> None:
    """It passes every check of a public key, and hardly any number has a root."""
    key = PublicKey(SMALL * PLANTED)
    for number in range(20):
        drawn = permutation._drawn(key, b"%d" % number)
        has_root = [gmpy2.powmod(each, (PLANTED - 1) // SMALL, PLANTED) == 1 for each in drawn]
        assert sum(has_root) <= 1
