"""A round goes on over lost silos, late messages and a restarted coordinator, and blames nobody for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
import pytest

from secagg import wire
from secagg.errors import MalformedMessage, RoundAborted, TooFewSilos, UnexpectedMessage
from secagg.masking import dealing, transcript
from secagg.masking.params import Masking
from secagg.messages import (
    AdvertiseKeys,
    BaseRequested,
    BoxReport,
    ConsistencyCheck,
    FromSilo,
    MaskedInput,
    Ready,
    Refused,
    RoundOpened,
    ShareKeys,
    Unmasking,
    Void,
    Voided,
)
from secagg.names import SiloId
from secagg.payload import Frame, Payload
from secagg.plain import Plain
from secagg.rounds.base_desk import MAX_BASES
from secagg.rounds.driver import RoundDriver
from secagg.rounds.memory import Memory
from secagg.rounds.reporting import describe_round
from secagg.scheme import Scheme
from secagg.session import Aggregate
from secagg.survivors import sign_void
from tests.federations import MODEL, Federation, Witness

Fate: TypeAlias = Callable[[SiloId, FromSilo], str | None]


class Stage:
    """A round whose coordinator may be replaced, as its process would be, while the silos live on.

    Attributes:
        held: frames that were kept back by the fate "held".
    """

    def __init__(self, n: int, *, scheme: Scheme | None = None) -> None:
        self.federation = Federation(n, scheme=scheme)
        self.names = self.federation.roster.silos
        self.now = 0.0
        self.held: list[tuple[SiloId, Frame]] = []
        self.begin()

    def begin(self, memory: Memory | None = None) -> None:
        """Begin with a fresh coordinator, which knows ``memory``."""
        self.coordinator: Witness = self.federation.coordinator(memory=memory)
        self.driver = RoundDriver(self.coordinator)
        self.downlink: deque[tuple[SiloId, Frame]] = deque(self.driver.open(self.now))

    def restart(self) -> None:
        """The coordinator's process ends, and another one begins with what was kept."""
        data = msgspec.msgpack.encode(self.coordinator.memory)
        self.begin(msgspec.msgpack.decode(data, type=Memory))

    def run(self, fate: Fate | None = None, *, until: Callable[[], bool] | None = None) -> None:
        """Run until the sum is open and delivered, or ``until`` holds. Fates: silent, drop, held."""
        for _ in range(10_000):
            if until is not None and until():
                return
            if self.downlink:
                self._deliver(fate)
            elif self.driver.outcome is not None:
                return
            else:
                assert self.driver.deadline is not None, "the round hangs"
                self.now = max(self.now, self.driver.deadline)
                self.downlink += self.driver.advance(self.now)
        raise AssertionError("the round does not end")

    def _deliver(self, fate: Fate | None) -> None:
        silo, frame = self.downlink.popleft()
        reply = self.federation.silos[silo].deliver(frame)
        if reply is None:
            return
        message = wire.decode_from_silo(*reply)
        chosen = None if fate is None else fate(silo, message)
        match chosen:
            case "silent":
                return
            case "drop":
                self.driver.lose(silo)
            case "held":
                self.held.append((silo, reply))
            case _:
                self.downlink += self.driver.take(silo, reply)
        if self.driver.outcome is None:
            self.downlink += self.driver.advance(self.now)

    @property
    def survivors(self) -> tuple[SiloId, ...]:
        outcome = self.driver.outcome
        assert isinstance(outcome, Aggregate)
        assert outcome.total.tolist() == self.federation.sum_of(outcome.survivors)
        return outcome.survivors

    @property
    def dropouts(self) -> dict[SiloId, str]:
        """What the report says of silos that are not in the sum."""
        outcome = self.driver.outcome
        assert outcome is not None
        report = describe_round(
            self.federation.terms, outcome.survivors, self.coordinator, self.driver.traffic, worst_error=0.0
        )
        return {silo: why for silo, why in report.dropouts.items() if silo not in outcome.survivors}


# --- late is not wrong, whoever restarted ---


