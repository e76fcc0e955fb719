"""Signed heads of ledgers: what peers hold of them, and rounds in which a ledger was put back.

The ledgers are real and in memory; a rollback keeps fewer of their lines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from secagg import wire
from secagg.errors import FaultyCoordinator, FaultySilo, RoundAborted, SecaggError
from secagg.heads import Heads, LedgerRefused, check_sent, sent_heads
from secagg.masking.params import Masking
from secagg.messages import (
    AggregateAnnounced,
    ConsistencyCheck,
    FromCoordinator,
    FromSilo,
    Opened,
    OpeningRequested,
    PartialDecryption,
    Refused,
    Unmasking,
    UnmaskingRequested,
)
from secagg.names import SiloId
from secagg.privacy.heads import LedgerHead, data_set_digest, head_fault, sign_head
from secagg.records import HeadHeld, SiloRecord
from secagg.rounds.silo import refusal
from secagg.scheme import Scheme
from secagg.session import CoordinatorStep, Step
from secagg.simulation import SimulatedSilo
from tests.federations import ENCRYPTED, MODEL, PAILLIER, Federation, Witness, roster_of
from tests.ledgers import NOISE, Ledgered, N

ROSTER, IDENTITIES = roster_of(N)
SILOS = ROSTER.silos
ROUNDS = tuple(bytes([i]) * 32 for i in range(4))
PROTECTED: tuple[Scheme, ...] = (Masking(), *ENCRYPTED)

Request = UnmaskingRequested | AggregateAnnounced | OpeningRequested


def head(
    silo: SiloId, entries: int, round_id: bytes = ROUNDS[0], *, chain: int = 0, data_set: str = "default"
) -> LedgerHead:
    """Return the head of a ledger; those of one ``chain`` belong to one ledger."""
    at = bytes([chain, entries]) * 16
    return sign_head(IDENTITIES[silo], silo, data_set, entries=entries, chain=at, context=round_id)


def taken(
    heads: Heads, *announced: tuple[SiloId, LedgerHead], round_id: bytes = ROUNDS[0], signers: Any = ()
) -> tuple[HeadHeld, ...]:
    """Take heads, and hold them, as a silo does once its records are on their way to disk."""
    records = heads.take(ROSTER, announced, signers=signers, context=round_id)
    for record in records:
        heads.apply(record)
    return records


# --- what a head says ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"entries": 4},
        {"chain": bytes(32)},
        {"data_set": data_set_digest("north", "other")},
        {"signature": bytes(64)},
        {"signature": head("south", 3).signature},
        {"signature": head("north", 3, ROUNDS[1]).signature},
    ],
)
def test_a_head_that_its_silo_did_not_sign_for_this_round_is_none(change: dict[str, Any]) -> None:
    good = head("north", 3)
    assert head_fault(ROSTER, "north", good, None, context=ROUNDS[0]) is None
    assert head_fault(ROSTER, "north", replace(good, **change), None, context=ROUNDS[0]) is not None


def test_a_head_is_of_one_silo_and_one_round() -> None:
    for silo, context in (("south", ROUNDS[0]), ("stranger", ROUNDS[0]), ("north", ROUNDS[1])):
        assert head_fault(ROSTER, silo, head("north", 3), None, context=context) is not None


def test_a_data_set_is_known_to_peers_by_a_digest_that_no_other_silo_shares() -> None:
    digests = {data_set_digest(silo, name) for silo in SILOS for name in ("default", "other")}
    assert len(digests) == 2 * N
    assert head("north", 1).data_set == data_set_digest("north", "default")


# --- what peers hold -------------------------------------------------------------------------------------


def test_a_ledger_that_went_on_is_news_and_one_that_stands_still_is_not() -> None:
    heads = Heads()
    assert len(taken(heads, ("north", head("north", 0)), ("south", head("south", 7)))) == 2
    again = ("north", head("north", 0, ROUNDS[1]))
    further = ("south", head("south", 8, ROUNDS[1]))
    (news,) = taken(heads, again, further, round_id=ROUNDS[1])
    assert news == HeadHeld("south", further[1])


@pytest.mark.parametrize(
    ("then", "fault"),
    [
        (head("north", 4, ROUNDS[1]), "4 entries and had 5"),
        (head("north", 0, ROUNDS[1]), "0 entries and had 5"),
        (head("north", 5, ROUNDS[1], chain=1), "not those that it had"),
        (head("north", 4, ROUNDS[1], chain=1), "4 entries and had 5"),
    ],
)
def test_a_ledger_that_is_behind_or_another_one_is_refused_by_name(then: LedgerHead, fault: str) -> None:
    heads = Heads()
    taken(heads, ("north", head("north", 5)), ("south", head("south", 1)))
    with pytest.raises(LedgerRefused, match=fault) as refused:
        taken(heads, ("south", head("south", 2, ROUNDS[1])), ("north", then), round_id=ROUNDS[1])
    assert refused.value.silos == ("north",)
    assert refused.value.rule == "ledger"
    assert refusal(refused.value, 3) == Refused("ledger", ("north",), 3)


def test_another_data_set_is_another_ledger() -> None:
    heads = Heads()
    taken(heads, ("north", head("north", 5)))
    other = head("north", 1, ROUNDS[1], data_set="other")
    assert taken(heads, ("north", other), round_id=ROUNDS[1]) == (HeadHeld("north", other),)
    with pytest.raises(LedgerRefused):
        taken(heads, ("north", head("north", 4, ROUNDS[2])), round_id=ROUNDS[2])
    with pytest.raises(LedgerRefused):
        taken(heads, ("north", head("north", 0, ROUNDS[2], data_set="other")), round_id=ROUNDS[2])


@pytest.mark.parametrize(
    "announced",
    [
        [("north", head("north", 6))],
        [("north", head("north", 6)), ("south", head("south", 1)), ("south", head("south", 1))],
        [("north", head("north", 6)), ("south", head("south", 1, ROUNDS[1]))],
        [("north", head("north", 6)), ("south", head("north", 6))],
        [("north", head("north", 6)), ("south", replace(head("south", 1), entries=2))],
        [("north", head("north", 6)), ("south", head("south", 1)), ("stranger", head("south", 1))],
        # A head of an earlier round would make a ledger that is right look like one that was put back.
        [("north", head("north", 4, ROUNDS[1])), ("south", head("south", 1))],
        [],
    ],
    ids=["kept back", "twice", "of another round", "of another silo", "changed", "stranger", "old", "none"],
)
def test_heads_that_no_honest_coordinator_announces_name_the_coordinator(announced: Any) -> None:
    heads = Heads()
    taken(heads, ("north", head("north", 5)))
    with pytest.raises(FaultyCoordinator):
        heads.take(ROSTER, announced, signers=("north", "south"), context=ROUNDS[0])
    honest = ("north", head("north", 6)), ("south", head("south", 1))
    assert len(heads.take(ROSTER, honest, signers=("north", "south"), context=ROUNDS[0])) == 2


def test_what_was_only_looked_at_is_not_held() -> None:
    heads = Heads()
    heads.take(ROSTER, [("north", head("north", 5))], signers=(), context=ROUNDS[0])
    assert taken(heads, ("north", head("north", 1)))


@given(st.lists(st.tuples(st.sampled_from(("north", "south")), st.integers(0, 3), st.integers(0, 1))))
def test_an_accepted_head_is_never_behind_one_before_also_after_a_restart(
    said: list[tuple[SiloId, int, int]],
) -> None:
    heads, journal, held = Heads(), list[SiloRecord](), dict[SiloId, tuple[int, int]]()
    for number, (silo, entries, chain) in enumerate(said):
        if number % 2:
            heads = Heads(journal)
        before = held.get(silo)
        right = before is None or entries > before[0] or (entries, chain) == before
        try:
            records = taken(heads, (silo, head(silo, entries, chain=chain)))
        except LedgerRefused:
            assert not right
            continue
        assert right
        journal += records
        held[silo] = entries, chain


# --- what the coordinator checks -------------------------------------------------------------------------

TERMS = Federation(N, privacy=NOISE).terms
WITHOUT = Federation(N).terms


def test_a_silo_without_a_head_is_named_where_noise_is_charged() -> None:
    for sent in (None, head("north", 1, ROUNDS[1]), head("south", 1), replace(head("north", 1), entries=2)):
        with pytest.raises(FaultySilo) as fault:
            check_sent(ROSTER, TERMS, "north", ConsistencyCheck(ROUNDS[0], bytes(64), sent))
        assert fault.value.silo == "north"
    check_sent(ROSTER, TERMS, "north", ConsistencyCheck(ROUNDS[0], bytes(64), head("north", 1)))


def test_without_noise_a_head_may_be_missing_and_not_be_wrong() -> None:
    for sent in (None, head("north", 1)):
        check_sent(ROSTER, WITHOUT, "north", ConsistencyCheck(ROUNDS[0], bytes(64), sent))
    with pytest.raises(FaultySilo):
        check_sent(ROSTER, WITHOUT, "north", ConsistencyCheck(ROUNDS[0], bytes(64), head("south", 1)))


def test_heads_are_announced_of_those_who_sent_one() -> None:
    with_head = ConsistencyCheck(ROUNDS[0], bytes(64), head("south", 1))
    checks = {"north": ConsistencyCheck(ROUNDS[0], bytes(64)), "south": with_head}
    assert sent_heads(checks) == (("south", head("south", 1)),)


# --- rounds ----------------------------------------------------------------------------------------------


def parts(coordinator: Witness) -> set[SiloId]:
    """Return who helped to open a sum, or opened one."""
    sent = (Unmasking, PartialDecryption, Opened)
    return {silo for silo, message in coordinator.log if isinstance(message, sent)}


@pytest.mark.parametrize("scheme", PROTECTED, ids=lambda scheme: type(scheme).__name__)
def test_every_silo_holds_the_heads_of_a_round_that_it_helped_to_open(scheme: Scheme) -> None:
    federation = Ledgered(scheme)
    for number in (1, 2):
        coordinator = federation.coordinator()
        federation.run(coordinator)
        assert parts(coordinator) == set(SILOS)
        for silo in SILOS:
            assert federation.heads_held(silo) == dict.fromkeys(SILOS, number)
        federation.next_round()


@pytest.mark.parametrize(
    ("scheme", "restarted"),
    [(Masking(), False), (Masking(), True), *((scheme, True) for scheme in ENCRYPTED)],
    ids=lambda value: str(value) if isinstance(value, bool) else type(value).__name__,
)
def test_peers_refuse_to_open_where_a_ledger_was_put_back_and_name_whose(
    scheme: Scheme, restarted: bool
) -> None:
    federation = Ledgered(scheme)
    federation.run(federation.coordinator())
    federation.next_round()
    federation.put_back("west", 0)
    peers = [silo for silo in SILOS if silo != "west"]
    for silo in peers if restarted else ():
        federation.silos[silo].restart()

    coordinator = federation.coordinator(attempts=1)
    with pytest.raises(RoundAborted):
        federation.run(coordinator)
    assert not parts(coordinator)
    for silo in SILOS:  # West too: its journal knows how far its ledger was.
        (error,) = federation.silos[silo].errors
        assert isinstance(error, LedgerRefused)
        assert error.silos == ("west",)
    assert all("ledger" in coordinator.losses[silo] and "west" in coordinator.losses[silo] for silo in peers)
    assert all(federation.heads_held(silo) == dict.fromkeys(SILOS, 1) for silo in peers)


@pytest.mark.parametrize("scheme", [Masking(), PAILLIER], ids=lambda scheme: type(scheme).__name__)
def test_a_silo_whose_whole_disk_was_put_back_helps_alone(scheme: Scheme) -> None:
    """It cannot know; its peers do. Where one key opens, it opens alone, as it could at any time."""
    federation = Ledgered(scheme)
    federation.run(federation.coordinator())
    federation.next_round()
    federation.put_back("west", 0, journal=0)
    coordinator = federation.coordinator(attempts=1)
    with pytest.raises(RoundAborted):
        federation.run(coordinator)
    assert parts(coordinator) == {"west"}


def test_the_newest_copy_of_the_ledger_lets_the_round_go_on() -> None:
    federation = Ledgered()
    federation.run(federation.coordinator())
    federation.next_round()
    federation.run(federation.coordinator())
    federation.next_round()
    newest = list(federation.books["west"].lines)
    federation.put_back("west", 0)
    with pytest.raises(RoundAborted):
        federation.run(federation.coordinator())
    federation.next_round()
    federation.books["west"].lines[:] = newest
    federation.books["west"].ledger = None
    federation.silos["west"].restart()
    federation.run(federation.coordinator())
    assert federation.heads_held("north")["west"] == len(newest) + 1


def test_a_ledger_that_was_put_back_while_its_silo_was_silent_is_found_when_it_signs_again() -> None:
    """Nothing is known of the ledger of a silo that is lost before it signs, though its vector counts."""
    federation = Ledgered()
    for _ in range(2):
        federation.run(federation.coordinator())
        federation.next_round()
    federation.put_back("west", 0)
    opened = federation.run(federation.coordinator(), {"west": "ConsistencyCheck"})
    assert "west" in opened.survivors
    assert federation.heads_held("north")["west"] == 2
    federation.next_round()
    federation.put_back("west", 0)
    with pytest.raises(RoundAborted):
        federation.run(federation.coordinator())
    assert any(isinstance(error, LedgerRefused) for error in federation.silos["north"].errors)


def test_rounds_without_noise_look_at_the_heads_that_are_there() -> None:
    federation = Ledgered(privacy=None)
    for number in (1, 2):
        federation.run(federation.coordinator())
        assert federation.heads_held("north") == dict.fromkeys(SILOS, number)
        federation.next_round()
    federation.put_back("west", 0)
    with pytest.raises(RoundAborted):
        federation.run(federation.coordinator(attempts=1))
    (error,) = federation.silos["north"].errors
    assert isinstance(error, LedgerRefused)


# --- silos that say something else -----------------------------------------------------------------------


def beheaded(message: FromSilo) -> FromSilo:
    return replace(message, head=None) if isinstance(message, ConsistencyCheck) else message


def boasting(message: FromSilo) -> FromSilo:
    """Say of the ledger more than was signed."""
    if not isinstance(message, ConsistencyCheck) or message.head is None:
        return message
    return replace(message, head=replace(message.head, entries=message.head.entries + 5))


@pytest.mark.parametrize("tamper", [beheaded, boasting])
@pytest.mark.parametrize("scheme", PROTECTED, ids=lambda scheme: type(scheme).__name__)
def test_the_coordinator_names_a_silo_that_sends_no_head_or_a_forged_one(
    scheme: Scheme, tamper: Callable[[FromSilo], FromSilo]
) -> None:
    federation = Ledgered(scheme)
    federation.silos["west"].tamper = tamper
    coordinator = federation.coordinator()
    federation.run(coordinator)  # Its vector counts; the others open without its answer.
    assert coordinator.losses["west"].startswith("faulty: west: the head of its privacy ledger")
    announced = [message for _, message in coordinator.log if isinstance(message, Request)]
    assert announced
    assert all({silo for silo, _ in message.heads} == set(SILOS) - {"west"} for message in announced)


# --- coordinators that say something else ----------------------------------------------------------------


class Crooked(Witness):
    """A coordinator that changes what it asks silos to open with."""

    change: Callable[[Any], Any]

    def _remember(self, step: CoordinatorStep) -> CoordinatorStep:
        changed: dict[SiloId, FromCoordinator] = {
            silo: self.change(message) if isinstance(message, Request) else message
            for silo, message in step.output.items()
        }
        return super()._remember(Step(step.records, changed))


def crooked(federation: Federation, change: Callable[[Any], Any]) -> Crooked:
    named = {"terms": federation.terms, "base": MODEL, "adder": federation.adder, "threads": 1}
    made = Crooked(federation.roster, **named, attempts=1)
    made.change = change
    return made


def aborted(federation: Federation, coordinator: Witness) -> list[SecaggError]:
    """Run a round that is not opened; return what the silos said of it to themselves."""
    before = {silo: len(federation.silos[silo].errors) for silo in SILOS}
    with pytest.raises(SecaggError):
        federation.run(coordinator)
    assert not parts(coordinator)
    return [error for silo in SILOS for error in federation.silos[silo].errors[before[silo] :]]


CHANGES: dict[str, Callable[[Any], Any]] = {
    "all heads kept back": lambda asked: replace(asked, heads=()),
    "one head kept back": lambda asked: replace(asked, heads=asked.heads[1:]),
    "one head twice": lambda asked: replace(asked, heads=(asked.heads[0], *asked.heads)),
    "a head under another name": lambda asked: replace(
        asked, heads=((asked.heads[1][0], asked.heads[0][1]), (asked.heads[0][0], asked.heads[1][1]))
    ),
    "a changed head": lambda asked: replace(
        asked, heads=((asked.heads[0][0], replace(asked.heads[0][1], entries=99)), *asked.heads[1:])
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("scheme", [Masking(), PAILLIER], ids=lambda scheme: type(scheme).__name__)
def test_silos_refuse_a_coordinator_that_keeps_heads_back_or_changes_them(
    scheme: Scheme, change: Callable[[Any], Any]
) -> None:
    federation = Ledgered(scheme)
    errors = aborted(federation, crooked(federation, change))
    assert len(errors) == N
    assert all(isinstance(error, FaultyCoordinator) for error in errors)
    assert not any(federation.heads_held(silo) for silo in SILOS)


@pytest.mark.parametrize("scheme", [Masking(), PAILLIER], ids=lambda scheme: type(scheme).__name__)
def test_a_coordinator_cannot_say_old_heads_again_to_make_a_silo_look_put_back(scheme: Scheme) -> None:
    federation = Ledgered(scheme)
    first = federation.coordinator()
    federation.run(first)
    asked = next(message for _, message in first.log if isinstance(message, Request))
    federation.next_round()
    federation.run(federation.coordinator())
    for old in (
        lambda _: asked,  # The request of the first round as a whole, where every head is valid.
        lambda message: replace(message, heads=asked.heads),
    ):
        federation.next_round()
        errors = aborted(federation, crooked(federation, old))
        assert len(errors) == N
        assert all(isinstance(error, FaultyCoordinator) for error in errors)


@pytest.mark.parametrize("heads", [(), (("north", head("north", 0)),)])
def test_a_request_that_is_repeated_changes_nothing(heads: Any) -> None:
    """Whatever heads it has: the silo answered, keeps its attempt, and takes the sum that comes."""
    federation = Ledgered()
    coordinator = federation.coordinator()
    answers = []

    def asked_again(message: FromSilo) -> FromSilo:
        if isinstance(message, Unmasking):
            asked = [sent for _, sent in coordinator.log if isinstance(sent, UnmaskingRequested)]
            again = wire.encode(replace(asked[-1], heads=heads))
            answers.append(SimulatedSilo.deliver(federation.silos["west"], again))
        return message

    federation.silos["west"].tamper = asked_again
    federation.run(coordinator)
    assert answers == [None]
    assert not federation.silos["west"].errors
    assert len(federation.work["west"].applied) == 1


@pytest.mark.parametrize("scheme", [Masking(), PAILLIER], ids=lambda scheme: type(scheme).__name__)
def test_a_silo_that_refused_heads_takes_nothing_more_of_the_attempt(scheme: Scheme) -> None:
    """Neither the sum that others open, nor what it would have opened itself."""
    federation = Ledgered(scheme)

    class ToNorth(Witness):
        def _remember(self, step: CoordinatorStep) -> CoordinatorStep:
            asked = step.output.get("north")
            changed = {"north": replace(asked, heads=())} if isinstance(asked, Request) else {}
            return super()._remember(Step(step.records, {**step.output, **changed}))

    coordinator = ToNorth(
        federation.roster, terms=federation.terms, base=MODEL, adder=federation.adder, threads=1
    )
    federation.run(coordinator)
    assert "north" not in parts(coordinator)
    (error,) = federation.silos["north"].errors
    assert isinstance(error, FaultyCoordinator)
    assert federation.silos["north"]._participant.proceed() is None
    assert not federation.work["north"].applied
    assert all(len(federation.work[silo].applied) == 1 for silo in SILOS if silo != "north")
