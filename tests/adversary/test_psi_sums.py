"""Attack ``psi_sums``: find out which records are in a sum, or what one of them is worth.

The holder knows the obfuscator of every ciphertext that it sent; if that of the sum is a product of some of
them, it knows of which. Or it plants a trace in each under a modulus that lets it through, or sends no
ciphertext for one record and sees whether the matcher stops. The matcher takes evaluated points for those at
the same places of its query. A sum over one record is that record's value. What only the matcher is to learn,
the holder opens. And whoever carries the messages counts bytes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from secagg.errors import FaultySilo, MalformedMessage, PolicyRefused
from secagg.messages import Part
from secagg.names import RandomSource
from secagg.paillier.gmp import gmpy2, mpz
from secagg.paillier.public import PublicKey
from secagg.payload import Payload
from secagg.psi.terms import IntersectionPolicy
from secagg.shared_sums.messages import Added, Encrypted, Opened
from secagg.shared_sums.terms import Learns, SumPolicy
from tests.paillier_keys import PLANTED, SMALL, secret_key
from tests.shared_sums.parties import LOOSE, Sum, run

KEY = secret_key().public
HELD = list(range(10))
SHARED = {2, 3, 7}
VALUES = [(1000 + each,) for each in HELD]
LEARNS: list[Learns] = ["matcher", "holder", "both"]


def numbers(payload: Any) -> list[mpz]:
    data, size = bytes(payload.buffer()[:]), KEY.ciphertext_size
    return [mpz(int.from_bytes(data[at : at + size], "big")) for at in range(0, len(data), size)]


def found_by_the_holder(learns: Learns) -> set[int]:
    """Return which records the holder finds in the sum, by the obfuscators of what it sent."""
    found = run([*SHARED, *range(100, 140)], HELD, VALUES, largest=2000, learns=learns)
    (sent,) = [numbers(each.ciphertexts) for _, each, _ in found.said if isinstance(each, Encrypted)]
    ((total,),) = [numbers(each.ciphertexts) for _, each, _ in found.said if isinstance(each, Added)]
    # It knows of which record each is; modulo n nothing but the obfuscator is left.
    values = [int.from_bytes(row.tobytes(), "little") for row in secret_key().open(sent, size=256)]
    blinds = {value - 1000: each % KEY.n for value, each in zip(values, sent, strict=True)}
    for some in itertools.combinations(HELD, len(SHARED)):
        if math.prod((blinds[each] for each in some), start=mpz(1)) % KEY.n == total % KEY.n:
            return set(some)
    return set()


def spoiled(planted: Callable[[int], mpz | None], key: PublicKey) -> list[mpz]:
    """Return the sum that the matcher sends where it alone is to learn it; none if it stops before.

    Args:
        planted: what is sent in the place of a record's ciphertext, by its index; padding is beyond ``HELD``.
            None: the ciphertext.
        key: that is sent with it.
    """
    found = Sum()

    def change(message: Part) -> Part:
        if not isinstance(message, Encrypted):
            return message
        sent = numbers(message.ciphertexts)
        for place, at in enumerate(found.knew["bank"]["places"].tolist()):
            instead = planted(at)
            sent[place] = sent[place] if instead is None else instead
        data = b"".join(each.to_bytes(key.ciphertext_size, "big") for each in sent)
        return Encrypted(key.to_bytes(), message.roots, Payload.of(np.frombuffer(data, np.uint8)))

    with suppress(FaultySilo, MalformedMessage):  # The matcher sees it, or the holder cannot open what comes.
        asked = [*SHARED, *range(100, 140)]
        run(asked, HELD, VALUES, learns="matcher", largest=2000, change=change, into=found)
    said = (each for _, each, _ in found.said if isinstance(each, Added))
    return [total for each in said for total in numbers(each.ciphertexts)]


def found_by_a_planted_modulus() -> set[int]:
    """Return which records the holder finds in the sum by a trace in each."""
    key = PublicKey(SMALL * PLANTED)
    blind = gmpy2.powmod(7, key.n, key.n_squared)
    trace = next(mpz(each) for each in itertools.count(2) if traced(mpz(each)) != 1)
    sums = spoiled(lambda at: blind * (trace ** (1 << at) if at < len(HELD) else 1) % key.n_squared, key)
    if not sums:
        return set()
    left, seen = traced(trace), traced(sums[0])
    (which,) = [some for some in range(1 << len(HELD)) if gmpy2.powmod(left, some, PLANTED) == seen]
    return {HELD[at] for at in range(len(HELD)) if which >> at & 1}


def traced(number: mpz) -> mpz:
    """Return what no n-th power changes."""
    return gmpy2.powmod(number, (PLANTED - 1) // SMALL, PLANTED)


def found_by_what_fails() -> set[int]:
    """Return which of two records the holder takes for shared: the matcher stops if it is no ciphertext."""

    def stops(which: int) -> bool:
        return not spoiled(lambda at: mpz(0) if at == which else None, KEY)

    shared, another = min(SHARED), min(set(HELD) - SHARED)
    return {shared} if stops(shared) and not stops(another) else set()


def found_by_the_matcher() -> set[int]:
    """Return which of its records the matcher takes for shared, by where evaluated points stand."""
    mine, theirs = list(range(1000, 1100)), list(range(1050, 1150))
    knew = run(mine, theirs, [(1,)] * 100).knew["shop"]
    places = {each: at for at, each in enumerate(knew["identifiers"].encoded)}
    matches = np.isin(knew["mine"], knew["theirs"])
    return {
        places[each] for each, match in zip(knew["asked"], matches, strict=True) if match and each in places
    }


def left_for_one_record(whose: int) -> set[type]:
    """Return what is said where one record is shared and one party has limits."""
    policies = (SumPolicy(), LOOSE) if whose == 0 else (LOOSE, SumPolicy())
    found = Sum()
    with suppress(PolicyRefused):
        run([2, *range(100, 140)], HELD, VALUES, largest=2000, policies=policies, into=found)
    return {type(each) for _, each, _ in found.said}


def opened_for_the_matcher() -> list[int]:
    """Return what the holder sees of sums that it is not to learn."""
    found = run(HELD, HELD, VALUES, largest=2000, learns="matcher")
    (opened,) = [each for _, each, _ in found.said if isinstance(each, Opened)]
    return [int.from_bytes(bytes(opened.plaintexts.buffer()[:]), "little")]


def sizes(mine: Sequence[int], theirs: Sequence[int], learns: Learns) -> list[tuple[str, int]]:
    said = run(mine, theirs, [(each,) for each in theirs], learns=learns).said
    return [(type(message).__name__, size) for _, message, size in said]


def test_psi_sums() -> None:
    for learns in LEARNS:
        assert found_by_the_holder(learns) != SHARED, "the holder finds which records are in the sum"
        # One bucket, and sums and counts that are written in more bytes where they may be short.
        pairs = [(range(70), range(70)), (range(68), range(65, 137))]
        views = [sizes(*pair, learns) for pair in pairs]
        assert views == views[:1] * len(views), "sizes tell two pairs of sets from each other"
    assert found_by_a_planted_modulus() != SHARED, "a planted modulus tells which records are in the sum"
    assert not found_by_what_fails(), "what fails tells whether a record is in the sum"
    # By chance half of those that it takes for shared are.
    assert len(found_by_the_matcher() & set(range(50, 100))) < 42, "the matcher finds which are shared"
    assert Added not in left_for_one_record(0), "the holder opens the value of one record"
    assert Opened not in left_for_one_record(1), "the matcher is told the value of one record"
    (opened,) = opened_for_the_matcher()
    assert opened.bit_length() > KEY.bits - 100, "the holder learns sums that it is not to learn"


def not_anew(sums: Sequence[mpz], masks: Sequence[mpz], key: PublicKey, _random: RandomSource) -> bytes:
    """Add the mask, and no obfuscator."""
    each = zip(sums, masks, strict=True)
    return b"".join(
        (total * (mask * key.n + 1) % key.n_squared).to_bytes(key.ciphertext_size, "big")
        for total, mask in each
    )


def as_they_stand(size: int, _random: RandomSource) -> np.ndarray[Any, Any]:
    return np.arange(size)


def no_limit(_self: IntersectionPolicy, *_: object) -> None:
    return None


def nothing(_key: PublicKey, _random: RandomSource) -> mpz:
    return mpz(0)


def unchecked(_key: PublicKey, _proof: bytes, *, context: bytes) -> None:
    return None


def unseen(_ciphertexts: object, _key: PublicKey) -> None:
    return None


def bare(size: int) -> int:
    return size


@pytest.mark.parametrize(
    ("defences", "instead", "found"),
    [
        (["secagg.shared_sums.matcher.encrypted_anew"], not_anew, "finds which records are in the sum"),
        (["secagg.shared_sums.matcher.check_permutation"], unchecked, "a planted modulus tells which"),
        (["secagg.shared_sums.matcher.check_ciphertexts"], unseen, "what fails tells"),
        (["secagg.shared_sums.holder.random_order"], as_they_stand, "the matcher finds which"),
        (["secagg.psi.terms.IntersectionPolicy.check_shared"], no_limit, "the value of one record"),
        (["secagg.shared_sums.matcher._uniform"], nothing, "sums that it is not to learn"),
        # What one party does not pad the other refuses, so neither does and neither looks.
        (["secagg.psi.sets.padded", "secagg.psi.tags.padded"], bare, "sizes tell"),
    ],
)
def test_psi_sums_mutant(
    monkeypatch: pytest.MonkeyPatch, defences: list[str], instead: object, found: str
) -> None:
    for defence in defences:
        monkeypatch.setattr(defence, instead)
    with pytest.raises(AssertionError, match=found):
        test_psi_sums()