@pytest.mark.parametrize("kind", [AdvertiseKeys, ShareKeys, MaskedInput], ids=lambda kind: kind.__name__)
def test_a_message_of_an_attempt_before_the_restart_is_late(kind: type[FromSilo]) -> None:
    stage = Stage(5)
    west = stage.names[-1]
    stage.run(
        lambda silo, message: "held" if (silo, type(message)) == (west, kind) else None,
        until=lambda: bool(stage.held) and not stage.downlink,
    )
    stage.restart()
    late = [stage.held.pop()]

    def comes(silo: SiloId, message: FromSilo) -> None:
        if late and stage.coordinator.phase == kind.__name__:
            stage.downlink += stage.driver.take(*late.pop())

    stage.run(comes)
    assert not late
    assert stage.survivors == stage.names
    assert stage.coordinator.losses == {}


def test_ready_for_terms_that_nobody_remembers_is_late() -> None:
    """A slow trainer whose job was replaced, or whose coordinator restarted: it is ready soon."""
    stage = Stage(4)
    west = stage.names[-1]
    with pytest.raises(UnexpectedMessage):
        stage.coordinator.receive(west, Ready(bytes(32)))
    stage.run()
    assert stage.survivors == stage.names
    assert stage.coordinator.losses == {}


def test_a_refusal_of_an_earlier_attempt_is_late() -> None:
    stage = Stage(5)
    west = stage.names[-1]
    stage.run(until=lambda: stage.coordinator.phase == "MaskedInput")
    stage.restart()
    stage.run(until=lambda: stage.coordinator.phase == "ShareKeys")
    with pytest.raises(UnexpectedMessage, match="earlier attempt"):
        stage.coordinator.receive(west, Refused("lock", (), 1))
    stage.run()
    assert stage.survivors == stage.names


# --- what locked silos can still sign ---


def released_by_three_of_six(stage: Stage) -> Fate:
    """One is lost before its input; of the other five three release and two fall silent."""

    def fate(silo: SiloId, message: FromSilo) -> str | None:
        if stage.coordinator.attempt > 1:
            return None
        if silo == stage.names[5] and isinstance(message, MaskedInput):
            return "silent"
        return "silent" if silo in stage.names[3:5] and isinstance(message, Unmasking) else None

    return fate


def test_who_is_not_in_the_locked_set_sits_the_next_attempt_out() -> None:
    """Too few can void it: with the sixth silo back, everybody would refuse the set of six for ever."""
    stage = Stage(6)
    stage.run(released_by_three_of_six(stage))
    assert stage.survivors == stage.names[:5]
    assert stage.coordinator.attempt == 2


def test_a_restarted_coordinator_knows_the_locked_set() -> None:
    stage = Stage(6)
    stage.run(released_by_three_of_six(stage), until=lambda: stage.coordinator.phase == "Voided")
    stage.restart()
    stage.run()
    assert stage.survivors == stage.names[:5]


