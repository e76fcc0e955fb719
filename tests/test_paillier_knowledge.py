"""Proofs of what is in ciphertexts: the right one holds, for its silo and its round alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from secagg.errors import MalformedMessage, UsageError
from secagg.paillier.ciphertexts import read
from secagg.paillier.gmp import gmpy2, mpz
from secagg.paillier.knowledge import check_known, encrypt_known
from secagg.paillier.obfuscators import Pool
from secagg.paillier.params import knowledge_size
from secagg.paillier.powers import EXPONENT_SIZE, product_of_powers
from secagg.paillier.public import PublicKey
from tests.paillier_keys import secret_key, stream

SECRET = secret_key()
KEY = SECRET.public
SIZE = KEY.ciphertext_size
COUNT = 5
POOL = Pool(KEY, random=stream("known"))
ROWS = np.frombuffer(stream("plaintexts")(COUNT * 200), np.uint8).reshape(COUNT, 200)


def proved(rows: NDArray[np.uint8] = ROWS, *, context: bytes = b"north 1", seed: str = "proof") -> bytes:
    return encrypt_known(rows, POOL, context=context, random=stream(seed))


WHOLE = proved()


def check(whole: bytes, *, context: bytes = b"north 1", count: int = COUNT, piece: int = 2 * SIZE) -> None:
    numbers, proof = memoryview(whole)[: count * SIZE], whole[count * SIZE :]

    def ciphertexts() -> Iterator[memoryview]:
        for start in range(0, len(numbers), piece):
            yield numbers[start : start + piece]

    check_known(ciphertexts, count, proof, KEY, context=context)


@pytest.mark.parametrize("piece", [1, 2, 3, COUNT, 100])
def test_what_was_encrypted_is_proved_however_it_is_read(piece: int) -> None:
    check(WHOLE, piece=piece * SIZE)
    assert len(WHOLE) == COUNT * SIZE + knowledge_size(KEY.bits)
    opened = SECRET.open(read(WHOLE[: COUNT * SIZE], KEY), size=200)
    np.testing.assert_array_equal(opened, ROWS)


@pytest.mark.parametrize("count", [0, 1, 130])
def test_any_number_of_ciphertexts_is_proved(count: int) -> None:
    check(proved(np.resize(ROWS, (count, 200))), count=count, piece=64 * SIZE)


def test_extreme_plaintexts_are_proved() -> None:
    largest = np.full((2, KEY.plaintext_bits // 8), 255, np.uint8)
    check(proved(largest), count=2)
    check(proved(np.zeros((2, 8), np.uint8)), count=2)


@settings(max_examples=60)
@given(st.integers(0, 8 * len(WHOLE) - 1))
def test_one_flipped_bit_is_refused(bit: int) -> None:
    changed = bytearray(WHOLE)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(MalformedMessage):
        check(bytes(changed))


def test_a_proof_holds_for_its_silo_and_its_round_alone() -> None:
    for context in (b"", b"south 1", b"north 2"):
        with pytest.raises(MalformedMessage, match="does not hold"):
            check(WHOLE, context=context)


def test_a_proof_holds_for_its_ciphertexts_in_their_order_alone() -> None:
    numbers, proof = WHOLE[: COUNT * SIZE], WHOLE[COUNT * SIZE :]
    other = proved(seed="other")
    swapped = numbers[SIZE : 2 * SIZE] + numbers[:SIZE] + numbers[2 * SIZE :]
    for changed in (swapped, other[: COUNT * SIZE]):
        with pytest.raises(MalformedMessage, match="does not hold"):
            check(changed + proof)
    with pytest.raises(MalformedMessage):
        check(numbers + other[COUNT * SIZE :])
    for count in (COUNT - 1, COUNT + 1):
        with pytest.raises(MalformedMessage):
            check(WHOLE, count=count)


def test_what_is_made_of_others_ciphertexts_is_not_proved() -> None:
    """A product, an inverse or a power of what is known, beside the proof for what it is made of."""
    numbers, proof = read(WHOLE[: COUNT * SIZE], KEY), WHOLE[COUNT * SIZE :]
    for change in (
        lambda c: c * c % KEY.n_squared,
        lambda c: gmpy2.invert(c, KEY.n_squared),
        lambda c: c * numbers[0] % KEY.n_squared,
        lambda c: c * (1 + KEY.n) % KEY.n_squared,
        lambda c: KEY.n_squared - c,
    ):
        made = b"".join(change(c).to_bytes(SIZE, "big") for c in numbers)
        with pytest.raises(MalformedMessage, match="does not hold"):
            check(made + proof)


def test_answers_out_of_range_are_refused() -> None:
    start = COUNT * SIZE + SIZE
    middle = start + KEY.bits // 8
    z = int.from_bytes(WHOLE[start:middle], "big") + int(KEY.n)
    if z.bit_length() <= KEY.bits:
        with pytest.raises(MalformedMessage, match="too large"):
            check(WHOLE[:start] + z.to_bytes(KEY.bits // 8, "big") + WHOLE[middle:])
    for whole in (WHOLE[:-1], WHOLE + b"\0", WHOLE[: COUNT * SIZE]):
        with pytest.raises(MalformedMessage):
            check(whole)


def test_two_proofs_of_the_same_share_no_number() -> None:
    """A commitment that came twice would give the plaintexts away."""
    starts = {proved(seed=f"seed {i}")[COUNT * SIZE :][:SIZE] for i in range(5)}
    assert len(starts) == 5


def test_obfuscators_that_are_no_powers_are_refused() -> None:
    full = PublicKey(KEY.n, obfuscation="full")
    with pytest.raises(UsageError, match="not short"):
        encrypt_known(ROWS, Pool(full), context=b"", random=stream("full"))
    with pytest.raises(UsageError, match="plaintexts of at most"):
        proved(np.zeros((1, KEY.bits), np.uint8))


@given(st.integers(0, 300), st.binary(min_size=1, max_size=8))
@settings(max_examples=30)
def test_products_of_powers_are_those_of_one_power_after_the_other(count: int, seed: bytes) -> None:
    modulus = mpz(2**127 - 1)
    drawn = stream(seed.hex())
    bases = [mpz.from_bytes(drawn(16), "big") % modulus for _ in range(count)]
    exponents = drawn(EXPONENT_SIZE * count)
    expected = mpz(1)
    for at, base in enumerate(bases):
        exponent = int.from_bytes(exponents[EXPONENT_SIZE * at :][:EXPONENT_SIZE], "big")
        expected = expected * gmpy2.powmod(base, exponent, modulus) % modulus
    assert product_of_powers(bases, exponents, modulus) == expected


def test_products_of_powers_take_any_number_and_any_digit() -> None:
    modulus = mpz(2**127 - 1)
    for count in (128, 129, 4096, 4097):
        bases = [mpz(3)] * count
        exponents = b"".join((at * 2**120 + at).to_bytes(16, "big") for at in (i % 256 for i in range(count)))
        total = sum(int.from_bytes(exponents[at : at + 16], "big") for at in range(0, len(exponents), 16))
        assert product_of_powers(bases, exponents, modulus) == gmpy2.powmod(3, total, modulus)
