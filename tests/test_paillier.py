"""Paillier as arithmetic: sums come out exact, keys and ciphertexts are checked, obfuscators serve once."""

from __future__ import annotations

import copy
import hashlib
import itertools
import linecache
import os
import pickle
import pkgutil
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import gmpy2
import numpy as np
import pytest
from gmpy2 import mpz
from hypothesis import given, settings
from hypothesis import strategies as st
from phe import paillier as phe

import secagg.paillier
from secagg.errors import MalformedMessage, ParameterError, RoundAborted, UsageError
from secagg.hazmat.framing import frame
from secagg.packing import Packing
from secagg.paillier.ciphertexts import Total, encrypt, read
from secagg.paillier.obfuscators import FixedBase, Pool
from secagg.paillier.params import LEAST_BITS, Paillier
from secagg.paillier.phe import (
    ciphertext_from_phe,
    ciphertext_to_phe,
    public_from_phe,
    public_to_phe,
    secret_from_phe,
    secret_to_phe,
)
from secagg.paillier.public import PublicKey
from secagg.paillier.secret import SecretKey
from tests.counts import count
from tests.paillier_keys import secret_key, stream, threshold_key

SECRET = secret_key()
KEY = SECRET.public
POOL = Pool(KEY, random=stream("pool"))
SIZE = (KEY.bits - 1) // 8
"""Bytes of the plaintexts that every key here can hold."""


def rows(*plaintexts: int) -> Any:
    data = b"".join(plaintext.to_bytes(SIZE, "little") for plaintext in plaintexts)
    return np.frombuffer(data, np.uint8).reshape(-1, SIZE)


def opened(data: bytes, key: SecretKey = SECRET) -> list[int]:
    found = key.open(read(data, key.public), size=SIZE)
    return [int.from_bytes(row.tobytes(), "little") for row in found]


def sealed(*plaintexts: int, pool: Pool = POOL) -> bytes:
    return b"".join(encrypt(rows(*plaintexts), pool))


# --- sums ---------------------------------------------------------------------------------------------------


@settings(max_examples=count(reduced=20, full=500))
@given(st.lists(st.integers(0, 2 ** (8 * SIZE - 7) - 1), min_size=1, max_size=64))
def test_a_sum_of_ciphertexts_opens_to_the_sum(plaintexts: list[int]) -> None:
    total = Total(KEY, 1)
    for plaintext in plaintexts:
        total.add([sealed(plaintext)])
    assert opened(bytes(total.ciphertexts()[:])) == [sum(plaintexts)]
    assert total.vectors == len(plaintexts)


@pytest.mark.parametrize("word_bits", [32, 64])
@pytest.mark.parametrize("silos", [2, 5, 64])
def test_packed_vectors_are_summed_exactly(word_bits: Any, silos: int) -> None:
    packing = Packing(word_bits, silos, KEY.plaintext_bits)
    length, checks = 3 * packing.entries - 1, np.array([packing.bias, 0, -packing.bias])
    signed = np.random.default_rng(silos).integers(-packing.bias, packing.bias + 1, (silos, length))
    signed[:, 0], signed[:, 1] = packing.bias, -packing.bias
    words = signed.astype(np.int32).view(np.uint32) if word_bits == 32 else signed.view(np.uint64)
    total = Total(KEY, packing.rows(length))
    for vector in words:
        total.add(encrypt(packing.pack(vector, checks), POOL))  # Piece by piece, as from a spool.
    data = total.ciphertexts()[:]
    assert len(data) == packing.rows(length) * KEY.ciphertext_size
    plain = SECRET.open(read(data, KEY), size=packing.row_bytes)
    with np.errstate(over="ignore"):
        expected = words.sum(axis=0, dtype=words.dtype)
    assert (packing.unpack(plain, checks, length=length, silos=silos) == expected).all()


def test_a_value_costs_a_little_more_than_eight_bytes() -> None:
    packing = Packing(32, 10, 3071)
    assert 3072 // 4 / packing.entries == pytest.approx(8.35, abs=0.01)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_opening_tells_how_far_it_is_and_does_not_depend_on_threads(threads: int) -> None:
    told: list[int] = []
    data = sealed(*range(40))
    found = SECRET.open(read(data, KEY), size=SIZE, threads=threads, progress=told.append)
    assert [int.from_bytes(row.tobytes(), "little") for row in found] == list(range(40))
    assert sum(told) == 40
    assert len(told) > 1


