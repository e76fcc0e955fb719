"""A party of a sum that leaves the protocol is named; sizes and reprs show nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from secagg.errors import FaultySilo, ParameterError, PolicyRefused, UsageError
from secagg.messages import Part
from secagg.paillier.public import PublicKey
from secagg.payload import Payload
from secagg.psi.identifiers import read_identifiers
from secagg.psi.messages import Evaluated, Query, Tags
from secagg.shared_sums.holder import holder
from secagg.shared_sums.messages import Added, Encrypted, Opened
from secagg.shared_sums.terms import SumPolicy, SumTerms
from tests.paillier_keys import secret_key
from tests.shared_sums.parties import LOOSE, ONE_CORE, Sum, run

IDS = list(range(20))
VALUES = [(each,) for each in IDS]
KEY = secret_key().public


def u1(data: bytes) -> Payload:
    return Payload.of(np.frombuffer(data, np.uint8))


def changed(kind: type[Part], **fields: Callable[[Any], Any]) -> Callable[[Part], Part]:
    """Change fields of one kind of message."""

    def change(message: Part) -> Part:
        if not isinstance(message, kind):
            return message
        return msgspec.structs.replace(
            message, **{name: new(getattr(message, name)) for name, new in fields.items()}
        )

    return change


def payload(new: Callable[[bytes], bytes]) -> Callable[[Payload], Payload]:
    return lambda old: u1(new(bytes(old.buffer()[:])))


def encryption(value: int) -> bytes:
    """An encryption of ``value``, of no account otherwise."""
    blind = pow(12345, int(KEY.n), int(KEY.n_squared))
    return int((1 + value * KEY.n) * blind % KEY.n_squared).to_bytes(KEY.ciphertext_size, "big")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (changed(Evaluated, points=payload(lambda data: data[32:])), "bank: it evaluated another number"),
        (changed(Tags, tags=payload(lambda data: data[::-1])), "bank: its tags are not in ascending order"),
        (
            changed(Encrypted, ciphertexts=payload(lambda data: data[512:])),
            "bank: it encrypted values of another",
        ),
        (changed(Encrypted, ciphertexts=payload(lambda data: bytes(len(data)))), "bank: .* no ciphertext"),
        (changed(Encrypted, key=lambda _: b"no key"), "bank: the bytes are no public Paillier key"),
        (
            changed(Encrypted, key=lambda _: secret_key().to_bytes()),
            "bank: a secret Paillier key was sent where the public half belongs",
        ),
        (
            changed(Encrypted, key=lambda _: PublicKey(KEY.n * 65537).to_bytes()),
            "bank: its key has .* bits, 2048 were agreed",
        ),
        (changed(Encrypted, roots=lambda old: old[:-1]), "bank: the proof that its modulus .* another size"),
        (changed(Encrypted, roots=lambda old: bytes(len(old))), "bank: the proof .* does not hold"),
        (changed(Opened, plaintexts=payload(lambda data: data[1:])), "bank: it opened another number"),
        (changed(Opened, plaintexts=payload(lambda data: b"\xff" * len(data))), "bank: .* is no sum of"),
        (changed(Query, terms=lambda _: bytes(32)), "shop: it agreed on another session"),
        (changed(Query, points=payload(lambda data: data[32:])), "shop: its query is not of whole points"),
        (changed(Added, count=lambda _: (21).to_bytes(4, "little")), "shop: it counted more than there are"),
        (
            changed(Added, ciphertexts=payload(lambda data: data * 2)),
            "shop: it added another number of values",
        ),
        (changed(Added, ciphertexts=payload(lambda data: bytes(len(data)))), "shop: .* no ciphertext"),
        (changed(Added, ciphertexts=payload(lambda _: encryption(20_001))), "shop: .* no sum of so many"),
        (changed(Added, ciphertexts=payload(lambda _: encryption(2**100))), "shop: .* no sum of packed"),
    ],
)
def test_who_leaves_the_protocol_is_named(change: Callable[[Part], Part], text: str) -> None:
    with pytest.raises(FaultySilo, match=text):
        run(IDS, IDS, VALUES, change=change)


def test_parties_that_agreed_on_other_sums_do_not_begin() -> None:
    with pytest.raises(FaultySilo, match="shop: it agreed on another session"):
        run(IDS, IDS, VALUES, theirs_agreed={"learns": "holder"})


@pytest.mark.parametrize("whose", [0, 1])
@pytest.mark.parametrize(
    ("strict", "text"),
    [
        (SumPolicy(largest_set=100, smallest_intersection=21), "fewer than 21 records are shared"),
        (SumPolicy(largest_set=64, smallest_intersection=3), "brings .* records, padded; 64 are allowed"),
    ],
)
def test_each_party_has_limits_of_its_own(whose: int, strict: SumPolicy, text: str) -> None:
    mine, theirs = (IDS, range(100)) if whose == 0 else (range(100), IDS)
    values = [(1,)] * len(theirs)
    policies = (strict, LOOSE) if whose == 0 else (LOOSE, strict)
    found = Sum()
    with pytest.raises(PolicyRefused, match=text):
        run(mine, theirs, values, policies=policies, into=found)
    kinds = {type(message) for _, message, _ in found.said}
    assert Opened not in kinds
    assert (Added in kinds) == (whose == 1 and "fewer" in text)


def held(values: Sequence[tuple[int, ...]], bits: int = 2048) -> None:
    terms = SumTerms(session=bytes(32), matcher="shop", holder="bank", bits=bits)
    side = holder(terms, read_identifiers(IDS), values, secret_key(), policy=LOOSE, powers=ONE_CORE)
    next(side)


def test_a_holder_brings_what_the_terms_say(monkeypatch: pytest.MonkeyPatch) -> None:
    held(VALUES)
    with pytest.raises(UsageError, match="values of each identifier"):
        held(VALUES[1:])
    with pytest.raises(UsageError, match="a key of the agreed size"):
        held(VALUES, bits=3072)
    monkeypatch.setattr("secagg.shared_sums.holder.MAX_LENGTH", 64 * KEY.ciphertext_size - 1)
    with pytest.raises(ParameterError, match="64 records are more than one sum takes"):
        held(VALUES)


def test_nothing_that_is_said_shows_in_a_repr() -> None:
    for _, message, _ in run(IDS, IDS, VALUES).said:
        assert repr(message) == f"{type(message).__name__}()"


def test_the_same_values_are_never_encrypted_alike() -> None:
    said = [message for _ in range(2) for _, message, _ in run(IDS, IDS, [(7,)] * 20).said]
    vectors = [each.ciphertexts for each in said if isinstance(each, Encrypted | Added)]
    size = KEY.ciphertext_size
    found = [bytes(each.buffer()[at : at + size]) for each in vectors for at in range(0, each.size, size)]
    assert len(set(found)) == len(found) == 2 * (64 + 1)
