"""A Paillier key that t silos open together: exact sums, proofs that name who is wrong, nothing for fewer."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

import gmpy2
import numpy as np
import pytest
from gmpy2 import mpz
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.errors import MalformedMessage, ParameterError, RoundAborted, UsageError
from secagg.packing import Packing
from secagg.paillier.ciphertexts import Total, encrypt, read
from secagg.paillier.obfuscators import Pool
from secagg.paillier.public import PublicKey
from secagg.paillier.secret import SecretKey
from secagg.paillier.shares import KeyShare, deal, deal_from, safe_prime
from secagg.paillier.threshold import Proof, ThresholdKey
from tests.counts import count
from tests.paillier_keys import SAFE_P, SAFE_Q, secret_key, stream, threshold_key

KEY, SHARES = threshold_key()
POOL = Pool(KEY.public, random=stream("threshold pool"))
SIZE = (KEY.public.bits - 1) // 8
CONTEXT = b"round id"
PLAINTEXTS = [0, 1, 2 ** (8 * SIZE) - 1]


def sealed(*plaintexts: int) -> list[mpz]:
    data = b"".join(plaintext.to_bytes(SIZE, "little") for plaintext in plaintexts)
    rows = np.frombuffer(data, np.uint8).reshape(-1, SIZE)
    return read(b"".join(encrypt(rows, POOL)), KEY.public)


def numbers(rows: Any) -> list[int]:
    return [int.from_bytes(row.tobytes(), "little") for row in rows]


@dataclass(frozen=True)
class Opening:
    """Three ciphertexts, and what every party makes of them."""

    ciphertexts: list[mpz]
    partials: dict[int, list[mpz]]
    proofs: dict[int, Proof]


@cache
def opening() -> Opening:
    ciphertexts = sealed(*PLAINTEXTS)
    partials = {share.party: share.decrypt(ciphertexts) for share in SHARES}
    proofs = {
        share.party: share.prove(ciphertexts, partials[share.party], context=CONTEXT) for share in SHARES
    }
    return Opening(ciphertexts, partials, proofs)


# --- opening ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parties", [*combinations(range(1, 6), 4)])
def test_any_four_of_five_open(parties: tuple[int, ...]) -> None:
    opened = KEY.open({party: opening().partials[party] for party in parties}, size=SIZE)
    assert numbers(opened) == PLAINTEXTS


@pytest.mark.parametrize(("n", "t"), [(2, 1), (2, 2), (3, 2), (7, 5), (10, 7), (16, 11)])
@settings(max_examples=count(reduced=2, full=20), deadline=None)
@given(data=st.data())
def test_any_t_of_n_open(n: int, t: int, data: st.DataObject) -> None:
    key, shares = threshold_key(n, t)
    chosen = data.draw(st.lists(st.sampled_from(shares), min_size=t, max_size=n, unique=True))
    plaintext = data.draw(st.integers(0, 2 ** (8 * SIZE) - 1))
    ciphertexts = sealed(plaintext)  # The modulus is the same for all of these keys.
    opened = key.open({share.party: share.decrypt(ciphertexts) for share in chosen}, size=SIZE)
    assert numbers(opened) == [plaintext]


def test_packed_sums_are_opened_exactly() -> None:
    packing = Packing(32, 5, KEY.public.plaintext_bits)
    # What is encrypted, not what encrypts.
    vectors = np.random.default_rng(0).integers(-packing.bias, packing.bias, (5, packing.entries + 1))
    checks = np.array([7, -7])
    total = Total(KEY.public, 2)
    for vector in vectors.astype(np.int32).view(np.uint32):
        total.add(encrypt(packing.pack(vector, checks), POOL))
    summed = read(total.ciphertexts()[:], KEY.public)
    partials = {share.party: share.decrypt(summed, threads=2) for share in SHARES[1:]}
    rows = KEY.open(partials, size=packing.row_bytes)
    opened = packing.unpack(rows, checks, length=packing.entries + 1, silos=5)
    assert opened.view(np.int32).tolist() == vectors.sum(axis=0).tolist()


def test_the_whole_key_opens_the_same() -> None:
    whole = SecretKey(SAFE_P, SAFE_Q)
    assert whole.public == KEY.public
    assert numbers(whole.open(opening().ciphertexts, size=SIZE)) == PLAINTEXTS


def test_decrypting_tells_how_far_it_is() -> None:
    told: list[int] = []
    assert SHARES[0].decrypt(opening().ciphertexts, threads=1, progress=told.append) == opening().partials[1]
    assert told == [1] * len(opening().ciphertexts)


def test_three_of_four_needed_open_nothing() -> None:
    with pytest.raises(UsageError):
        KEY.open({party: opening().partials[party] for party in (1, 2, 3)}, size=SIZE)
    # Nor do they if they put anything into the place of the fourth.
    made = opening()
    three = {party: made.partials[party] for party in (1, 2, 3)}
    for forged in (made.partials[3], made.ciphertexts, [mpz(2)] * 3, [KEY.generator] * 3):
        with pytest.raises(RoundAborted):
            KEY.open({**three, 4: forged}, size=SIZE)


def test_partials_of_other_counts_are_not_combined() -> None:
    with pytest.raises(UsageError):
        KEY.open({**opening().partials, 2: opening().partials[2][:-1]}, size=SIZE)


def test_what_does_not_fit_is_no_sum() -> None:
    with pytest.raises(RoundAborted):
        KEY.open(opening().partials, size=1)


# --- proofs -------------------------------------------------------------------------------------------------


def holds(
    party: int = 1,
    *,
    ciphertexts: list[mpz] | None = None,
    partials: list[mpz] | None = None,
    proof: Proof | None = None,
    context: bytes = CONTEXT,
) -> bool:
    """Check the first party's proof, or something else in the place of a part of it."""
    made = opening()
    return KEY.check(
        party,
        made.ciphertexts if ciphertexts is None else ciphertexts,
        made.partials[1] if partials is None else partials,
        made.proofs[1] if proof is None else proof,
        context=context,
    )