def test_nothing_is_opened_to_nothing() -> None:
    assert SECRET.open([], size=7).shape == (0, 7)


def test_what_does_not_fit_is_no_sum() -> None:
    with pytest.raises(RoundAborted):
        SECRET.open(read(sealed(256), KEY), size=1)


def test_the_same_plaintext_never_has_the_same_ciphertext() -> None:
    first, again = sealed(7), sealed(7)
    assert first != again
    assert opened(first + again) == [7, 7]


# --- a second implementation --------------------------------------------------------------------------------


@settings(max_examples=count(reduced=10, full=200))
@given(st.integers(0, 2 ** (8 * SIZE) - 1))
def test_phe_opens_ours_and_we_open_theirs(plaintext: int) -> None:
    public, secret = public_to_phe(KEY), secret_to_phe(SECRET)
    assert secret.raw_decrypt(int.from_bytes(sealed(plaintext), "big")) == plaintext
    assert opened(public.raw_encrypt(plaintext).to_bytes(KEY.ciphertext_size, "big")) == [plaintext]


@given(st.integers(0, 2**1000), st.integers(0, 2**1000))
@settings(max_examples=count(reduced=5, full=100), deadline=None)
def test_numbers_are_added_across(ours: int, of_phe: int) -> None:
    public, secret = public_to_phe(KEY), secret_to_phe(SECRET)
    there = ciphertext_to_phe(sealed(ours), KEY) + public.encrypt(of_phe)
    assert secret.decrypt(there) == ours + of_phe
    total = Total(KEY, 1)
    total.add([sealed(ours)])
    total.add([ciphertext_from_phe(public.encrypt(of_phe), KEY)])
    assert opened(bytes(total.ciphertexts()[:])) == [ours + of_phe]


def test_keys_of_phe_are_taken() -> None:
    public, secret = phe.generate_paillier_keypair(n_length=2048)
    ours, opens = public_from_phe(public), secret_from_phe(secret)
    assert ours == opens.public
    assert ours.obfuscation == "full"
    assert opened(ciphertext_from_phe(public.encrypt(5), ours), opens) == [5]
    assert secret.decrypt(ciphertext_to_phe(sealed(6, pool=Pool(ours)), ours)) == 6


def test_a_number_that_gives_something_away_is_not_taken() -> None:
    public = public_to_phe(KEY)
    in_clear = public.encrypt(5, r_value=1)
    again = ciphertext_from_phe(in_clear, KEY)
    assert opened(again) == [5]  # It was blinded on the way, or it would not be read.
    for number in (public.encrypt(0.5), public_to_phe(secret_key("other").public).encrypt(5)):
        with pytest.raises(ParameterError):
            ciphertext_from_phe(number, KEY)


