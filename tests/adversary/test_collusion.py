"""Attack ``collusion``: put together all that the coordinator ever had and all that c silos hold.

The coordinator kept every message. East, whom it colludes with, gives it its share of the key, its session's
private key and what it was sent. From that it tries to open every sum of uploads there is, the single ones
first. It must find the sum of all of them, which east is told anyway, and no other; without east, nothing.
Before that it tries to have a key made that fewer silos open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any

import pytest

from secagg.errors import PolicyRefused, RoundAborted, UsageError
from secagg.hazmat.agreement import AgreementKey
from secagg.keys.holder import KeyHolder
from secagg.keys.secret import MadeKey
from secagg.messages import KeyRequested
from secagg.names import SiloId
from secagg.packing import Packing
from secagg.paillier.gmp import mpz
from secagg.paillier.shares import deal_from
from secagg.policy import Policy
from tests.adversary.shared_opening import COLLUDER, N, SharedOpening
from tests.paillier_keys import SAFE_P, SAFE_Q

HONEST: tuple[SiloId, ...] = ("north", "south", "west")
C = 1


def subsets() -> Iterator[tuple[SiloId, ...]]:
    names = (*HONEST, COLLUDER)
    for size in range(1, N + 1):
        yield from combinations(names, size)


def exposed(here: SharedOpening, *, alone: bool) -> list[tuple[SiloId, ...]]:
    """Attack: return the sets of silos whose sum is read.

    Args:
        here: after every honest silo gave its part of the sum.
        alone: without the colluder: then with what the coordinator stored.
    """
    box: AgreementKey | None = None if alone else here.box
    given = here.parts(here.requested, HONEST)
    slots = {silo: here.federation.roster.slot(silo) + 1 for silo in (*HONEST, COLLUDER)}
    recorded: dict[int, list[mpz]] = {}
    for silo, part in given.items():
        numbers = here.numbers(silo, part, box)
        if numbers is not None:
            recorded[slots[silo]] = numbers
    found = []
    for silos in subsets():
        own = {}
        if not alone:
            own[slots[COLLUDER]] = here.ciphers[COLLUDER]._share.decrypt(here.ciphertexts(silos))
        # With nothing else, and with what was recorded of another sum.
        if any(reads(here, silos, own | more) for more in ({}, recorded)):
            found.append(silos)
    return found


def reads(here: SharedOpening, silos: tuple[SiloId, ...], partials: Mapping[int, list[mpz]]) -> bool:
    packing: Packing = here.adder.packing
    try:
        rows = here.key.open(partials, size=packing.row_bytes)
        checks = here.adder.checks(here.requested.round_id)
        total = packing.unpack(rows, checks, length=here.adder.length, silos=len(silos))
    except (RoundAborted, UsageError):
        return False
    return bool(total[:-1].tolist() == here.federation.sum_of(silos))


def test_collusion() -> None:
    everybody = (*HONEST, COLLUDER)
    assert exposed(SharedOpening(), alone=False) == [everybody], "a sum of fewer silos was read"
    assert exposed(SharedOpening(), alone=True) == [], "the coordinator alone read a sum"
    assert not weak_key_made(), "silos make a key that the colluders open by themselves"


def weak_key_made() -> bool:
    """Attack: ask for a key that c silos open; return whether an honest silo takes part."""
    here = SharedOpening()
    roster = here.federation.roster
    requested = KeyRequested(
        "f", roster.digest, "threshold-paillier", 2048, C, "north", bytes(32), 3600, None
    )

    def make(*_: object, **named: Any) -> MadeKey:
        key, shares = deal_from(SAFE_P, SAFE_Q, parties=N, threshold=named["threshold"])
        return MadeKey(key.id, key.to_bytes(), tuple(share.to_bytes() for share in shares))

    holder = KeyHolder(
        "north",
        identity=here.federation.identities["north"],
        roster=roster,
        policy=Policy(schemes=frozenset({"threshold-paillier"})),
        clock=lambda: 0,
        make=make,
    )
    try:
        holder.receive(requested)
    except PolicyRefused:
        return False
    return True


def in_clear(key: bytes, plaintext: bytes, *, associated: bytes = b"") -> bytes:
    return plaintext + bytes(16)


@pytest.mark.parametrize(
    ("defence", "mutant", "broken"),
    [
        ("secagg.encrypted.silo.seal", in_clear, "the coordinator alone read a sum"),
        ("secagg.policy.Policy.check_key", lambda *_, **__: None, "the colluders open by themselves"),
    ],
)
def test_collusion_mutant(
    monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Callable[..., Any], broken: str
) -> None:
    monkeypatch.setattr(defence, mutant)
    if mutant is in_clear:
        monkeypatch.setattr("tests.adversary.shared_opening.unseal", lambda _key, box: box[:-16])
    with pytest.raises(AssertionError, match=broken):
        test_collusion()
