"""SIGKILL of a silo at every point of a round, and of so many that no sum can be opened."""

from __future__ import annotations

import signal
from typing import NamedTuple

import numpy as np
import pytest

from secagg.records import AttemptJoined
from tests.faults.orders import Kill
from tests.faults.world import World, entries

KILLED = "south"
BYSTANDER = "west"
PHASES = (
    "Training",
    "AdvertiseKeys",
    "ShareKeys",
    "MaskedInput",
    "ConsistencyCheck",
    "Unmasking",
    "SumOpened",
)
MOMENTS = ("arrived", "writing", "written", "leaving", "acknowledged")


class Point(NamedTuple):
    phase: str
    at: str
    round: int

    def __str__(self) -> str:
        return f"{self.round}-{self.phase}-{self.at}"

    @property
    def counted(self) -> bool:
        """Whether the silo's input had left for good: then it is in the sum."""
        return (PHASES.index(self.phase), MOMENTS.index(self.at)) >= (3, 4)


def points() -> list[Point]:
    """Return every point that there is: where nothing is written, nothing is killed around it."""
    unwritten = {("MaskedInput", None), ("ShareKeys", 2)}  # The base was adopted in the first round.
    return [
        Point(phase, at, number)
        for number in (1, 2)
        for phase in PHASES
        for at in MOMENTS
        if not (phase == "SumOpened" and at in {"leaving", "acknowledged"})
        if not (at in {"writing", "written"} and unwritten & {(phase, None), (phase, number)})
    ]


REDUCED = {
    Point("Training", "writing", 1),
    Point("ShareKeys", "writing", 1),
    Point("MaskedInput", "leaving", 2),
    Point("Unmasking", "written", 2),
    Point("SumOpened", "arrived", 1),
}


@pytest.mark.parametrize(
    "point",
    [pytest.param(p, id=str(p), marks=() if p in REDUCED else pytest.mark.full) for p in points()],
)
def test_a_silo_that_is_killed_anywhere_is_back_in_a_later_round(world: World, point: Point) -> None:
    rounds = point.round + 1
    world.order(KILLED, Kill(point.at, point.phase, point.round))
    go_on = world.shut(BYSTANDER, rounds)
    run = world.begin(rounds)
    world.killed(KILLED)
    before = set(world.joined(KILLED))
    world.start(KILLED)
    # The coordinator has its answer: its own log says so before the answer has left.
    run.until(KILLED, "Training", "done", after=("round", rounds))
    go_on()
    lost_training = point.phase == "Training" and point.at == "writing"
    world.check(run, rounds, repeated=frozenset({(KILLED, point.round)} if lost_training else ()))
    for report in run.reports:
        there = set(world.silos)
        if report.round == point.round and point.phase == "Training":
            there -= {KILLED} - set(report.survivors)  # It may be back before the others are ready.
        elif report.round == point.round and not point.counted:
            there -= {KILLED}
        assert set(report.survivors) == there, (report.round, report.dropouts)
    here = {attempt for attempt in world.joined(KILLED) if attempt.job.endswith(run.run)}
    again = {attempt.round for attempt in here - before}
    assert {rounds, rounds + 1} <= again
    assert set(world.trained(KILLED)) == set(range(1, rounds + 1))


@pytest.mark.parametrize(
    ("phase", "at"),
    [
        pytest.param("Training", "arrived", marks=pytest.mark.full),
        pytest.param("ShareKeys", "arrived", marks=pytest.mark.full),
        pytest.param("MaskedInput", "acknowledged", marks=pytest.mark.full),
        ("Unmasking", "written"),
    ],
)
def test_too_few_halt_the_run_and_it_goes_on_when_they_are_back(world: World, phase: str, at: str) -> None:
    killed = ("south", "east")
    for silo in killed:
        world.order(silo, Kill(at, phase, 1))
    run = world.begin(2, training_seconds=8.0, phase_seconds=5.0, attempts=1)
    for silo in killed:
        world.killed(silo)
    outcome = run.outcome()
    assert (outcome.state, outcome.exit) == ("halted", 4)
    assert outcome.text.startswith("x SA-4102  round 1 halted: 2 of 4 silos answered")
    assert outcome.model is None
    assert outcome.records == ()
    assert {path.name for path in world.runs(run.run).iterdir()} == {"checkpoint.safetensors"}
    person = ("--credentials", world.files / "scientist")
    told = world.typed("coordinator", "run", "watch", run.run, *person, code=4)
    assert "x SA-4102" in told
    assert "loss" not in told  # No average.
    assert "model.safetensors" not in told
    world.start(*killed)
    world.together(*killed)
    told = world.typed("coordinator", "run", "resume", run.run, "--wait", *person, code=0)
    assert "completed: 2 rounds, 4 of 4 silos in the smallest sum" in told
    world.check(world.again(run), 2)


def test_too_few_in_training_are_waited_for(world: World) -> None:
    """Half of the silos die while all train: the run says for whom it waits, and goes on when one is back."""
    killed = ("south", "east")
    go_on = world.shut(BYSTANDER, 1)
    for silo in killed:
        world.order(silo, Kill("arrived", "Training", 1))
    said = world["coordinator"].mark()
    run = world.begin(2)
    for silo in killed:
        world.killed(silo)
    world["coordinator"].saw('"event": "run waits"', '"missing": "south, east"', start=said)
    go_on()
    world.start(*killed)
    world.check(run, 2)
    assert set(run.reports[0].survivors) > {"north", BYSTANDER}
    assert any(wait.startswith("waiting for south, east: 2 silos connected, 3 needed") for wait in run.waits)


@pytest.mark.full
def test_a_silo_that_is_stopped_says_goodbye_and_a_run_goes_on(world: World) -> None:
    """SIGTERM while it trains: nothing is lost, and it is waited for no longer."""
    world.shut(BYSTANDER, 1)
    run = world.begin(2)
    world[BYSTANDER].saw('"event": "training"')
    assert world[BYSTANDER].end(signal.SIGTERM) == 0
    assert not any("Traceback" in entry.get("event", "") for entry in entries(world[BYSTANDER].log))
    run.until("opened", 1)
    assert run.outcome().state == "degraded"
    np.testing.assert_array_equal(
        world.client.model(run.run), world.local(run, 2, [r.survivors for r in run.reports]).model
    )
    assert not any(
        isinstance(r, AttemptJoined) and r.round == 1 and r.job.endswith(run.run)
        for r in world.journal(BYSTANDER)
    )
