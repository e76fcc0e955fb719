"""The in-memory driver: real frames, real crashes, a clock that is handed in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from secagg import wire
from secagg.errors import MalformedMessage, ParameterError, RoundAborted, TooFewSilos
from secagg.masking.params import Masking
from secagg.messages import FromSilo, MaskedInput, RoundOpened, TrainingOpened
from secagg.names import SiloId
from secagg.plain import Plain
from secagg.rounds.driver import Phase, phases_of
from secagg.simulation import SimulatedClock, run_round
from secagg.survivors import LockRefused
from tests.contract import replays
from tests.federations import Federation, TamperedSilo, spoiled

PAGES = [Path(__file__).parents[1] / "docs" / page for page in ("protocol.md", "wire.md")]


class Diary:
    """A watcher that writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def attempt_started(self, attempt: int) -> None:
        self.events.append(("attempt", attempt))

    def silo_replied(self, silo: SiloId, phase: str) -> None:
        self.events.append(("replied", silo, phase))

    def silo_lost(self, silo: SiloId, phase: str) -> None:
        self.events.append(("lost", silo, phase))

    def silo_working(self, silo: SiloId, phase: str) -> None:
        self.events.append(("working", silo, phase))


def test_every_byte_of_the_wire_is_counted() -> None:
    federation = Federation(4)
    coordinator = federation.coordinator()
    _, traffic = run_round(coordinator, federation.silos)
    up: dict[str, int] = {}
    down = 0
    for _, message in coordinator.log:
        header, payload = wire.encode(message)
        size = len(header) + (0 if payload is None else len(payload))
        name = type(message).__name__
        if name in {"Ready", "AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmasking"}:
            name = "Training" if name == "Ready" else name
            up[name] = up.get(name, 0) + size
        else:
            down += size
    assert traffic.bytes_up == up
    assert sum(traffic.bytes_down.values()) == down
    assert list(traffic.bytes_up) == list(phases_of("masking"))
    assert traffic.seconds == {}


@pytest.mark.parametrize("scheme", [Masking(), Plain()], ids=lambda scheme: type(scheme).__name__)
def test_a_phase_has_the_name_that_the_pages_give_it(scheme: Masking | Plain) -> None:
    federation = Federation(4, scheme=scheme)
    _, traffic = run_round(federation.coordinator(), federation.silos, timer=iter(range(10**6)).__next__)
    replies = phases_of("masking" if isinstance(scheme, Masking) else "plain")
    last = "SumOpened" if isinstance(scheme, Masking) else "PlainSum"
    assert list(traffic.seconds) == list(traffic.bytes_down) == [*replies, last]
    assert list(traffic.bytes_up) == [*replies]  # Nobody answers the sum.
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    # Training is what goes on between the two messages of its phase.
    assert all(re.search(rf"\b{name}\b", pages) for name in (*replies[1:], last))


def test_an_upload_costs_four_bytes_an_entry() -> None:
    federation = Federation(4)
    coordinator = federation.coordinator()
    run_round(coordinator, federation.silos)
    for _, message in coordinator.log:
        if isinstance(message, MaskedInput):
            header, payload = wire.encode(message)
            assert payload is not None
            assert len(payload) == 4 * (federation.encoding.length + 1)
            assert len(header) < 200


@pytest.mark.parametrize("phase", phases_of("masking"))
def test_a_lost_silo_is_out_of_the_round_and_back_from_its_journal_in_the_next(phase: Phase) -> None:
    federation = Federation(4)
    coordinator = federation.coordinator()
    total, traffic = run_round(coordinator, federation.silos, dropouts={"west": phase})
    assert traffic.lost == {"west": phase}
    # At Unmasking t answers are enough, so nobody waited for it there.
    assert coordinator.losses == ({} if phase == "Unmasking" else {"west": phase})
    assert federation.work["west"].applied == []
    assert ("west" in total.survivors) == (phase in {"ConsistencyCheck", "Unmasking"})
    # It lives on from its journal: what it signed before the crash still binds it.
    federation.work["west"].model = None
    later = Federation(4, round=2, base=b"\7" * 32)
    for silo, work in federation.work.items():
        work.model = later.terms.base
        assert federation.silos[silo].errors == []
    again = federation.coordinator(terms=later.terms)
    assert run_round(again, federation.silos)[0].survivors == federation.roster.silos


def test_a_crash_does_not_unlock() -> None:
    """Lost after it signed, restarted, asked for another set of the same base in another job: refused."""
    federation = Federation(5)
    run_round(federation.coordinator(), federation.silos, dropouts={"west": "Unmasking"})
    other = Federation(5, job="other")
    coordinator = federation.coordinator(terms=other.terms)
    with pytest.raises(RoundAborted):
        run_round(coordinator, federation.silos, dropouts={"east": "MaskedInput"})
    refused = {
        silo for silo, s in federation.silos.items() if any(isinstance(e, LockRefused) for e in s.errors)
    }
    assert refused == {"north", "south", "west", "silo-04"}


