"""Signed heads of ledgers: what peers hold of them, and rounds in which a ledger was put back.

The ledgers are real and in memory; a rollback keeps fewer of their lines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from secagg import wire
from secagg.errors import FaultyCoordinator, FaultySilo, RoundAborted, SecaggError
from secagg.heads import Heads, LedgerRefused, check_sent
from secagg.masking.params import Masking
from secagg.messages import (
    ConsistencyCheck,
    EncryptedInput,
    FromCoordinator,
    FromSilo,
    MaskedInput,
    Opened,
    PartialDecryption,
    Refused,
    SignedUpload,
    SurvivorsAnnounced,
    Unmasking,
    UploadsAnnounced,
)
from secagg.names import SiloId
from secagg.payload import Payload
from secagg.privacy.heads import LedgerHead, data_set_digest, head_fault, sign_head
from secagg.records import HeadHeld, LedgerTrusted, LedgerWentBack, SetSigned, SiloRecord
from secagg.rounds.silo import refusal
from secagg.scheme import Scheme
from secagg.session import CoordinatorStep
from secagg.simulation import SimulatedSilo
from tests.federations import ENCRYPTED, PAILLIER, Federation, Witness, roster_of
from tests.ledgers import NOISE, Ledgered, N

ROSTER, IDENTITIES = roster_of(N)
SILOS = ROSTER.silos
ROUNDS = tuple(bytes([i]) * 32 for i in range(4))
PROTECTED: tuple[Scheme, ...] = (Masking(), *ENCRYPTED)

Input = MaskedInput | EncryptedInput
Announced = SurvivorsAnnounced | UploadsAnnounced
DATA = Payload.of(np.zeros(4, np.uint32))
UPLOAD = SignedUpload(bytes(32), None, bytes(64))


def head(
    silo: SiloId, entries: int, round_id: bytes = ROUNDS[0], *, chain: int = 0, data_set: str = "default"
) -> LedgerHead:
    """Return the head of a ledger; those of one ``chain`` belong to one ledger."""
    at = bytes([chain, entries]) * 16
    return sign_head(IDENTITIES[silo], silo, data_set, entries=entries, chain=at, context=round_id)


def taken(
    heads: Heads, *announced: tuple[SiloId, LedgerHead], round_id: bytes = ROUNDS[0], needed: Any = ()
) -> tuple[HeadHeld, ...]:
    """Take heads, and hold them, or that they were refused, as a silo does in its rounds."""
    try:
        records = heads.take(ROSTER, announced, needed=needed, context=round_id)
    except LedgerRefused as refused:
        for back in refused.records:
            heads.apply(back)
        raise
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
    assert refused.value.records == (LedgerWentBack("north", then.data_set),)
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
        heads.take(ROSTER, announced, needed=("north", "south"), context=ROUNDS[0])
    honest = ("north", head("north", 6)), ("south", head("south", 1))
    assert len(heads.take(ROSTER, honest, needed=("north", "south"), context=ROUNDS[0])) == 2


def test_what_was_only_looked_at_is_not_held() -> None:
    heads = Heads()
    heads.take(ROSTER, [("north", head("north", 5))], needed=(), context=ROUNDS[0])
    assert taken(heads, ("north", head("north", 1)))


def went_back() -> Heads:
    """Return heads of which that of north was behind once."""
    heads = Heads()
    taken(heads, ("north", head("north", 5)), ("south", head("south", 1)))
    with pytest.raises(LedgerRefused):
        taken(heads, ("north", head("north", 4)))
    return heads


@pytest.mark.parametrize("entries", [5, 6, 100])
def test_a_ledger_that_was_behind_stays_refused_however_far_it_comes(entries: int) -> None:
    heads = went_back()
    for _ in range(2):
        with pytest.raises(LedgerRefused, match="what it forgot then may be forgotten still") as refused:
            taken(heads, ("north", head("north", entries)))
        assert refused.value.records == (LedgerWentBack("north", head("north", 1).data_set),)
    # Of nobody else, and of no other data set.
    assert taken(heads, ("south", head("south", 2)), ("north", head("north", 0, data_set="other")))


def test_a_ledger_is_trusted_again_by_its_name_alone_and_begins_anew() -> None:
    heads = went_back()
    heads.apply(LedgerTrusted("south"))
    with pytest.raises(LedgerRefused):
        taken(heads, ("north", head("north", 6)))
    heads.apply(LedgerTrusted("north"))
    # Whatever is said first is held: the operators agreed on it.
    assert taken(heads, ("north", head("north", 2, chain=1)))
    with pytest.raises(LedgerRefused, match="1 entries and had 2"):
        taken(heads, ("north", head("north", 1)))
    with pytest.raises(LedgerRefused, match="forgotten still"):
        taken(heads, ("north", head("north", 3)))


def test_trust_is_for_every_data_set_of_a_silo() -> None:
    heads = went_back()
    other = head("north", 3, data_set="other")
    taken(heads, ("north", other))
    with pytest.raises(LedgerRefused):
        taken(heads, ("north", head("north", 2, data_set="other")))
    heads.apply(LedgerTrusted("north"))
    for first in (head("north", 1), head("north", 1, data_set="other")):
        assert taken(heads, ("north", first))


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(("north", "south")), st.integers(0, 3), st.integers(0, 1)),
            st.sampled_from(("north", "south")),
        )
    )
)
def test_an_accepted_head_is_never_behind_one_before_also_after_a_restart(
    said: list[tuple[SiloId, int, int] | SiloId],
) -> None:
    """A name alone is that its ledgers are trusted."""
    heads, journal = Heads(), list[SiloRecord]()
    held, back = dict[SiloId, tuple[int, int]](), set[SiloId]()
    for number, step in enumerate(said):
        if number % 2:
            heads = Heads(journal)
        if isinstance(step, str):
            journal.append(LedgerTrusted(step))
            heads.apply(LedgerTrusted(step))
            held.pop(step, None)
            back.discard(step)
            continue
        silo, entries, chain = step
        before = held.get(silo)
        right = silo not in back and (before is None or entries > before[0] or (entries, chain) == before)
        try:
            records = taken(heads, (silo, head(silo, entries, chain=chain)))
        except LedgerRefused as refused:
            assert not right
            back.add(silo)
            journal += refused.records
            continue
        assert right
        journal += records
        held[silo] = entries, chain


# --- what the coordinator checks -------------------------------------------------------------------------

TERMS = Federation(N, privacy=NOISE).terms
WITHOUT = Federation(N).terms


def inputs(sent: LedgerHead | None) -> tuple[Input, ...]:
    return MaskedInput(ROUNDS[0], DATA, sent), EncryptedInput(ROUNDS[0], UPLOAD, DATA, sent)


@pytest.mark.parametrize("kind", [0, 1], ids=["masked", "encrypted"])
def test_a_silo_without_a_head_is_named_where_there_is_noise(kind: int) -> None:
    for sent in (None, head("north", 1, ROUNDS[1]), head("south", 1), replace(head("north", 1), entries=2)):
        with pytest.raises(FaultySilo) as fault:
            check_sent(ROSTER, TERMS, "north", inputs(sent)[kind])
        assert fault.value.silo == "north"
    check_sent(ROSTER, TERMS, "north", inputs(head("north", 1))[kind])


@pytest.mark.parametrize("kind", [0, 1], ids=["masked", "encrypted"])
def test_without_noise_a_head_may_be_missing_and_not_be_wrong(kind: int) -> None:
    for sent in (None, head("north", 1)):
        check_sent(ROSTER, WITHOUT, "north", inputs(sent)[kind])
    with pytest.raises(FaultySilo):
        check_sent(ROSTER, WITHOUT, "north", inputs(head("south", 1))[kind])


# --- rounds ----------------------------------------------------------------------------------------------


def scheme_id(value: Any) -> str:
    return str(value) if isinstance(value, bool | int) else type(value).__name__


def signers(coordinator: Witness) -> set[SiloId]:
    """Return who signed a set."""
    return {silo for silo, message in coordinator.log if isinstance(message, ConsistencyCheck)}


def parts(coordinator: Witness) -> set[SiloId]:
    """Return who helped to open a sum, or opened one."""
    sent = (Unmasking, PartialDecryption, Opened)
    return {silo for silo, message in coordinator.log if isinstance(message, sent)}


def after(federation: Ledgered, rounds: int) -> Ledgered:
    """Let a number of rounds pass."""
    for _ in range(rounds):
        federation.run(federation.coordinator())
        federation.next_round()
    return federation


def put_back_wholly(scheme: Scheme | None = None, **changes: Any) -> Ledgered:
    """Return a federation in which the whole disk of west is that of before the last round."""
    federation = after(Ledgered(scheme, **changes), 1)
    federation.put_back("west", 0, journal=0)
    return federation


PEERS = tuple(silo for silo in SILOS if silo != "west")


@pytest.mark.parametrize("scheme", PROTECTED, ids=scheme_id)
def test_every_silo_holds_the_heads_of_a_round_whose_set_it_signed(scheme: Scheme) -> None:
    federation = Ledgered(scheme)
    for number in (1, 2):
        coordinator = federation.coordinator()
        federation.run(coordinator)
        assert signers(coordinator) == set(SILOS)
        for silo in SILOS:
            assert federation.heads_held(silo) == dict.fromkeys(SILOS, number)
        federation.next_round()


@pytest.mark.parametrize(
    ("scheme", "restarted"),
    [(Masking(), False), (Masking(), True), *((scheme, True) for scheme in ENCRYPTED)],
    ids=scheme_id,
)
def test_peers_do_not_sign_a_set_with_a_ledger_that_was_put_back(scheme: Scheme, restarted: bool) -> None:
    federation = after(Ledgered(scheme), 1)
    federation.put_back("west", 0)
    for silo in PEERS if restarted else ():
        federation.silos[silo].restart()
    locks = {silo: len(federation.records(silo, SetSigned)) for silo in SILOS}

    coordinator = federation.coordinator(attempts=1)
    with pytest.raises(RoundAborted):
        federation.run(coordinator)
    assert not signers(coordinator)
    assert not parts(coordinator)
    for silo in SILOS:  # West too: its journal knows how far its ledger was.
        (error,) = federation.silos[silo].errors
        assert isinstance(error, LedgerRefused)
        assert error.silos == ("west",)
        # Nothing is locked, and what was found is on disk though the message was refused.
        assert len(federation.records(silo, SetSigned)) == locks[silo]
        assert [record.silo for record in federation.records(silo, LedgerWentBack)] == ["west"]
        assert federation.heads_held(silo) == dict.fromkeys(SILOS, 1)
    assert all("ledger" in coordinator.losses[silo] and "west" in coordinator.losses[silo] for silo in PEERS)


@pytest.mark.parametrize("scheme", PROTECTED, ids=scheme_id)
def test_the_round_goes_on_without_a_ledger_that_was_put_back(scheme: Scheme) -> None:
    """Its whole disk was, so that it does not know and signs; its peers do not."""
    federation = put_back_wholly(scheme)
    coordinator = federation.coordinator()
    opened = federation.run(coordinator)
    assert opened.survivors == PEERS
    assert coordinator.attempt == 2
    assert coordinator.excluded == coordinator.put_back == {"west"}
    assert coordinator.losses == {"west": "its privacy ledger was put back, say its peers"}
    assert parts(coordinator) == set(PEERS)
    for silo in PEERS:
        assert len(federation.silos[silo].errors) == 1


@pytest.mark.parametrize("restarted", [False, True])
def test_a_ledger_that_caught_up_stays_refused_until_it_is_trusted(restarted: bool) -> None:
    federation = put_back_wholly()
    for entries in (1, 2, 3):
        assert federation.run(federation.coordinator()).survivors == PEERS
        assert len(federation.books["west"].lines) == entries  # There had been one.
        federation.next_round()
        for silo in PEERS if restarted else ():
            federation.silos[silo].restart()

    federation.trust("west", at=("north",))
    coordinator = federation.coordinator()
    assert federation.run(coordinator).survivors == PEERS  # South and east have not heard.
    federation.next_round()

    federation.trust("west", at=("south", "east"))
    opened = federation.run(federation.coordinator())
    assert opened.survivors == SILOS
    assert all(federation.heads_held(silo)["west"] == 5 for silo in PEERS)
    federation.next_round()
    federation.put_back("west", 4)  # It is not trusted for ever.
    with pytest.raises(RoundAborted):
        federation.run(federation.coordinator(attempts=1))


def test_the_newest_copy_of_the_ledger_is_trusted_and_the_rounds_go_on() -> None:
    federation = after(Ledgered(), 2)
    newest = list(federation.books["west"].lines)
    federation.put_back("west", 0)
    assert federation.run(federation.coordinator()).survivors == PEERS
    federation.next_round()
    federation.books["west"].lines[:] = newest
    federation.books["west"].ledger = None
    federation.trust("west")
    assert federation.run(federation.coordinator()).survivors == SILOS
    assert federation.heads_held("north")["west"] == len(newest) + 1


@pytest.mark.parametrize("scheme", [Masking(), PAILLIER], ids=scheme_id)
@pytest.mark.parametrize(
    ("liars", "named", "excluded"),
    [
        ((), (), set()),
        (("north",), ("west",), set()),
        (("north",), ("west", "south", "east"), set()),
        (("north", "south"), ("west",), {"west"}),
        (("north", "south"), ("north", "stranger"), set()),
    ],
    ids=["nobody", "one peer", "one peer, of all", "more than may collude", "themselves"],
)
def test_as_many_peers_as_may_collude_exclude_nobody(
    scheme: Scheme, liars: tuple[SiloId, ...], named: tuple[SiloId, ...], excluded: set[SiloId]
) -> None:
    federation = Ledgered(scheme)
    assert federation.c == 1
    coordinator = federation.coordinator()

    def at_first(told: FromSilo | None) -> Callable[[FromSilo], FromSilo | None]:
        return lambda reply: (
            told if isinstance(reply, ConsistencyCheck) and coordinator.attempt == 1 else reply
        )

    for silo in liars:
        federation.silos[silo].tamper = at_first(Refused("ledger", named, 1))
    if len(liars) == 1:
        federation.silos["east"].tamper = at_first(None)  # Then there is a second attempt.
    opened = federation.run(coordinator)
    assert coordinator.attempt == (2 if liars else 1)
    assert coordinator.excluded == excluded
    assert set(opened.survivors) == set(SILOS) - excluded


def test_one_peer_that_remembers_refuses_alone_and_the_others_open() -> None:
    """The journals of the others are new: as many as may collude could say the same of anybody."""
    federation = after(Ledgered(), 1)
    for silo in ("south", "east"):
        del federation.silos[silo].journal[:]
        federation.silos[silo].restart()
    federation.put_back("west", 0, journal=0)
    coordinator = federation.coordinator()
    assert federation.run(coordinator).survivors == SILOS
    assert signers(coordinator) == set(SILOS) - {"north"}
    assert not coordinator.excluded
    assert coordinator.losses["north"] == "refused: ledger (names west)"


@pytest.mark.parametrize("scheme", [Masking(), PAILLIER], ids=scheme_id)
def test_a_silo_that_is_in_the_sum_and_does_not_sign_is_checked(scheme: Scheme) -> None:
    federation = Ledgered(scheme)
    for entries in (1, 2):
        coordinator = federation.coordinator()
        opened = federation.run(coordinator, {"west": "ConsistencyCheck"})
        assert "west" in opened.survivors
        assert "west" not in signers(coordinator)
        assert all(federation.heads_held(silo)["west"] == entries for silo in PEERS)
        federation.next_round()
    federation.put_back("west", 1, journal=0)
    opened = federation.run(federation.coordinator(), {"west": "ConsistencyCheck"})
    assert opened.survivors == PEERS
    for silo in PEERS:
        (error,) = federation.silos[silo].errors
        assert isinstance(error, LedgerRefused)


def test_rounds_without_noise_check_the_heads_of_all_who_are_in_the_sum() -> None:
    federation = Ledgered(privacy=None)
    for number in (1, 2):
        federation.run(federation.coordinator())
        assert federation.heads_held("north") == dict.fromkeys(SILOS, number)
        federation.next_round()
    federation.put_back("west", 0, journal=0)
    assert federation.run(federation.coordinator()).survivors == PEERS
    (error,) = federation.silos["north"].errors
    assert isinstance(error, LedgerRefused)


# --- silos that say something else -----------------------------------------------------------------------


def beheaded(message: FromSilo) -> FromSilo:
    return replace(message, head=None) if isinstance(message, Input) else message


def boasting(message: FromSilo) -> FromSilo:
    """Say of the ledger more than was signed."""
    if not isinstance(message, Input) or message.head is None:
        return message
    return replace(message, head=replace(message.head, entries=message.head.entries + 5))


@pytest.mark.parametrize("tamper", [beheaded, boasting])
@pytest.mark.parametrize("scheme", PROTECTED, ids=scheme_id)
def test_the_coordinator_names_a_silo_that_sends_no_head_or_a_forged_one(
    scheme: Scheme, tamper: Callable[[FromSilo], FromSilo]
) -> None:
    federation = Ledgered(scheme)
    federation.silos["west"].tamper = tamper
    coordinator = federation.coordinator()
    opened = federation.run(coordinator)
    assert opened.survivors == PEERS  # What came with the head is not in the sum.
    assert coordinator.losses["west"].startswith("faulty: west: the head of its privacy ledger")
    announced = [message for _, message in coordinator.log if isinstance(message, Announced)]
    assert announced
    assert all({silo for silo, _ in message.heads} == set(PEERS) for message in announced)


def test_without_noise_a_silo_that_keeps_no_ledger_is_in_no_sum_with_those_that_do() -> None:
    federation = Ledgered(privacy=None)
    federation.silos["west"].tamper = beheaded
    errors = aborted(federation, federation.coordinator(attempts=1))
    assert len(errors) == N
    assert all(isinstance(error, FaultyCoordinator) for error in errors)


def test_among_silos_without_ledgers_rounds_have_no_heads() -> None:
    federation = Federation(N)
    coordinator = federation.coordinator()
    federation.run(coordinator)
    assert signers(coordinator) == set(SILOS)
    announced = [message for _, message in coordinator.log if isinstance(message, Announced)]
    assert announced
    assert not any(message.heads for message in announced)


# --- coordinators that say something else ----------------------------------------------------------------


class Crooked(Witness):
    """A coordinator that changes what it announces."""

    change: Callable[[Any], Any]

    def _remember(self, step: CoordinatorStep) -> CoordinatorStep:
        changed: dict[SiloId, FromCoordinator] = {
            silo: self.change(message) if isinstance(message, Announced) else message
            for silo, message in step.output.items()
        }
        return super()._remember(type(step)(step.records, changed))


def crooked(federation: Federation, change: Callable[[Any], Any]) -> Crooked:
    named = {"terms": federation.terms, "base": None, "adder": federation.adder, "threads": 1}
    made = Crooked(federation.roster, **named, attempts=1)
    made.change = change
    return made


def aborted(federation: Federation, coordinator: Witness) -> list[SecaggError]:
    """Run a round in which nobody signs; return what the silos said of it to themselves."""
    before = {silo: len(federation.silos[silo].errors) for silo in SILOS}
    with pytest.raises(SecaggError):
        federation.run(coordinator)
    assert not signers(coordinator)
    assert not parts(coordinator)
    return [error for silo in SILOS for error in federation.silos[silo].errors[before[silo] :]]


def without(silo: SiloId) -> Callable[[Any], Any]:
    return lambda said: replace(said, heads=tuple(pair for pair in said.heads if pair[0] != silo))


CHANGES: dict[str, Callable[[Any], Any]] = {
    "all heads kept back": lambda said: replace(said, heads=()),
    **{f"that of {silo} kept back": without(silo) for silo in ("north", "east")},
    "one head twice": lambda said: replace(said, heads=(said.heads[0], *said.heads)),
    "a head under another name": lambda said: replace(
        said, heads=((said.heads[1][0], said.heads[0][1]), (said.heads[0][0], said.heads[1][1]))
    ),
    "a changed head": lambda said: replace(
        said, heads=((said.heads[0][0], replace(said.heads[0][1], entries=99)), *said.heads[1:])
    ),
}


@pytest.mark.parametrize("noise", [NOISE, None], ids=["noise", "no noise"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("scheme", [Masking(), PAILLIER], ids=scheme_id)
def test_silos_sign_nothing_for_a_coordinator_that_keeps_heads_back_or_changes_them(
    scheme: Scheme, change: Callable[[Any], Any], noise: Any
) -> None:
    federation = Ledgered(scheme, privacy=noise)
    errors = aborted(federation, crooked(federation, change))
    assert len(errors) == N
    assert all(isinstance(error, FaultyCoordinator) for error in errors)
    for silo in SILOS:
        assert not federation.heads_held(silo)
        assert not federation.records(silo, SetSigned)
        assert not federation.records(silo, LedgerWentBack)


@pytest.mark.parametrize("scheme", [Masking(), PAILLIER], ids=scheme_id)
def test_a_coordinator_cannot_say_old_heads_again_to_make_a_silo_look_put_back(scheme: Scheme) -> None:
    federation = Ledgered(scheme)
    first = federation.coordinator()
    federation.run(first)
    said = next(message for _, message in first.log if isinstance(message, Announced))
    federation.next_round()
    federation.run(federation.coordinator())
    for old in (
        lambda _: said,  # What the first round announced as a whole, where every head is valid.
        lambda message: replace(message, heads=said.heads),
        lambda message: replace(message, heads=(*message.heads, *said.heads)),
    ):
        federation.next_round()
        errors = aborted(federation, crooked(federation, old))
        assert len(errors) == N
        assert all(isinstance(error, FaultyCoordinator) for error in errors)
    assert not any(federation.records(silo, LedgerWentBack) for silo in SILOS)
    federation.next_round()
    assert federation.run(federation.coordinator()).survivors == SILOS


@pytest.mark.parametrize("heads", [(), (("north", head("north", 0)),)], ids=["no heads", "others"])
def test_a_set_that_is_announced_again_changes_nothing(heads: Any) -> None:
    """Whatever heads it has: the silo signed, keeps its attempt, and takes the sum that comes."""
    federation = Ledgered()
    coordinator = federation.coordinator()
    answers = []

    def announced_again(message: FromSilo) -> FromSilo:
        if isinstance(message, Unmasking):
            said = [sent for _, sent in coordinator.log if isinstance(sent, Announced)]
            again = wire.encode(replace(said[-1], heads=heads))
            answers.append(SimulatedSilo.deliver(federation.silos["west"], again))
        return message

    federation.silos["west"].tamper = announced_again
    federation.run(coordinator)
    assert answers == [None]
    assert not federation.silos["west"].errors
    assert len(federation.work["west"].applied) == 1