@pytest.mark.parametrize("party", range(1, 6))
def test_an_honest_proof_holds(party: int) -> None:
    assert holds(party, partials=opening().partials[party], proof=opening().proofs[party])


def wrong_at(at: int, change: Callable[[mpz], Any]) -> list[mpz]:
    changed = list(opening().partials[1])
    changed[at] = mpz(change(changed[at]))
    return changed


def wrong_proof(challenge: Callable[[int], int], response: Callable[[int], int]) -> Proof:
    proof = opening().proofs[1]
    return Proof(challenge(proof.challenge), response(proof.response))


N, N2 = KEY.public.n, KEY.public.n_squared


def same(number: int) -> int:
    return number


@pytest.mark.parametrize(
    "changes",
    [
        lambda _: {"party": 2},
        lambda _: {"party": 0},
        lambda _: {"party": 6},
        lambda _: {"context": b"another round"},
        lambda made: {"partials": made.partials[2]},
        lambda made: {"partials": made.partials[1][:-1]},
        lambda _: {"partials": [], "ciphertexts": []},
        lambda made: {"partials": made.partials[1][::-1]},
        lambda made: {"ciphertexts": made.ciphertexts[::-1]},
        lambda _: {"ciphertexts": sealed(0, 1, 2)},
        lambda _: {"partials": wrong_at(0, lambda _: 0)},
        lambda _: {"partials": wrong_at(0, lambda _: 1)},
        lambda _: {"partials": wrong_at(1, lambda _: N)},
        lambda _: {"partials": wrong_at(2, lambda partial: N2 + partial)},
        lambda _: {"partials": wrong_at(1, lambda partial: partial * (1 + N) % N2)},
        lambda _: {"partials": wrong_at(1, lambda partial: partial * partial % N2)},
        lambda made: {"proof": made.proofs[2]},
        lambda _: {"proof": wrong_proof(same, lambda response: response + 1)},
        lambda _: {"proof": wrong_proof(same, lambda response: -response)},
        lambda _: {"proof": wrong_proof(same, lambda response: response << KEY.response_bits)},
        lambda _: {"proof": wrong_proof(lambda challenge: challenge ^ 1, same)},
        lambda _: {"proof": wrong_proof(lambda _: -1, same)},
        lambda _: {"proof": wrong_proof(lambda challenge: challenge + (1 << 256), same)},
        lambda _: {"proof": Proof(0, 0)},
    ],
    ids=range(24),
)
def test_another_proof_does_not(changes: Callable[[Opening], dict[str, Any]]) -> None:
    assert not holds(**changes(opening()))


@settings(max_examples=count(reduced=10, full=200), deadline=None)
@given(st.integers(0, 2), st.integers(0, 2), st.integers(1, 2**64))
def test_two_wrongs_do_not_make_up_for_each_other(one: int, other: int, power: int) -> None:
    """Attack: multiply one partial by what another is divided by; their plain product is unchanged."""
    factor = gmpy2.powmod(1 + N, power, N2)
    changed = list(opening().partials[1])
    changed[one] = changed[one] * factor % N2
    if other != one:
        changed[other] = changed[other] * gmpy2.invert(factor, N2) % N2
    assert not holds(partials=changed, proof=SHARES[0].prove(opening().ciphertexts, changed, context=CONTEXT))


def test_a_negated_partial_passes_and_opens_the_same() -> None:
    """A proof is about squares, and opening squares: a sign means nothing."""
    made, changed = opening(), wrong_at(0, lambda partial: N2 - partial)
    assert holds(partials=changed, proof=SHARES[0].prove(made.ciphertexts, changed, context=CONTEXT))
    assert numbers(KEY.open({**made.partials, 1: changed}, size=SIZE)) == PLAINTEXTS


def test_two_proofs_of_one_thing_are_different() -> None:
    again = SHARES[0].prove(opening().ciphertexts, opening().partials[1], context=CONTEXT)
    assert again != opening().proofs[1]
    assert holds(proof=again)


