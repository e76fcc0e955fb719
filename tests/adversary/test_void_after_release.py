"""Attack ``void_after_release``: have a silo void what it released, or release what it voided.

Then a round can have t releases, which open it, and t voids, which lift its lock; the next set differs by the
victim. Silos are killed between the two, and at the writes in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from secagg import wire
from secagg.messages import FromCoordinator, FromSilo, Unmasking, UnmaskingRequested, Void, Voided
from secagg.names import SiloId
from secagg.records import Released, SetSigned, SiloRecord, VoidSigned
from secagg.survivors import LockRefused, Locks, sign_void
from tests.adversary.harness import Attempt, Federation, Liar, frozen, named
from tests.adversary.mutants import forgetful
from tests.counts import count

VICTIM, COLLUDER = "a", "e"
EVERYBODY, WITHOUT = "abcde", "bcde"


def restart(federation: Federation) -> None:
    for host in federation.silos.values():
        host.restart()


def attack(*, void_first: bool, restarts: bool) -> Federation:
    """Have a round released and voided, in either order; then ask for the sum without the victim."""
    federation = Federation(5, colluders=COLLUDER)
    liar, terms = Liar(federation), federation.terms()
    liar.train(terms)
    attempt = Attempt(liar, terms)
    attempt.until_masked()
    attempt.announce_survivors(EVERYBODY)
    voids: tuple[Void, ...] = ()
    if void_first:
        voids = liar.void([attempt.round_id()])
        if restarts:
            restart(federation)
    attempt.request(EVERYBODY)
    if restarts:
        restart(federation)
    voids += liar.void([attempt.round_id()])
    liar.train(terms)
    second = Attempt(liar, terms, 2, voids=voids)
    second.until_masked()
    second.finish(WITHOUT)
    return federation


def check(federation: Federation) -> None:
    recovered = federation.knowledge.vector_of(VICTIM)
    assert recovered is None or not np.array_equal(recovered, federation.vector(VICTIM)), (
        "the victim's vector"
    )
    for silo in federation.honest:
        records = federation.silos[silo].records
        released = {record.round_id for record in records if isinstance(record, Released)}
        voided = {record.round_id for record in records if isinstance(record, VoidSigned)}
        assert not released & voided
        assert all(isinstance(error, LockRefused) for error in federation.silos[silo].errors)
    assert len(federation.knowledge.exposures()) == 1
    assert not named(federation)


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("void_first", [False, True])
def test_void_after_release(void_first: bool, restarts: bool) -> None:
    federation = attack(void_first=void_first, restarts=restarts)
    check(federation)
    # Released first, the first sum is the one in clear; voided first, the second.
    [exposure] = federation.knowledge.exposures()
    assert (VICTIM in exposure.silos) == (not void_first)


def voids_anything(_self: Locks, round_ids: Iterable[bytes]) -> tuple[VoidSigned, ...]:
    return tuple(VoidSigned(round_id) for round_id in dict.fromkeys(round_ids))


@pytest.mark.parametrize(
    ("void_first", "restarts", "defence", "mutant"),
    [
        (False, False, "secagg.survivors.Locks.void", voids_anything),
        (False, True, "secagg.survivors.Locks.void", voids_anything),
        (True, False, "secagg.survivors.Locks._check_alive", lambda *_: None),
        (False, True, "secagg.survivors.Locks.__init__", forgetful),
    ],
)
def test_void_after_release_mutant(
    monkeypatch: pytest.MonkeyPatch,
    void_first: bool,
    restarts: bool,
    defence: str,
    mutant: Callable[..., Any],
) -> None:
    monkeypatch.setattr(defence, mutant)
    federation = attack(void_first=void_first, restarts=restarts)
    with pytest.raises(AssertionError, match="the victim's vector"):
        check(federation)


# --- random schedules ------------------------------------------------------------------------------------


class Schedule(Liar):
    """A round in which every silo is asked to sign, release and void in any order, and dies at any moment."""

    def __init__(self, n: int, seed: int) -> None:
        self.rng = np.random.default_rng([n, seed])
        names = [chr(ord("a") + slot) for slot in range(n)]
        c = max(1, (n - 1) // 3)
        super().__init__(
            Federation(n, colluders=[str(s) for s in self.rng.permutation(names)[:c]], seed=seed)
        )
        self.said: dict[type[FromSilo], set[SiloId]] = {Unmasking: set(), Voided: set()}

    def tell(self, silo: SiloId, message: FromCoordinator) -> FromSilo | None:
        if self.rng.random() < 0.1 and isinstance(message, UnmaskingRequested):
            self.federation.silos[silo].crash(frozen(wire.encode(message)), synced=int(self.rng.integers(2)))
            return None
        reply = super().tell(silo, message)
        if isinstance(reply, Unmasking) or (isinstance(reply, Voided) and reply.voids):
            self.said[type(reply)].add(silo)
        return reply

    def run(self) -> Attempt:
        terms = self.federation.terms()
        self.train(terms)
        attempt = Attempt(self, terms)
        attempt.until_masked()
        everybody = self.federation.roster.silos
        attempt.collude(everybody)
        steps: list[Callable[[SiloId], object]] = [
            lambda silo: self.void([attempt.round_id()], [silo]),
            lambda silo: attempt.request(everybody, to=[silo]),
            lambda silo: self.federation.silos[silo].restart(),
        ]
        for silo in everybody:
            if self.rng.random() < 0.1:
                self.void([attempt.round_id()], [silo])
            attempt.announce_survivors(everybody, to=[silo])
        for _ in range(3 * len(everybody)):
            step = steps[int(self.rng.choice(3, p=[0.35, 0.55, 0.1]))]
            step(str(self.rng.choice(everybody)))
        return attempt


def counted(schedule: Schedule) -> dict[type[FromSilo], int]:
    """How many released and how many voided, where every colluder does both."""
    schedule.run()
    colluders = schedule.federation.colluders
    return {kind: len(silos | colluders) for kind, silos in schedule.said.items()}


def void_then_more(records: list[SiloRecord]) -> None:
    """Complain if a round that was voided is signed or released later in a journal."""
    dead: set[bytes] = set()
    for record in records:
        if isinstance(record, VoidSigned):
            dead.add(record.round_id)
        elif isinstance(record, SetSigned | Released):
            assert record.round_id not in dead, f"{type(record).__name__} of a round that is void"


SEEDS = range(count(30, full=1000))


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_t_voids_and_t_releases_never_coexist(n: int) -> None:
    reached: dict[type[FromSilo], int] = {Unmasking: 0, Voided: 0}
    for seed in SEEDS:
        schedule = Schedule(n, seed)
        counts, threshold = counted(schedule), schedule.federation.cohort.t
        honest = frozenset(schedule.federation.honest)
        assert not schedule.said[Unmasking] & schedule.said[Voided] & honest, (
            f"both by one silo (seed {seed})"
        )
        assert min(counts.values()) < threshold, f"t of both (seed {seed})"
        for silo in honest:
            void_then_more(schedule.federation.silos[silo].records)
        for kind in reached:
            reached[kind] += counts[kind] >= threshold
    assert min(reached.values()) > 0, "each of the two must happen, or the test says nothing"


@pytest.mark.parametrize(
    ("defence", "mutant"),
    [
        ("secagg.survivors.Locks.void", voids_anything),
        ("secagg.survivors.Locks._check_alive", lambda *_: None),
    ],
)
def test_t_voids_and_t_releases_never_coexist_mutant(
    monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Callable[..., Any]
) -> None:
    monkeypatch.setattr(defence, mutant)
    schedules = [Schedule(4, seed) for seed in range(60)]
    assert any(min(counted(s).values()) >= s.federation.cohort.t for s in schedules)


def test_a_colluder_that_does_both_changes_nothing() -> None:
    """With t releases there are never t voids, also when c silos sign voids of what they released."""
    federation = Federation(5, colluders=COLLUDER)
    liar, terms = Liar(federation), federation.terms()
    liar.train(terms)
    attempt = Attempt(liar, terms)
    attempt.until_masked()
    attempt.announce_survivors(EVERYBODY)
    attempt.request(EVERYBODY, to="bcde")  # t releases; only the victim may void.
    voids = liar.void([attempt.round_id()])
    voids += (sign_void(federation.identities[COLLUDER], COLLUDER, attempt.round_id()),)
    assert {void.silo for void in voids} == {VICTIM, COLLUDER}
