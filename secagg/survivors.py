"""The signed survivor set and the lock: one opened set per (data set, base model).

Two sums over different sets for one base reveal differences, whatever the size of the sets. So a silo
that signed a set S for a base signs no other set for it, across jobs, rounds, attempts and rosters, until

* enough silos voided **every** round that it signed with S (``lift``), or
* a dealer of S is proven to have cheated, and the set goes on without it (``move``).

Pure state: ``Locks`` is rebuilt from a silo's journal, and every change is a record that the driver syncs
before the reply that it permits. Shared by every protected scheme.

Source: "The lock" in ``docs/protocol.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from secagg.cohort import Cohort
from secagg.errors import FaultyCoordinator, PolicyRefused
from secagg.hazmat.framing import digest
from secagg.hazmat.identity import IdentityKey, verify
from secagg.messages import Void
from secagg.names import SiloId
from secagg.records import (
    AttemptJoined,
    HeadHeld,
    KeyAccepted,
    KeyMade,
    KeyPassedOn,
    LedgerTrusted,
    LedgerWentBack,
    LockLifted,
    LockMoved,
    Released,
    SetSigned,
    SiloRecord,
    VoidSigned,
)
from secagg.roster import Roster
from secagg.terms import Terms

SURVIVORS = "survivors"
VOID = "void"


class LockRefused(PolicyRefused):
    """The base is locked to another set.

    Attributes:
        silos: whose return would let the round finish.
    """

    def __init__(self, text: str, silos: tuple[SiloId, ...] = ()) -> None:
        super().__init__("lock", text)
        self.silos = silos


@dataclass(frozen=True)
class LockKey:
    """What a lock holds for: a data set by its name at the silo, and a base model by its digest."""

    data_set: str
    base: bytes


def lock_key(data_set: str, terms: Terms) -> LockKey:
    """Return what a sum under ``terms`` locks: a second release has noise of its own, and is another one."""
    if terms.release == 1:
        return LockKey(data_set, terms.base)
    return LockKey(data_set, digest("release", terms.base, terms.release))


@dataclass(frozen=True)
class Lock:
    """The only set that a silo signs for a key, and every round in which it signed a set for it."""

    survivors: frozenset[SiloId]
    rounds: tuple[bytes, ...]
    thresholds: Mapping[bytes, int]  # session id -> voids that it needed; under masks and shares, its t
    rosters: frozenset[bytes]  # digests of the rosters under which the set was signed


def check_survivors(
    silo: SiloId, survivors: Sequence[SiloId], members: frozenset[SiloId], cohort: Cohort
) -> None:
    """Check an announced set before it is signed.

    Raises:
        FaultyCoordinator: a repeated name, this silo missing, a stranger, or a set below
            ``cohort.min_survivors``.
    """
    distinct = frozenset(survivors)
    if len(distinct) != len(survivors):
        raise FaultyCoordinator("the survivor set names a silo twice")
    if silo not in distinct:
        raise FaultyCoordinator("the survivor set lacks this silo, whose input was sent")
    if not distinct <= members:
        raise FaultyCoordinator("the survivor set names silos that shared no keys")
    if len(distinct) < cohort.min_survivors:
        raise FaultyCoordinator(
            f"the survivor set has {len(distinct)} silos; {cohort.min_survivors} = max(t, k_min + c) "
            "are needed"
        )


def count_matches(total: NDArray[Any], survivors: tuple[SiloId, ...]) -> bool:
    """Whether the count entry of an opened sum says that one input of each survivor is in it."""
    return int(total[-1]) == len(survivors)


def sign_survivors(identity: IdentityKey, round_id: bytes, survivors: Sequence[SiloId]) -> bytes:
    """Return the signature (64 bytes) over the set, given in roster order."""
    return identity.sign(SURVIVORS, round_id, tuple(survivors))


def signed_survivors(
    roster: Roster,
    round_id: bytes,
    survivors: Sequence[SiloId],
    signatures: Iterable[tuple[SiloId, bytes]],
) -> frozenset[SiloId]:
    """Return the members of the set whose signature over it is valid; each counts once."""
    members = frozenset(survivors)
    ordered = tuple(survivors)
    return frozenset(
        silo
        for silo, signature in signatures
        if silo in members
        and silo in roster
        and verify(roster.key(silo), signature, SURVIVORS, round_id, ordered)
    )


class Locks:
    """One silo's signed sets, releases and voids.

    Guarantees:
        No two different sets are ever signed for one key unless the lock was lifted or moved.
        A released round is never voided, and a void one is never signed or released.
        Replaying the records of a state gives that state.
    """

    def __init__(self, records: Iterable[SiloRecord] = ()) -> None:
        self._joined: set[tuple[str, str, int, int]] = set()
        self._locks: dict[LockKey, Lock] = {}
        self._released: set[bytes] = set()
        self._dead: set[bytes] = set()
        for record in records:
            self.apply(record)

    def apply(self, record: SiloRecord) -> None:
        """Take a record into the state; called once for each, when it is made or replayed."""
        match record:
            case AttemptJoined():
                self._joined.add((record.federation, record.job, record.round, record.attempt))
            case SetSigned():
                key = LockKey(record.data_set, record.base)
                held = self._locks.get(key)
                self._locks[key] = Lock(
                    frozenset(record.survivors),
                    (*(held.rounds if held else ()), record.round_id),
                    {**(held.thresholds if held else {}), record.session: record.threshold},
                    (held.rosters if held else frozenset()) | {record.roster},
                )
            case Released():
                self._released.add(record.round_id)
            case VoidSigned():
                self._dead.add(record.round_id)
            case LockLifted():
                self._dead.update(self._locks.pop(LockKey(record.data_set, record.base)).rounds)
            case LockMoved():
                key = LockKey(record.data_set, record.base)
                held = self._locks[key]
                self._locks[key] = replace(held, survivors=held.survivors - {record.dealer})
            case KeyMade() | KeyAccepted() | KeyPassedOn():
                pass  # For the auditor: keys lock nothing.
            case HeadHeld() | LedgerWentBack() | LedgerTrusted():
                pass  # See ``heads``.

    def lock(self, key: LockKey) -> Lock | None:
        """Return the lock of ``key``."""
        return self._locks.get(key)

    def join(self, record: AttemptJoined) -> AttemptJoined:
        """Return the record that joins an attempt.

        Raises:
            FaultyCoordinator: this silo joined the attempt before.
        """
        if (record.federation, record.job, record.round, record.attempt) in self._joined:
            raise FaultyCoordinator(f"attempt {record.attempt} of round {record.round} was joined before")
        return record

    def sign(
        self,
        key: LockKey,
        *,
        round_id: bytes,
        session: bytes,
        threshold: int,
        survivors: Sequence[SiloId],
        roster: Roster,
    ) -> SetSigned:
        """Return the record that locks ``key`` to ``survivors``.

        Args:
            key: what is locked.
            round_id: that is signed.
            session: what it belongs to.
            threshold: as many silos must void the round before another set may be signed: ``voids_needed``.
            survivors: the set.
            roster: the pinned one.

        Raises:
            LockRefused: the key is locked to another set, or the round is void here.
        """
        self._check_alive(round_id)
        held = self._locks.get(key)
        if held is not None and held.survivors != frozenset(survivors):
            missing = tuple(sorted(held.survivors - set(survivors)))
            extra = tuple(sorted(set(survivors) - held.survivors))
            raise LockRefused(
                "another set was signed for this data set and base model"
                + (f"; it can finish when these return: {', '.join(missing)}" if missing else "")
                + (f"; it can finish without: {', '.join(extra)}" if extra else ""),
                missing,
            )
        return SetSigned(
            key.data_set, key.base, round_id, session, threshold, tuple(survivors), roster.digest
        )

    def release(self, round_id: bytes) -> Released:
        """Return the record that must be synced before a share of ``round_id`` leaves.

        Raises:
            LockRefused: the round is void here.
        """
        self._check_alive(round_id)
        return Released(round_id)

    def void(self, round_ids: Iterable[bytes]) -> tuple[VoidSigned, ...]:
        """Return a record for each of ``round_ids`` of which nothing was released here."""
        return tuple(VoidSigned(r) for r in dict.fromkeys(round_ids) if r not in self._released)

    def is_void(self, round_id: bytes) -> bool:
        """Whether a record of its void was applied."""
        return round_id in self._dead

    def lift(
        self, key: LockKey, voids: Iterable[Void], roster: Roster, *, threshold: int
    ) -> LockLifted | None:
        """Return the record that lifts the lock, or None.

        Only if **every** round that this silo signed for the key has enough valid voids of distinct silos:
        one round that may still be opened keeps the lock. So does another roster. Enough are ``threshold``,
        which the present terms need, and what each signed round needed: under a key that every silo holds a
        void of all of them, whatever terms come after it, and a silo that released the round gives none.
        """
        held = self._held_under(key, roster)
        if held is None:
            return None
        voided, needed = valid_voids(voids, roster), max(threshold, *held.thresholds.values())
        if all(len(voided.get(round_id, frozenset())) >= needed for round_id in held.rounds):
            return LockLifted(key.data_set, key.base)
        return None

    def move(self, key: LockKey, *, session: bytes, dealer: SiloId, roster: Roster) -> LockMoved | None:
        """Return the record that takes a proven cheat out of the locked set, or None if it is not in it."""
        held = self._held_under(key, roster)
        if held is None or dealer not in held.survivors or session not in held.thresholds:
            return None
        return LockMoved(key.data_set, key.base, dealer)

    def _held_under(self, key: LockKey, roster: Roster) -> Lock | None:
        """Return the lock of ``key`` unless one of its sets was signed under another roster.

        Members of another roster could void what they never could have released, and with other slots the
        honest shares of a dealer do not combine.
        """
        held = self._locks.get(key)
        return held if held is not None and held.rosters == {roster.digest} else None

    def _check_alive(self, round_id: bytes) -> None:
        if round_id in self._dead:
            raise LockRefused("this round was voided here; it is neither signed nor released any more")


def sign_void(identity: IdentityKey, silo: SiloId, round_id: bytes) -> Void:
    """Return the signed promise; only after its ``VoidSigned`` record is on its way to disk."""
    return Void(silo, round_id, identity.sign(VOID, round_id))


def valid_voids(voids: Iterable[Void], roster: Roster) -> Mapping[bytes, frozenset[SiloId]]:
    """Return for each round the distinct roster members whose void of it carries a valid signature."""
    found: dict[bytes, set[SiloId]] = {}
    for void in voids:
        if void.silo in roster and verify(roster.key(void.silo), void.signature, VOID, void.round_id):
            found.setdefault(void.round_id, set()).add(void.silo)
    return {round_id: frozenset(silos) for round_id, silos in found.items()}