# --- keys and shares ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [64, 257, 512])
def test_a_safe_prime_is_one(bits: int) -> None:
    found = safe_prime(bits)
    assert found.bit_length() == bits
    assert found >> bits - 2 == 3
    assert gmpy2.is_prime(found)
    assert gmpy2.is_prime((found - 1) // 2)


def test_a_safe_prime_is_not_small() -> None:
    with pytest.raises(ParameterError):
        safe_prime(63)


def test_a_key_is_dealt_from_nothing() -> None:
    with pytest.warns(UserWarning, match="less than 128 bits of security: take 3072") as caught:
        key, shares = deal(parties=3, threshold=2, bits=2048)
    assert [warning.filename for warning in caught] == [__file__]
    pool = Pool(key.public)
    ciphertexts = read(next(encrypt(np.full((1, 4), 7, np.uint8), pool)), key.public)
    opened = key.open({share.party: share.decrypt(ciphertexts) for share in shares[1:]}, size=4)
    assert opened.tolist() == [[7] * 4]


def test_keys_and_shares_survive_their_bytes() -> None:
    key = ThresholdKey.from_bytes(KEY.to_bytes())
    assert key.id == KEY.id
    share = KeyShare.from_bytes(SHARES[2].to_bytes(), key)
    assert share.party == 3
    assert share.decrypt(opening().ciphertexts) == opening().partials[3]


def test_a_share_stays_where_it_is() -> None:
    share = SHARES[0]
    for leave in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(UsageError):
            leave(share)
    secret = int.from_bytes(share.to_bytes()[27:], "big")
    assert str(secret)[:20] not in repr(share)
    with pytest.raises(MalformedMessage, match="secret"):
        PublicKey.from_bytes(share.to_bytes())


@pytest.mark.parametrize(
    ("p", "q"),
    [(SAFE_P, SAFE_P), (SAFE_P, 23), (SAFE_P, SAFE_Q + 2), (SAFE_P, 4 * SAFE_Q + 3), (0, 0)],
    ids=["one prime", "small", "composite", "longer", "zero"],
)
def test_what_is_no_pair_of_safe_primes_is_refused(p: int, q: int) -> None:
    with pytest.raises(ParameterError):
        deal_from(p, q, parties=3, threshold=2)


def test_primes_that_are_not_safe_are_refused() -> None:
    p, q = secret_key().primes()
    with pytest.raises(ParameterError):
        deal_from(p, q, parties=3, threshold=2)


@pytest.mark.parametrize(("n", "t"), [(1, 1), (3, 0), (3, 4), (65, 2), (0, 0)])
def test_other_thresholds_are_refused(n: int, t: int) -> None:
    with pytest.raises(ParameterError):
        deal_from(SAFE_P, SAFE_Q, parties=n, threshold=t)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: bytes([data[0] + 1]) + data[1:],
        lambda data: data[:1] + b"\0" + data[2:],
        lambda data: data[:2] + b"\0\0" + data[4:],
        lambda data: data[: -KEY.public.ciphertext_size] + bytes(KEY.public.ciphertext_size),
    ],
)
def test_what_is_no_threshold_key_is_malformed(change: Any) -> None:
    with pytest.raises(MalformedMessage):
        ThresholdKey.from_bytes(change(KEY.to_bytes()))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: data[:27],
        lambda data: data[:-1],
        lambda data: data[:26] + b"\2" + data[27:],
        lambda data: data[:26] + b"\6" + data[27:],
        lambda data: data[:27] + bytes(20),
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data + bytes(10_000),
    ],
)
def test_what_is_no_share_is_malformed(change: Any) -> None:
    with pytest.raises(MalformedMessage):
        KeyShare.from_bytes(change(SHARES[0].to_bytes()), KEY)


ORDER = mpz(SAFE_P >> 1) * mpz(SAFE_Q >> 1)


@pytest.mark.parametrize("more", [0, 1, 64, 256, 262, 300, 4000])
def test_a_share_that_no_proof_has_room_for_is_malformed(more: int) -> None:
    """The maker may hand out a share and a multiple of the order: it opens, and its proof is refused."""
    share = SHARES[1]._share + (KEY.public.n * ORDER << more)
    data = SHARES[1].to_bytes()[:27] + share.to_bytes((share.bit_length() + 7) // 8, "big")
    with pytest.raises(MalformedMessage, match="no share of this threshold key"):
        KeyShare.from_bytes(data, KEY)


def test_the_largest_share_that_is_taken_has_proofs_that_fit() -> None:
    largest = KEY.public.n_squared >> 2
    assert all(0 < share._share < KEY.public.n * ORDER < largest for share in SHARES)
    exponent = KEY.delta * largest
    # The blinding is one bit shorter than a response, and what it blinds is 2^256 times shorter.
    assert (2**256 * exponent).bit_length() + 256 < KEY.response_bits