def test_without_the_set_the_round_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the whole roster is invited again, and refused again."""
    monkeypatch.setattr("secagg.rounds.coordinator.RoundCoordinator._still_bound", lambda *_: None)
    stage = Stage(6)
    with pytest.raises(TooFewSilos):
        stage.run(released_by_three_of_six(stage))


def test_a_round_waits_for_a_silo_of_the_locked_set() -> None:
    """Four have signed, of whom one died and one released: its return is awaited, and finishes the round."""
    stage = Stage(4)
    away = stage.names[3]

    def fate(silo: SiloId, message: FromSilo) -> str | None:
        if stage.coordinator.attempt > 1:
            return None
        if silo == away and isinstance(message, Unmasking):
            return "drop"
        return "silent" if silo == stage.names[2] and isinstance(message, Unmasking) else None

    stage.run(fate, until=lambda: stage.coordinator.attempt == 2)
    assert away in stage.coordinator.waiting
    stage.run(fate)
    assert stage.survivors == stage.names


# --- silos that were lost ---


def test_silos_without_whom_there_is_no_sum_are_waited_for() -> None:
    stage = Stage(5)

    def fate(silo: SiloId, message: FromSilo) -> str | None:
        first = stage.coordinator.attempt == 1 and isinstance(message, MaskedInput)
        return "drop" if first and silo in stage.names[3:] else None

    stage.run(fate)
    assert stage.survivors == stage.names
    assert stage.coordinator.attempt == 2


def test_a_silo_whose_message_was_too_late_is_waited_for_again() -> None:
    stage = Stage(5)
    west = stage.names[-1]
    stage.run(
        lambda silo, message: "held" if silo == west and isinstance(message, MaskedInput) else None,
        until=lambda: bool(stage.held) and not stage.downlink,
    )
    stage.driver.lose(west)
    stage.downlink += stage.driver.advance(stage.now)
    assert stage.coordinator.phase == "ConsistencyCheck"
    stage.driver.take(*stage.held.pop())
    two = stage.names[:2]
    stage.run(
        lambda silo, message: "silent" if silo in two and isinstance(message, ConsistencyCheck) else None,
        until=lambda: stage.coordinator.attempt == 2,
    )
    assert west in stage.coordinator.waiting


@pytest.mark.parametrize("scheme", [Masking(), Plain()], ids=str)
def test_a_spool_that_fails_costs_an_attempt_and_not_the_round(
    scheme: Scheme, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(5, scheme=scheme)
    failing = "add_into" if scheme == Masking() else "array"
    real, uploads = getattr(Payload, failing), 0

    def fails_once(self: Payload, *arguments: Any) -> Any:
        nonlocal uploads
        uploads += self.length == stage.federation.encoding.length + 1
        if uploads == 2:
            raise MalformedMessage("the spool is gone")
        return real(self, *arguments)

    monkeypatch.setattr(Payload, failing, fails_once)
    stage.run()
    assert stage.survivors == stage.names
    assert stage.coordinator.attempt == 2
    assert stage.coordinator.losses == {}


def test_a_spool_that_always_fails_ends_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Payload, total: Any) -> None:
        raise MalformedMessage("the spool is gone")

    monkeypatch.setattr(Payload, "add_into", fails)
    stage = Stage(4)
    with pytest.raises(RoundAborted, match="spooled"):
        stage.run()
    assert stage.coordinator.attempt == 3


# --- what the report says of those who are missing ---


def test_a_silo_that_restarted_within_a_round_is_lost_in_it() -> None:
    stage = Stage(5)
    west, invited = stage.names[-1], False

    def fate(silo: SiloId, message: FromSilo) -> str | None:
        nonlocal invited
        if isinstance(message, ShareKeys) and not invited:
            invited = True
            stage.federation.silos[west].restart()
            stage.downlink += stage.driver.invite(west)
        return "drop" if silo == west and isinstance(message, AdvertiseKeys) else None

    stage.run(fate)
    assert stage.survivors == stage.names[:-1]
    assert stage.dropouts == {west: "AdvertiseKeys"}


def test_a_silo_that_reported_a_dealer_has_its_reason() -> None:
    stage = Stage(5)
    reporter, dealer = stage.names[1], stage.names[0]
    session = b""

    def hears(silo: SiloId, message: FromSilo) -> str | None:
        nonlocal session
        if silo == reporter and isinstance(message, MaskedInput):
            session = stage.coordinator.memory.past[-1].session or b""
            stage.driver.receive(reporter, BoxReport(session, dealer), (b"", None))
            return "silent"
        return None

    stage.run(hears)
    assert stage.survivors == tuple(silo for silo in stage.names if silo != reporter)
    assert stage.dropouts == {reporter: f"refused: boxes of {dealer}"}


# --- who was convicted ---


def test_a_conviction_outlives_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dealer is gone after the restart: the others' locks move only with the evidence against it."""
    stage = Stage(6)
    dealer = stage.names[0]
    _deals_another_secret(stage, dealer, monkeypatch)
    stage.run(until=lambda: stage.coordinator.attempt == 2)
    assert stage.coordinator.excluded == {dealer}
    memory = stage.coordinator.memory
    assert [evidence.dealer for evidence in memory.evidence] == [dealer]
    stage.restart()
    stage.run(lambda silo, _: "silent" if silo == dealer else None)
    assert stage.survivors == stage.names[1:]


