"""The coordinator is stopped or killed, anywhere in a run; started again, it goes on by itself."""

from __future__ import annotations

import signal
from typing import NamedTuple

import pytest

from secagg.errors import EnvironmentFault
from tests.faults.orders import Kill
from tests.faults.world import Watched, World, initial

ROUNDS = 2
PHASES = ("Training", "AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmasking")


class Point(NamedTuple):
    at: str
    what: str
    round: int
    time: int = 1

    def __str__(self) -> str:
        return f"{self.round}-{self.what}-{self.at}-{self.time}"


def points() -> list[Point]:
    """Return the points of a run that was accepted."""
    last = ROUNDS + 1  # The sum of metrics alone.
    journal = [
        *(Point(at, "set_memory", 1, time) for time in (1, 2) for at in ("writing", "written")),
        *(Point(at, "write_checkpoint", n) for n in (1, last) for at in ("writing", "written")),
        *(Point(at, "add_record", n) for n in (1, last) for at in ("writing", "written")),
        *(
            Point(at, what, last)
            for what in ("write_model", "write_whole", "end")
            for at in ("writing", "written")
        ),
    ]
    return journal + [
        Point(at, phase, 1 + at_second)
        for at_second in (0, 1)
        for phase in PHASES
        for at in ("taken", "closed")
    ]


REDUCED = {
    Point("written", "set_memory", 1, 2),
    Point("written", "write_checkpoint", 1),
    Point("taken", "Unmasking", 1),
    Point("closed", "Unmasking", 2),
}


def kill_and_start_again(world: World, said: dict[str, int]) -> None:
    """Wait for the coordinator's end; the silos wait for it and say so; start it again."""
    world.killed("coordinator")
    for silo in world.silos:
        waits = world[silo].saw("waiting for the coordinator", start=said[silo])
        assert f"waiting for the coordinator at {world.listen} since " in waits
        assert '"since": "20' in waits
    world.start("coordinator")
    world.together(*world.silos)


def marks(world: World) -> dict[str, int]:
    return {silo: world[silo].mark() for silo in world.silos}


def check_undisturbed(world: World, run: Watched) -> None:
    """Check that the run gave what it gives when nothing happens: everybody in every sum, trained once."""
    outcome = world.check(run, ROUNDS)
    assert (outcome.state, outcome.exit) == ("completed", 0)
    for silo in world.silos:
        assert world.trained(silo) == dict.fromkeys(range(1, ROUNDS + 1), 1)
    names = {path.name for path in world.runs(run.run).iterdir()}
    assert names == {"checkpoint.safetensors", "model.safetensors", "model.card.json"}
    assert not list((world.state("coordinator") / "spool").iterdir())


def check_halted(world: World, run: Watched, *, opened: int) -> None:
    """Check what a run leaves that was halted after so many sums: no model, and the exit code says it."""
    outcome = run.outcome()
    assert (outcome.state, outcome.exit, outcome.model, outcome.card) == ("halted", 4, None, None)
    assert outcome.text.startswith("x SA-4103")
    assert [report.round for report in run.reports] == list(range(1, opened + 1))
    assert {path.name for path in world.runs(run.run).iterdir()} == {"checkpoint.safetensors"}


@pytest.mark.parametrize(
    "point",
    [pytest.param(p, id=str(p), marks=() if p in REDUCED else pytest.mark.full) for p in points()],
)
def test_a_coordinator_that_is_killed_anywhere_goes_on_by_itself(world: World, point: Point) -> None:
    said = marks(world)
    world.order("coordinator", Kill(*point))
    run = world.begin(ROUNDS)
    kill_and_start_again(world, said)
    check_undisturbed(world, run)


@pytest.mark.parametrize(
    ("at", "what"),
    [
        pytest.param("writing", "write_first", marks=pytest.mark.full),
        ("writing", "add_run"),
        pytest.param("written", "add_run", marks=pytest.mark.full),
    ],
)
def test_a_run_that_was_about_to_be_taken_is_there_or_it_is_not(world: World, at: str, what: str) -> None:
    """Killed before the scientist has an answer: then the run goes on, or nothing of it is left."""
    said, before = marks(world), {run.run for run in world.client.runs()}
    folders = {path.name for path in world.runs("").iterdir()}
    for silo in world.silos:
        world.diary(silo).unlink(missing_ok=True)
    world.order("coordinator", Kill(at, what, None))
    weights = initial(world.length)
    with pytest.raises(EnvironmentFault):
        world.client.start(world.request(ROUNDS), weights)
    kill_and_start_again(world, said)
    new = [run.run for run in world.client.runs() if run.run not in before]
    assert len(new) == (at == "written")
    for run in new:
        check_undisturbed(world, Watched(world.client, run, weights))
    assert {path.name for path in world.runs("").iterdir()} == folders | set(new)


def test_one_that_is_asked_to_stop_finishes_its_round_and_ends_with_4(world: World) -> None:
    go_on = world.shut("west", 1)
    run = world.begin(ROUNDS)
    world["west"].saw('"event": "training"', '"round": 1', f"-{run.run}")
    said = marks(world)
    world["coordinator"].signal(signal.SIGTERM)
    world["coordinator"].saw('"event": "stopping"')
    go_on()
    coordinator = world.running.pop("coordinator")
    assert coordinator.end() == 4, coordinator.log
    assert '"event": "sum opened"' in coordinator.log
    assert coordinator.log.count(f'"run": "{run.run}", "round": 2') == 0
    check_halted(world, run, opened=1)
    for silo in world.silos:
        world[silo].saw("waiting for the coordinator", start=said[silo])
    world.start("coordinator")
    assert run.run in world["coordinator"].saw("goes on where it was")
    check_undisturbed(world, world.again(run))


@pytest.mark.parametrize(
    "again", [True, pytest.param(False, marks=pytest.mark.full)], ids=["a second signal", "drained"]
)
def test_one_whose_round_takes_too_long_halts_and_goes_on_the_next_time(world: World, again: bool) -> None:
    go_on = world.shut("west", 2)
    run = world.begin(ROUNDS)
    world["west"].saw('"event": "training"', '"round": 2', f"-{run.run}")
    world["coordinator"].signal(signal.SIGTERM)
    world["coordinator"].saw('"event": "stopping"')
    if again:
        world["coordinator"].signal(signal.SIGTERM)
    coordinator = world.running.pop("coordinator")
    assert coordinator.end() == 4, coordinator.log
    check_halted(world, run, opened=1)
    go_on()
    world.start("coordinator")
    check_undisturbed(world, world.again(run))