def test_dropouts_name_silos_and_phases() -> None:
    federation = Federation(4)
    for bad in ({"stranger": "Unmasking"}, {"west": "Nap"}, {"west": "Ready"}):
        with pytest.raises(ParameterError, match="dropouts"):
            run_round(federation.coordinator(), federation.silos, dropouts=bad)  # type: ignore[arg-type]


def test_the_clock_jumps_only_when_everybody_waits() -> None:
    clock = SimulatedClock()
    federation = Federation(4)
    run_round(federation.coordinator(), federation.silos, clock=clock)
    assert clock.now() == 0.0
    coordinator = federation.coordinator(terms=Federation(4, job="two").terms, seconds=60.0)
    with pytest.raises(TooFewSilos):
        run_round(
            coordinator,
            federation.silos,
            clock=clock,
            dropouts={"west": "AdvertiseKeys", "east": "AdvertiseKeys"},
        )
    assert clock.now() == 60.0 * 3
    clock.wait_until(1.0)
    assert clock.now() == 180.0


def test_a_timer_is_read_in_every_phase() -> None:
    ticks = iter(range(100_000))
    federation = Federation(4)
    _, traffic = run_round(federation.coordinator(), federation.silos, timer=lambda: float(next(ticks)))
    assert set(phases_of("masking")) <= set(traffic.seconds)
    assert all(seconds >= 1.0 for seconds in traffic.seconds.values())


@pytest.mark.parametrize("scheme", [Plain(), Masking()])
def test_a_watcher_is_told_what_happens(scheme: Any) -> None:
    federation = Federation(4, scheme=scheme)
    diary = Diary()
    run_round(federation.coordinator(), federation.silos, dropouts={"west": "MaskedInput"}, watcher=diary)
    upload = "PlainInput" if scheme == Plain() else "MaskedInput"
    assert diary.events.count(("attempt", 1)) == 1
    assert [event for event in diary.events if event[0] == "lost"] == [("lost", "west", upload)]
    assert {e[1] for e in diary.events if e[0] == "replied" and e[2] == upload} == {"north", "south", "east"}
    assert {e[1] for e in diary.events if e[0] == "working"} == set(federation.roster.silos)


def test_a_tap_sees_what_the_coordinator_receives() -> None:
    federation = Federation(4)
    coordinator = federation.coordinator()
    tapped: list[tuple[SiloId, FromSilo]] = []

    def tap(silo: SiloId, message: FromSilo) -> None:
        tapped.append((silo, message))

    run_round(coordinator, federation.silos, dropouts={"west": "ShareKeys"}, tap=tap)
    sent = [entry for entry in coordinator.log if wire_role(entry[1]) == "silo"]
    assert [(silo, wire.encode(message)) for silo, message in tapped] == [
        (silo, wire.encode(message)) for silo, message in sent
    ]


def wire_role(message: Any) -> str:
    try:
        wire.decode_from_silo(*wire.encode(message))
    except MalformedMessage:
        return "coordinator"
    return "silo"


@pytest.mark.parametrize(
    "kind", ["AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmasking"]
)
def test_a_faulty_silo_is_journalled_so_that_a_replay_goes_on(kind: str) -> None:
    federation = Federation(5)

    def tamper(reply: FromSilo) -> FromSilo:
        return spoiled("west", reply) if type(reply).__name__ == kind else reply

    federation.silos["west"].tamper = tamper
    coordinator = federation.coordinator()
    clock = SimulatedClock()
    run_round(coordinator, federation.silos, clock=clock)
    assert coordinator.losses["west"].startswith("faulty: west")
    assert clock.now() == 0.0
    replays(federation, coordinator)


class Garbler(TamperedSilo):
    """A silo whose frames are no messages."""

    def deliver(self, frame: Any) -> Any:
        reply = super().deliver(frame)
        return None if reply is None else (reply[0][:-1], reply[1])


def test_bytes_that_are_no_message_name_their_sender_and_replay() -> None:
    federation = Federation(5)
    federation.silos["west"] = Garbler(federation.builder("west"))
    coordinator = federation.coordinator()
    total = federation.run(coordinator)
    assert total.survivors == ("north", "south", "east", "silo-04")
    assert coordinator.losses["west"].startswith("faulty: west")
    replays(federation, coordinator)


def test_messages_are_delivered_in_their_order() -> None:
    federation = Federation(4)
    coordinator = federation.coordinator()
    federation.run(coordinator)
    kinds = [type(message) for peer, message in coordinator.log if peer == "north"]
    assert kinds.index(TrainingOpened) < kinds.index(RoundOpened) < kinds.index(MaskedInput)
