"""Meetings of real processes that are killed and started again: what they learn is what they would have."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from signal import Signals

import pytest

from secagg.conversation import together
from secagg.names import SiloId
from secagg.vertical.checkpoints import InMemory
from tests.faults.meeter import STEPS, chain
from tests.faults.world import Process, World

SILOS: tuple[SiloId, ...] = ("north", "south", "west")


def others(silo: SiloId) -> tuple[SiloId, ...]:
    return tuple(other for other in SILOS if other != silo)


EXPECTED = {
    silo: learned.hex()
    for silo, learned in together(
        {silo: chain(silo, others(silo), InMemory(), lambda _: None) for silo in SILOS}
    ).items()
}


class Parties:
    """Processes of parties that meet through one coordinator's.

    Args:
        world: whose coordinator runs.
        meeting: that no other test has.
    """

    def __init__(self, world: World, meeting: str) -> None:
        self.world = world
        self.running: dict[SiloId, Process] = {}
        self._meeting = meeting
        self._folder = world.folder / meeting
        self._folder.mkdir()

    def start(self, silo: SiloId, *words: str | Path) -> Process:
        self.running[silo] = Process(
            [
                *(sys.executable, "-m", "tests.faults.meeter", self.world.config(silo)),
                *(self._meeting, ",".join(SILOS), self._folder / silo, *words),
            ],
            cwd=self.world.folder / "cwd",
            env=self.world.surroundings(),
        )
        return self.running[silo]

    def stopped_at(self, silo: SiloId, step: int) -> Process:
        """Start a party, which waits at a step until ``go``."""
        os.mkfifo(self._folder / "go")
        return self.start(silo, "--stop-at", str(step), self._folder / "go")

    def go(self) -> None:
        (self._folder / "go").write_bytes(b"")

    def check(self) -> None:
        """Wait for all, and look at what they learned."""
        for silo, process in self.running.items():
            assert process.end() == 0, process.log
            assert f"learned {EXPECTED[silo]}" in process.log

    def stop(self) -> None:
        for process in self.running.values():
            process.end(Signals.SIGKILL)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("meetings") / "w", silos=SILOS, ordered=False, diaries=False)
    world.start("coordinator")
    try:
        yield world
    finally:
        world.stop()


@pytest.fixture
def parties(world: World, request: pytest.FixtureRequest) -> Iterator[Parties]:
    parties = Parties(world, request.node.name[5:40])
    try:
        yield parties
    finally:
        parties.stop()


def test_a_party_that_is_killed_and_started_again_changes_nothing(parties: Parties) -> None:
    south = parties.stopped_at("south", 3)
    for silo in ("north", "west"):
        parties.start(silo)
    south.saw("step 3")
    assert south.end(Signals.SIGKILL) == -Signals.SIGKILL
    parties.running["north"].saw("waiting for south since")
    again = parties.start("south")
    parties.check()
    assert "step 4" in again.saw("step "), "it began anew"
    parties.world["coordinator"].saw("meeting over", "south was lost")


@pytest.mark.full
def test_a_coordinator_that_is_killed_and_started_again_changes_nothing(parties: Parties) -> None:
    world = parties.world
    world.start("north")  # Meetings need no state folder, so rounds go on beside them.
    world["north"].saw('"event": "connected"')
    south = parties.stopped_at("south", 3)
    for silo in ("north", "west"):
        parties.start(silo)
    south.saw("step 3")
    assert world.running.pop("coordinator").end(Signals.SIGKILL) == -Signals.SIGKILL
    parties.running["north"].saw("waiting to meet south, west through the coordinator at")
    world.start("coordinator")
    parties.go()
    parties.check()
    world["coordinator"].saw("silos meet", "north, south, west")
    assert world["north"].alive


@pytest.mark.full
def test_a_party_that_stands_still_is_lost_until_it_goes_on(parties: Parties) -> None:
    """Its machine still answers for it, and it does not: only being asked tells. That takes 50 seconds."""
    south = parties.stopped_at("south", 3)
    for silo in ("north", "west"):
        parties.start(silo)
    south.saw("step 3")
    south.signal(Signals.SIGSTOP)
    for silo in ("north", "west"):
        parties.running[silo].saw("waiting for", "south")
        parties.running[silo].saw("the meeting is over; all meet again", "south was lost")
    south.signal(Signals.SIGCONT)
    parties.go()
    parties.check()


@pytest.mark.full
def test_a_party_that_vanishes_for_good_is_named(parties: Parties) -> None:
    south = parties.stopped_at("south", 3)
    survivors = [parties.start(silo, "--patience", "10") for silo in ("north", "west")]
    south.saw("step 3")
    south.end(Signals.SIGKILL)
    assert [process.end() for process in survivors] == [4, 4]
    for process in survivors:
        error = process.saw("PartnersMissing: ")
        assert "south" in error.partition(" did not come")[0]
        assert "waiting for south since" in process.log
        assert f"step {STEPS}" not in process.log