def test_full_obfuscators_are_those_of_phe() -> None:
    key = PublicKey(int(KEY.n), obfuscation="full")
    root = int.from_bytes(stream("root")(key.bits // 8), "big")
    pool = Pool(key, random=lambda size: root.to_bytes(size, "big"))
    assert root < key.n, "another seed is needed"
    (ours,) = encrypt(rows(5), pool)
    assert int.from_bytes(ours, "big") == public_to_phe(KEY).raw_encrypt(5, r_value=root)


def test_short_obfuscators_are_powers_of_the_derived_base() -> None:
    exponent = stream("exponent")(KEY.bits // 16)
    (found,) = read(next(encrypt(rows(0), Pool(KEY, random=lambda size: exponent[:size]))), KEY)
    assert found == gmpy2.powmod(KEY.base, int.from_bytes(exponent, "little"), KEY.n_squared)


def test_the_base_is_the_nth_power_of_a_negated_square() -> None:
    n = KEY.n
    data = frame("paillier base", n.to_bytes(KEY.bits // 8, "big"))
    x = mpz(int.from_bytes(hashlib.shake_256(data).digest(KEY.bits // 8 + 16), "big")) % n
    assert KEY.base == gmpy2.powmod(-x * x % n, n, n * n)
    assert opened(KEY.base.to_bytes(KEY.ciphertext_size, "big")) == [0]


@given(st.binary(min_size=4, max_size=4))
def test_windows_give_what_powers_are(exponent: bytes) -> None:
    modulus = mpz(1000003 * 999983)
    table = FixedBase(mpz(123456789), modulus, size=4)
    assert table.power(exponent) == pow(123456789, int.from_bytes(exponent, "little"), int(modulus))


# --- keys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2048, 3072])
def test_a_fresh_key_opens_what_it_closes(bits: int) -> None:
    secret = secret_key("fresh", bits)
    assert secret.public.bits == bits
    assert opened(sealed(3, 4, pool=Pool(secret.public)), secret) == [3, 4]
    again = SecretKey.from_bytes(secret.to_bytes())
    assert again.public == secret.public == PublicKey.from_bytes(secret.public.to_bytes())
    assert opened(sealed(9, pool=Pool(again.public)), secret) == [9]


def test_a_small_key_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="take 3072") as caught:
        SecretKey.generate(LEAST_BITS, random=stream("small"))
    assert [warning.filename for warning in caught] == [__file__]


def test_who_asks_for_a_sum_under_a_small_key_is_shown_the_line() -> None:
    vectors = {silo: [1.0] for silo in "abc"}
    with pytest.warns(UserWarning, match="take 3072") as caught:
        secagg.secure_sum(vectors, clip=1.0, scheme=Paillier(bits=LEAST_BITS))
    (warning,) = caught
    assert warning.filename == __file__
    assert "secagg.secure_sum" in linecache.getline(__file__, warning.lineno)


def test_two_keys_are_different() -> None:
    assert secret_key("other").public != KEY
    assert PublicKey(int(KEY.n), obfuscation="full") != KEY
    assert len({KEY, PublicKey.from_bytes(KEY.to_bytes()), secret_key("other").public}) == 2


@pytest.mark.parametrize("bits", [0, 1024, 2047, 2056, 8208])
def test_keys_of_other_sizes_are_not_made(bits: int) -> None:
    with pytest.raises(ParameterError):
        SecretKey.generate(bits, random=stream("size"))


P, Q = SECRET.primes()
P1 = int(gmpy2.next_prime(P))
ONE_MODULO_4 = next(p for p in itertools.count(P + 2, 4) if gmpy2.is_prime(mpz(p)))


@pytest.mark.parametrize(
    ("p", "q"),
    [(P, P), (P, P1), (P, Q - 2), (P, 3), (0, Q), (-P, -Q), (1, 1), (ONE_MODULO_4, Q)],
    ids=["one prime", "too close", "composite", "small", "zero", "negative", "one", "1 modulo 4"],
)
def test_what_makes_no_key_is_refused(p: int, q: int) -> None:
    with pytest.raises(ParameterError):
        SecretKey(p, q)


def test_keys_from_elsewhere_need_full_obfuscators() -> None:
    secret = SecretKey(ONE_MODULO_4, Q, obfuscation="full")
    assert opened(sealed(11, pool=Pool(secret.public)), secret) == [11]
    assert SecretKey.from_bytes(secret.to_bytes()).public.obfuscation == "full"


def test_a_secret_key_stays_where_it_is() -> None:
    for leave in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(UsageError):
            leave(SECRET)
        with pytest.raises(UsageError):
            leave(POOL)
    shown = repr(SECRET) + repr(POOL) + repr(KEY)
    for prime in (P, Q):
        assert str(prime) not in shown
        assert f"{prime:x}" not in shown


def test_a_secret_key_is_refused_where_a_public_one_belongs() -> None:
    with pytest.raises(MalformedMessage, match="secret"):
        PublicKey.from_bytes(SECRET.to_bytes())
    with pytest.raises(MalformedMessage):
        SecretKey.from_bytes(KEY.to_bytes())


# --- the pool -----------------------------------------------------------------------------------------------


def test_a_pool_hands_out_what_it_was_filled_with_and_then_makes_more() -> None:
    pool = Pool(KEY, random=stream("filled"))
    pool.fill(5, threads=1)
    assert len(pool) == 5
    taken = [pool.take() for _ in range(7)]
    assert len(set(taken)) == 7
    assert len(pool) == 0
    assert opened(b"".join(one.to_bytes(KEY.ciphertext_size, "big") for one in taken)) == [0] * 7


def test_a_pool_fills_beside_other_work_and_stops_with_it() -> None:
    pool, before = Pool(KEY), set(threading.enumerate())
    with pool.filling(10**6):
        while len(pool) < 3:
            os.sched_yield()
    after = len(pool)
    assert 3 <= after < 10**6
    assert set(threading.enumerate()) <= before


def test_many_threads_share_no_obfuscator() -> None:
    pool = Pool(KEY)
    pool.fill(60, threads=3)
    taken: list[mpz] = []
    threads = [
        threading.Thread(target=lambda: taken.extend(pool.take() for _ in range(25))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(taken)) == 100


# --- borders ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        lambda key: b"",
        lambda key: key.to_bytes()[:-1],
        lambda key: key.to_bytes() + b"\0",
        lambda key: key.to_bytes().replace(b"public 1", b"public 2"),
        lambda key: key.to_bytes()[:-1] + b"\0",
        lambda key: b"secagg paillier public 1\n\2" + key.to_bytes()[26:],
        lambda key: b"secagg paillier public 1\n\0" + b"\xff" * 100_000,
    ],
)
def test_what_is_no_public_key_is_malformed(bad: Callable[[PublicKey], bytes]) -> None:
    with pytest.raises(MalformedMessage):
        PublicKey.from_bytes(bad(KEY))


@pytest.mark.parametrize("cut", [0, 1, 20, 100, -1])
def test_what_is_no_secret_key_is_malformed(cut: int) -> None:
    with pytest.raises(MalformedMessage):
        SecretKey.from_bytes(SECRET.to_bytes()[:cut])


def test_a_vector_of_another_length_is_not_added() -> None:
    for vector in ([sealed(1)], [sealed(1, 2, 3)], [sealed(1), sealed(2), sealed(3)], [sealed(1, 2)[:-1]]):
        with pytest.raises(MalformedMessage):
            Total(KEY, 2).add(vector)


def test_a_sum_of_nothing_is_not_sent() -> None:
    with pytest.raises(UsageError):
        Total(KEY, 1).ciphertexts()


def test_every_plaintext_below_the_largest_power_of_two_below_n_is_encrypted_and_none_above() -> None:
    size, limit = KEY.bits // 8, 2**KEY.plaintext_bits

    def row(plaintext: bytes) -> Any:
        return np.frombuffer(plaintext, np.uint8).reshape(1, -1)

    largest = read(b"".join(encrypt(row((limit - 1).to_bytes(size, "little")), POOL)), KEY)
    assert int.from_bytes(SECRET.open(largest, size=size).tobytes(), "little") == limit - 1
    for plaintext in limit.to_bytes(size, "little"), bytes(size + 1):
        with pytest.raises(UsageError):
            list(encrypt(row(plaintext), POOL))


def test_what_is_raised_to_a_secret_power_is_another_number_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raised: list[int] = []
    power, powers = gmpy2.powmod, gmpy2.powmod_base_list

    def watched(base: Any, exponent: Any, modulus: Any) -> mpz:
        raised.append(int(base))
        return power(base, exponent, modulus)

    def watched_list(bases: list[mpz], exponent: Any, modulus: Any) -> list[mpz]:
        raised.extend(map(int, bases))
        return powers(bases, exponent, modulus)

    (ciphertext,) = read(sealed(7), KEY)
    monkeypatch.setattr(gmpy2, "powmod", watched)
    monkeypatch.setattr(gmpy2, "powmod_base_list", watched_list)
    for _ in range(2):
        SECRET.open([ciphertext] * 3, size=1, threads=1)
    of_shares = len(raised)
    for _ in range(2):
        threshold_key()[1][0].decrypt([ciphertext % threshold_key()[0].public.n] * 3, threads=1)
    assert of_shares == 2 * (1 + 2 * 3)
    assert len(raised) == of_shares + 2 * (1 + 3)
    assert len(set(raised)) == len(raised)
    assert not {int(ciphertext % prime**2) for prime in (P, Q)} & set(raised)


def test_without_gmpy2_every_module_names_the_extra() -> None:
    modules = [module.name for module in pkgutil.iter_modules(secagg.paillier.__path__, "secagg.paillier.")]
    modules.remove("secagg.paillier.params")  # What a user asks for is known without it.
    code = (
        "import sys, importlib; sys.modules['gmpy2'] = None\n"
        "from secagg.errors import MissingExtra\n"
        f"for name in {modules}:\n"
        "    try: importlib.import_module(name)\n"
        "    except MissingExtra as missing: print(missing)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    told = "gmpy2 is not installed. Type: pip install 'secagg[paillier]'\n"
    assert done.stdout == told * len(modules), done.stderr