def test_without_the_evidence_every_honest_silo_waits_for_the_cheat(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    stage = Stage(6)
    dealer = stage.names[0]
    _deals_another_secret(stage, dealer, monkeypatch)
    stage.run(until=lambda: stage.coordinator.attempt == 2)
    stage.begin(msgspec.structs.replace(stage.coordinator.memory, evidence=()))
    with pytest.raises(TooFewSilos):
        stage.run(lambda silo, _: "silent" if silo == dealer else None)


def _deals_another_secret(stage: Stage, dealer: SiloId, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``dealer`` commit to a seed that is not the one it shares."""
    real_deal, real_commitment = dealing.deal, transcript.seed_commitment

    def deal(**named: Any) -> Any:
        if named["dealer"] == dealer:
            with monkeypatch.context() as patch:
                patch.setattr(transcript, "seed_commitment", lambda s, d, _: real_commitment(s, d, bytes(32)))
                return real_deal(**named)
        return real_deal(**named)

    monkeypatch.setattr("secagg.masking.silo.deal", deal)


def test_reports_outlive_the_process() -> None:
    stage = Stage(5)
    stage.run(until=lambda: stage.coordinator.phase == "MaskedInput")
    session = stage.coordinator.memory.past[-1].session
    assert session is not None
    dealer = stage.names[0]
    for reporter in stage.names[1:3]:  # c + 1
        stage.coordinator.receive(reporter, BoxReport(session, dealer))
    stage.restart()
    assert stage.coordinator.excluded == {dealer}
    assert stage.coordinator.memory.reporters(dealer) == set(stage.names[1:3])


# --- small limits ---


def test_a_base_is_sent_a_bounded_number_of_times() -> None:
    stage = Stage(4)
    for _ in range(MAX_BASES):
        assert stage.coordinator.receive("north", BaseRequested(MODEL.digest)).output
    with pytest.raises(UnexpectedMessage, match="8 times"):
        stage.coordinator.receive("north", BaseRequested(MODEL.digest))


def test_a_memory_survives_its_bytes() -> None:
    stage = Stage(6)
    stage.run(released_by_three_of_six(stage), until=lambda: stage.coordinator.phase == "Voided")
    memory = stage.coordinator.memory
    assert (memory.attempt, len(memory.asked), len(memory.past)) == (1, 1, 1)
    assert memory.asked[0].survivors == stage.names[:5]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(memory), type=Memory) == memory
    assert memory.next_round() == Memory(past=memory.past)


# --- what a silo may say ---


def test_only_voids_that_were_asked_for_are_handed_on() -> None:
    """A silo that answers with thousands of others would make the next message too long for everybody."""
    stage = Stage(6)
    stage.run(released_by_three_of_six(stage), until=lambda: stage.coordinator.phase == "Voided")
    west, asked = stage.names[5], stage.coordinator.memory.asked[0].round_id
    identity = stage.federation.identities[west]
    junk = tuple(Void(west, bytes([n]) * 32, bytes(64)) for n in range(200))
    forged = Void(west, asked, bytes(64))
    true = sign_void(identity, west, asked)
    stage.coordinator.receive(west, Voided((*junk, true, forged, true)))
    stage.downlink = deque(frame for frame in stage.downlink if frame[0] != west)
    stage.run(released_by_three_of_six(stage), until=lambda: stage.coordinator.attempt == 2)
    opened = next(m for _, m in reversed(stage.coordinator.log) if isinstance(m, RoundOpened))
    assert [void for void in opened.voids if void.silo == west] == [true]


def test_a_process_that_ended_after_the_sum_was_opened_still_knows_the_set() -> None:
    """The sum was announced and not yet kept: silos are locked, so the round is opened again for that set."""
    stage = Stage(5)
    west = stage.names[-1]

    def fate(silo: SiloId, message: FromSilo) -> str | None:
        return "silent" if silo == west and isinstance(message, MaskedInput) else None

    stage.run(fate)
    assert stage.survivors == stage.names[:-1]
    assert [asked.survivors for asked in stage.coordinator.memory.asked] == [stage.names[:-1]]
    stage.restart()
    stage.run()
    assert stage.survivors == stage.names[:-1]


def test_a_rule_moves_no_cursor() -> None:
    """It is printed where people read: what it cannot do is look like something else."""
    stage = Stage(4)
    stage.coordinator.receive("west", Refused("\x1b[2Jlock\nx SA-5001"))
    assert stage.coordinator.losses["west"] == "refused:  [2Jlock x SA-5001"


def test_a_refusal_names_members_only() -> None:
    stage = Stage(4)
    stage.coordinator.receive("west", Refused("lock", ("north", "nobody", "north")))
    assert stage.coordinator.losses["west"] == "refused: lock (needs north)"
