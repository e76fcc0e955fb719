"""Signed sets and the lock, beside a model of what may be signed, released, voided, lifted and moved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from secagg.cohort import Cohort
from secagg.errors import FaultyCoordinator
from secagg.messages import Void
from secagg.names import SiloId
from secagg.privacy.heads import LedgerHead
from secagg.records import (
    AttemptJoined,
    HeadHeld,
    LedgerTrusted,
    LedgerWentBack,
    LockLifted,
    LockMoved,
    Released,
    SetSigned,
    SiloRecord,
    VoidSigned,
    decode_silo_record,
    encode_record,
)
from secagg.survivors import (
    LockKey,
    LockRefused,
    Locks,
    check_survivors,
    lock_key,
    sign_survivors,
    sign_void,
    signed_survivors,
    valid_voids,
)
from secagg.terms import SiloNoise
from tests.counts import count
from tests.federations import NAMES, Federation, roster_of

ROSTER, IDENTITIES = roster_of(5)
OTHERS, OTHER_IDENTITIES = roster_of(5, seed=1)
SILOS = ROSTER.silos
T = 4
KEYS = (LockKey("data", b"\1" * 32), LockKey("data", b"\2" * 32), LockKey("other", b"\1" * 32))
OFTEN = (KEYS[0], KEYS[0], KEYS[0], *KEYS)
SETS = (SILOS, SILOS[:4], SILOS[1:])
ROUNDS = tuple(bytes([i]) * 32 for i in range(8))


def session_of(round_id: bytes) -> bytes:
    return bytes([round_id[0] ^ 0x80]) * 32


# --- the model ----------------------------------------------------------------------------------------------


@dataclass
class Expected:
    """What is locked, in the simplest words: a set, and the rounds signed with it."""

    survivors: set[SiloId]
    rounds: set[bytes] = field(default_factory=set)
    rosters: set[bytes] = field(default_factory=set)


class LockMachine(RuleBasedStateMachine):
    """Drives ``Locks`` beside a model, and crashes it at any point."""

    def __init__(self) -> None:
        super().__init__()
        self.locks = Locks()
        self.journal: list[bytes] = []
        self.history: list[SiloRecord] = []
        self.model: dict[LockKey, Expected] = {}
        self.dead: set[bytes] = set()
        self.released: set[bytes] = set()
        self.joined: set[int] = set()

    @initialize()
    def start(self) -> None:
        assert all(self.locks.lock(key) is None for key in KEYS)

    def commit(self, record: SiloRecord) -> None:
        self.journal.append(encode_record(record))
        self.history.append(record)
        self.locks.apply(record)

    # --- one rule for each thing that a silo is asked ------------------------------------------------------

    @rule(number=st.integers(1, 3))
    def join(self, number: int) -> None:
        record = AttemptJoined("f", "j", 1, number)
        if number in self.joined:
            with pytest.raises(FaultyCoordinator):
                self.locks.join(record)
        else:
            self.commit(self.locks.join(record))
            self.joined.add(number)

    @rule(
        key=st.sampled_from(OFTEN),
        round_id=st.sampled_from(ROUNDS),
        survivors=st.sampled_from((SILOS, SILOS, *SETS)),
        roster=st.sampled_from((ROSTER,) * 9 + (OTHERS,)),
    )
    def sign(self, key: LockKey, round_id: bytes, survivors: tuple[SiloId, ...], roster: Any) -> None:
        expected = self.model.get(key)
        allowed = round_id not in self.dead and (expected is None or expected.survivors == set(survivors))

        def attempt() -> SetSigned:
            return self.locks.sign(
                key,
                round_id=round_id,
                session=session_of(round_id),
                threshold=T,
                survivors=survivors,
                roster=roster,
            )

        if not allowed:
            with pytest.raises(LockRefused) as refused:
                attempt()
            if round_id not in self.dead and expected is not None:
                assert set(refused.value.silos) == expected.survivors - set(survivors)
            return
        self.commit(attempt())
        expected = self.model.setdefault(key, Expected(set(survivors)))
        expected.rounds.add(round_id)
        expected.rosters.add(roster.digest)

    @rule(round_id=st.sampled_from(ROUNDS))
    def release(self, round_id: bytes) -> None:
        if round_id in self.dead:
            with pytest.raises(LockRefused):
                self.locks.release(round_id)
        else:
            self.commit(self.locks.release(round_id))
            self.released.add(round_id)

    @rule(round_ids=st.lists(st.sampled_from(ROUNDS), max_size=2))
    def void(self, round_ids: list[bytes]) -> None:
        records = self.locks.void(round_ids)
        assert {record.round_id for record in records} == set(round_ids) - self.released
        assert len({record.round_id for record in records}) == len(records)
        for record in records:
            self.commit(record)
            self.dead.add(record.round_id)

    @rule(
        key=st.sampled_from(OFTEN),
        spares=st.booleans(),
        voters=st.sampled_from((T - 1, T, T, 5, 5)),
        spoil=st.sampled_from(("", "", "", "", "", "repeated", "forged", "stranger", "swapped", "roster")),
    )
    def lift(self, key: LockKey, spares: bool, voters: int, spoil: str) -> None:
        """Voids by some silos for every signed round, or for all but one; spoiled ones count for nothing."""
        expected = self.model.get(key)
        signed = set() if expected is None else expected.rounds
        rounds = signed - {min(signed)} if spares and signed else signed
        voids = [voided(silo, round_id) for round_id in rounds for silo in SILOS[:voters]]
        roster = OTHERS if spoil == "roster" else ROSTER
        voids = [spoiled(spoil, void) if void.silo == SILOS[0] else void for void in voids]
        record = self.locks.lift(key, voids, roster, threshold=T)
        valid = voters - (spoil in {"repeated", "forged", "stranger", "swapped"})
        lifts = (
            expected is not None
            and rounds == signed
            and valid >= T
            and expected.rosters == {ROSTER.digest}
            and spoil != "roster"
        )
        assert (record is not None) == lifts
        if record is not None:
            assert record == LockLifted(key.data_set, key.base)
            self.commit(record)
            self.dead |= self.model.pop(key).rounds

    @rule(
        key=st.sampled_from(OFTEN),
        round_id=st.sampled_from(ROUNDS),
        dealer=st.sampled_from(SILOS),
        roster=st.sampled_from((ROSTER, ROSTER, OTHERS)),
    )
    def move(self, key: LockKey, round_id: bytes, dealer: SiloId, roster: Any) -> None:
        expected = self.model.get(key)
        moves = (
            expected is not None
            and dealer in expected.survivors
            and round_id in expected.rounds
            and expected.rosters == {roster.digest}
        )
        record = self.locks.move(key, session=session_of(round_id), dealer=dealer, roster=roster)
        assert (record is not None) == moves
        if record is not None:
            self.commit(record)
            self.model[key].survivors.remove(dealer)

    @rule()
    def restart(self) -> None:
        """Crash, and come back from the journal alone."""
        before = [self.locks.lock(key) for key in KEYS]
        self.locks = Locks(decode_silo_record(line) for line in self.journal)
        assert [self.locks.lock(key) for key in KEYS] == before

    # --- what holds at every moment ------------------------------------------------------------------------

    @invariant()
    def the_lock_is_that_of_the_model(self) -> None:
        for key in KEYS:
            held, expected = self.locks.lock(key), self.model.get(key)
            assert (held is None) == (expected is None)
            if held is not None and expected is not None:
                assert held.survivors == expected.survivors
                assert set(held.rounds) == expected.rounds
                assert held.thresholds == {session_of(r): T for r in expected.rounds}

    @invariant()
    def no_two_sets_are_signed_for_one_key(self) -> None:
        """Unless the lock was lifted in between, or moved to the very set that is signed next."""
        allowed: dict[tuple[str, bytes], set[SiloId]] = {}
        for record in self.history:
            match record:
                case SetSigned():
                    signed = allowed.setdefault((record.data_set, record.base), set(record.survivors))
                    assert signed == set(record.survivors)
                case LockMoved():
                    allowed[record.data_set, record.base].remove(record.dealer)
                case LockLifted():
                    del allowed[record.data_set, record.base]

    @invariant()
    def released_and_void_exclude_each_other(self) -> None:
        released: set[bytes] = set()
        void: set[bytes] = set()
        for record in self.history:
            match record:
                case Released():
                    assert record.round_id not in void
                    released.add(record.round_id)
                case VoidSigned():
                    assert record.round_id not in released
                    void.add(record.round_id)
                case SetSigned():
                    assert record.round_id not in void


def voided(silo: SiloId, round_id: bytes) -> Void:
    return sign_void(IDENTITIES[silo], silo, round_id)


def spoiled(how: str, void: Void) -> Void:
    match how:
        case "repeated":
            return voided(SILOS[1], void.round_id)
        case "forged":
            return Void(void.silo, void.round_id, bytes(64))
        case "stranger":
            return Void("stranger", void.round_id, void.signature)
        case "swapped":
            return Void(void.silo, void.round_id, voided(SILOS[1], void.round_id).signature)
        case _:
            return void


TestLocks = LockMachine.TestCase
TestLocks.settings = settings(max_examples=count(100, full=1000))


# --- line by line -----------------------------------------------------------------------------------------


def sign(locks: Locks, round_id: bytes, survivors: tuple[SiloId, ...]) -> None:
    locks.apply(
        locks.sign(
            KEYS[0],
            round_id=round_id,
            session=session_of(round_id),
            threshold=T,
            survivors=survivors,
            roster=ROSTER,
        )
    )


def test_a_refusal_says_what_would_let_the_round_finish() -> None:
    locks = Locks()
    sign(locks, ROUNDS[0], SILOS[:4])
    with pytest.raises(LockRefused, match=r"when these return: north; it can finish without: silo-04") as no:
        sign(locks, ROUNDS[1], SILOS[1:])
    assert no.value.rule == "lock"
    assert no.value.silos == ("north",)
    with pytest.raises(LockRefused, match="it can finish without: silo-04") as no:
        sign(locks, ROUNDS[1], SILOS)
    assert no.value.silos == ()


def test_the_order_of_a_set_is_no_other_set() -> None:
    locks = Locks()
    sign(locks, ROUNDS[0], SILOS[:4])
    sign(locks, ROUNDS[1], SILOS[:4][::-1])
    lock = locks.lock(KEYS[0])
    assert lock is not None
    assert lock.rounds == ROUNDS[:2]


def test_voids_for_the_last_round_only_lift_nothing() -> None:
    locks = Locks()
    sign(locks, ROUNDS[0], SILOS)
    sign(locks, ROUNDS[1], SILOS)
    for rounds, lifts in (((1,), False), ((0,), False), ((0, 1), True)):
        voids = [voided(silo, ROUNDS[i]) for i in rounds for silo in SILOS[:T]]
        assert (locks.lift(KEYS[0], voids, ROSTER, threshold=T) is not None) == lifts


def test_a_round_that_needed_more_voids_keeps_needing_them_under_whatever_terms() -> None:
    """What one silo opens alone is not lifted by t voids because the next terms are those of masks."""
    locks = Locks()
    for round_id, needed in ((ROUNDS[0], 5), (ROUNDS[1], T)):
        record = locks.sign(
            KEYS[0],
            round_id=round_id,
            session=round_id,
            threshold=needed,
            survivors=SILOS,
            roster=ROSTER,
        )
        locks.apply(decode_silo_record(encode_record(record)))
    locks.apply(locks.release(ROUNDS[0]))
    others = [voided(silo, round_id) for round_id in ROUNDS[:2] for silo in SILOS[1:]]
    for threshold in (1, T, 5):
        assert locks.lift(KEYS[0], others, ROSTER, threshold=threshold) is None
    own = [voided(SILOS[0], round_id) for round_id in ROUNDS[:2]]
    assert locks.lift(KEYS[0], others + own, ROSTER, threshold=1) is not None


def test_terms_may_need_more_voids_than_the_round_did() -> None:
    locks = Locks()
    sign(locks, ROUNDS[0], SILOS)
    voids = [voided(silo, ROUNDS[0]) for silo in SILOS[:T]]
    assert locks.lift(KEYS[0], voids, ROSTER, threshold=5) is None
    assert locks.lift(KEYS[0], voids, ROSTER, threshold=T) is not None


def test_a_round_that_the_lifting_killed_is_signed_no_more_although_it_was_released() -> None:
    locks = Locks()
    sign(locks, ROUNDS[0], SILOS)
    locks.apply(locks.release(ROUNDS[0]))
    locks.apply(LockLifted(KEYS[0].data_set, KEYS[0].base))
    with pytest.raises(LockRefused):
        locks.release(ROUNDS[0])
    with pytest.raises(LockRefused):
        sign(locks, ROUNDS[0], SILOS)
    assert locks.void([ROUNDS[0]]) == ()
    sign(locks, ROUNDS[1], SILOS[:4])


def test_a_lock_moves_off_a_dealer_of_its_set_once() -> None:
    locks = Locks()
    session = session_of(ROUNDS[0])
    assert locks.move(KEYS[0], session=session, dealer="north", roster=ROSTER) is None
    sign(locks, ROUNDS[0], SILOS[:4])
    assert locks.move(KEYS[1], session=session, dealer="north", roster=ROSTER) is None
    assert locks.move(KEYS[0], session=session, dealer="silo-04", roster=ROSTER) is None
    assert locks.move(KEYS[0], session=session_of(ROUNDS[1]), dealer="north", roster=ROSTER) is None
    assert locks.move(KEYS[0], session=session, dealer="north", roster=OTHERS) is None
    record = locks.move(KEYS[0], session=session, dealer="north", roster=ROSTER)
    assert record == LockMoved(KEYS[0].data_set, KEYS[0].base, "north")
    locks.apply(record)
    assert locks.move(KEYS[0], session=session, dealer="north", roster=ROSTER) is None
    with pytest.raises(LockRefused):
        sign(locks, ROUNDS[1], SILOS[:4])
    sign(locks, ROUNDS[1], SILOS[1:4])


# --- checks and signatures ----------------------------------------------------------------------------------

COHORT = Cohort.of(5)
MEMBERS = frozenset(SILOS)


def test_a_set_is_checked_before_it_is_signed() -> None:
    assert COHORT.min_survivors == T
    check_survivors("north", SILOS, MEMBERS, COHORT)
    check_survivors("north", SILOS[:T], MEMBERS, COHORT)
    for survivors, why in (
        ((*SILOS[:T], "north"), "twice"),
        (("north",) * T, "twice"),
        (SILOS[1:], "lacks this silo"),
        ((*SILOS[:T], "stranger"), "shared no keys"),
        (SILOS[: T - 1], "4 = max"),
        ((), "lacks this silo"),
    ):
        with pytest.raises(FaultyCoordinator, match=why):
            check_survivors("north", survivors, MEMBERS, COHORT)
    with pytest.raises(FaultyCoordinator, match="shared no keys"):
        check_survivors("north", SILOS, MEMBERS - {"west"}, COHORT)
    # k_min may ask for more than t.
    with pytest.raises(FaultyCoordinator, match="5 = max"):
        check_survivors("north", SILOS[:T], MEMBERS, Cohort.of(5, k_min=4))


def test_each_member_of_the_set_counts_once_and_nobody_else() -> None:
    survivors = SILOS[:T]
    signatures = [(s, sign_survivors(IDENTITIES[s], ROUNDS[0], survivors)) for s in SILOS]
    north = signatures[0]
    assert signed_survivors(ROSTER, ROUNDS[0], survivors, signatures) == set(survivors)
    assert signed_survivors(ROSTER, ROUNDS[0], survivors, [north] * 9) == {"north"}
    assert signed_survivors(ROSTER, ROUNDS[0], survivors, []) == set()
    forged = [("south", north[1]), ("stranger", north[1]), ("west", bytes(64)), ("east", b"")]
    assert signed_survivors(ROSTER, ROUNDS[0], (*survivors, "stranger"), forged) == set()
    assert signed_survivors(ROSTER, ROUNDS[1], survivors, signatures) == set()
    assert signed_survivors(ROSTER, ROUNDS[0], SILOS, signatures) == set()
    assert signed_survivors(ROSTER, ROUNDS[0], survivors[::-1], signatures) == set()
    assert signed_survivors(OTHERS, ROUNDS[0], survivors, signatures) == set()


def test_a_void_counts_for_its_silo_and_round_once() -> None:
    good = [voided("north", ROUNDS[0]), voided("north", ROUNDS[0]), voided("west", ROUNDS[1])]
    bad = [
        Void("south", ROUNDS[0], voided("north", ROUNDS[0]).signature),
        Void("north", ROUNDS[2], voided("north", ROUNDS[0]).signature),
        Void("stranger", ROUNDS[0], voided("north", ROUNDS[0]).signature),
        sign_void(OTHER_IDENTITIES["east"], "east", ROUNDS[0]),
        Void("east", ROUNDS[0], IDENTITIES["east"].sign("another label", ROUNDS[0])),
    ]
    assert valid_voids([*good, *bad], ROSTER) == {ROUNDS[0]: {"north"}, ROUNDS[1]: {"west"}}
    assert set(NAMES[:5]) == MEMBERS


def test_a_later_release_of_a_base_has_a_lock_of_its_own() -> None:
    """Its noise is its own: the difference of two sums over two sets tells no more than either."""
    terms = Federation(5, privacy=SiloNoise(1.0, 8.0, 1e-5)).terms
    first = lock_key("data", terms)
    assert first == LockKey("data", terms.base)
    others = [replace(terms, release=2), replace(terms, release=3), replace(terms, release=2, base=bytes(32))]
    keys = {first, *(lock_key("data", other) for other in others), lock_key("other", others[0])}
    assert len(keys) == 5
    # What else changes is another round of the same release, and locked as one.
    for change in ({"job": "other"}, {"round": 2}, {"roster": bytes(32)}, {"privacy": None}):
        for of in (terms, others[0]):
            assert lock_key("data", replace(of, **change)) == lock_key("data", of)

    locks = Locks()
    given: Any = {"session": session_of(ROUNDS[0]), "threshold": T, "roster": ROSTER}
    locks.apply(locks.sign(first, round_id=ROUNDS[0], survivors=SILOS, **given))
    with pytest.raises(LockRefused):
        locks.sign(first, round_id=ROUNDS[1], survivors=SILOS[1:], **given)
    second = lock_key("data", others[0])
    locks.apply(locks.sign(second, round_id=ROUNDS[1], survivors=SILOS[1:], **given))
    with pytest.raises(LockRefused):
        locks.sign(second, round_id=ROUNDS[2], survivors=SILOS, **given)


def test_heads_of_ledgers_lock_nothing() -> None:
    head = LedgerHead(bytes(32), 1, bytes(32), bytes(64))
    records = HeadHeld("north", head), LedgerWentBack("north", bytes(32)), LedgerTrusted("north")
    locks = Locks(records)
    assert all(locks.lock(key) is None for key in KEYS)
    assert not any(map(locks.is_void, ROUNDS))
