"""Connections that break, repeat, exchange or crawl between real processes; and clocks that are wrong."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from secagg.link.frames import MAX_PIECE
from tests.faults.orders import Cut, Exchange, Order, Repeat, Slow, Way
from tests.faults.world import World, said

FAULTY = "south"
LENGTH = 1_600_000
UPLOAD = -(-4 * (LENGTH + 1) // MAX_PIECE)
BASE = -(-8 * LENGTH // MAX_PIECE)
"""Parameters, and the pieces that an upload and a base model of so many go in."""
PHASE = 3.0
"""Seconds of a phase, where it matters."""


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Whose uploads have many pieces."""
    with World(tmp_path_factory.mktemp("world") / "w", length=LENGTH) as world:
        yield world


def check_nothing_lost(world: World, order: Order) -> int:
    """Check that a run gives what it gives without the fault; return how often the silo connected again."""
    before = world[FAULTY].mark()
    world.order(FAULTY, order)
    run = world.begin(1)
    outcome = world.check(run, 1)
    assert (outcome.state, outcome.exit) == ("completed", 0), outcome.text
    assert all(record.report.attempts == 1 for record in outcome.records)
    return len(said(world[FAULTY], '"event": "connected"', start=before))


@pytest.mark.parametrize(
    ("way", "piece"),
    [
        ("up", UPLOAD // 2),
        ("down", BASE // 2),
        *(
            pytest.param(way, piece, marks=pytest.mark.full)
            for way, piece in (("up", 1), ("up", UPLOAD - 1), ("up", UPLOAD), ("down", 1), ("down", BASE))
        ),
    ],
)
def test_a_transfer_that_is_cut_off_goes_on_where_it_was(world: World, way: Way, piece: int) -> None:
    assert check_nothing_lost(world, Cut(way, piece)) == 1
    assert world.obeyed(FAULTY)
    connected = said(world["coordinator"], '"event": "silo connected"', f'"silo": "{FAULTY}"')
    assert '"resumed": true' in connected[-1]


@pytest.mark.parametrize("way", ["up", "down"])
def test_frames_that_come_twice_count_once(world: World, way: Way) -> None:
    assert check_nothing_lost(world, Repeat(way)) == 0


@pytest.mark.parametrize("way", ["up", pytest.param("down", marks=pytest.mark.full)])
def test_frames_that_come_in_another_order_are_asked_for_again(world: World, way: Way) -> None:
    assert check_nothing_lost(world, Exchange(way, piece=2, times=3)) == 3
    assert world.obeyed(FAULTY)


def test_a_slow_silo_is_awaited_while_its_bytes_move(world: World) -> None:
    """Its upload takes longer than a phase may; a megabyte of it does not."""
    world.order(FAULTY, Slow(1.5 * PHASE / UPLOAD))
    run = world.begin(1, phase_seconds=PHASE)
    world.check(run, 1)
    report = run.reports[0]
    assert report.survivors == world.silos
    assert report.seconds["MaskedInput"] > PHASE


def test_a_trickling_silo_is_not_awaited(world: World) -> None:
    """A megabyte takes it longer than a phase may: its upload is late, which is nobody's fault."""
    world.order(FAULTY, Slow(1.5 * PHASE))
    run = world.begin(1, phase_seconds=PHASE)
    run.until("opened", 1)
    world.withdraw(FAULTY)
    world.check(run, 1)
    report = run.reports[0]
    assert FAULTY not in report.survivors
    assert report.dropouts[FAULTY] == "MaskedInput"


# --- clocks -------------------------------------------------------------------------------------------------

CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>

/* Wall clocks are wrong by SHIFT seconds; those that only measure how long things take are right. */

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += (SHIFT);
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    int failed = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *where) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (where) *where = exact.tv_sec;
    return exact.tv_sec;
}
"""
HOUR = 3600


def wrong_clock(folder: Path, seconds: int) -> dict[str, str]:
    """Return the environment of a process whose wall clock is wrong by ``seconds``."""
    library = folder / f"clock{seconds}.so"
    compiled = subprocess.run(
        ["cc", "-shared", "-fPIC", f"-DSHIFT={seconds}", "-x", "c", "-", "-o", library, "-ldl"],
        input=CLOCK.encode(),
        capture_output=True,
        check=False,
    )
    assert compiled.returncode == 0, compiled.stderr.decode()
    return {"LD_PRELOAD": str(library)}


@pytest.fixture
def clocks(world: World) -> Iterator[World]:
    """Whose silo gets a wrong clock, and afterwards a right one."""
    try:
        subprocess.run(["cc", "--version"], capture_output=True, check=True)
    except FileNotFoundError:
        pytest.skip("a wrong clock is a library that is compiled here; there is no cc")
    yield world
    for name in (FAULTY, "coordinator"):
        if world.environment.pop(name, None) is not None and name in world.running:
            world.end(name)


@pytest.mark.parametrize(
    ("name", "hours"),
    [
        (FAULTY, 30),
        pytest.param(FAULTY, 500, marks=pytest.mark.full),
        pytest.param("coordinator", 30, marks=pytest.mark.full),
    ],
)
def test_a_clock_that_is_wrong_by_hours_changes_nothing(clocks: World, name: str, hours: int) -> None:
    world = clocks
    world.end(name)
    world.environment[name] = wrong_clock(world.folder, hours * HOUR)
    world.start(name)
    world.together(name)
    run = world.begin(1)
    outcome = world.check(run, 1)
    assert (outcome.state, outcome.exit) == ("completed", 0), outcome.text
    here = said(world["north"], '"event": "round opened"')[-1]
    there = said(world[name], '"event": "round opened"' if name == FAULTY else '"event": "sum opened"')[-1]
    assert apart(there, here) > (hours - 1) * HOUR  # The clock was wrong indeed.


@pytest.mark.parametrize(
    ("hours", "why"),
    [(-100 * 24, "is valid from"), pytest.param(100 * 24, "expired on", marks=pytest.mark.full)],
)
def test_a_clock_outside_the_dates_of_certificates_is_said(clocks: World, hours: int, why: str) -> None:
    world = clocks
    surroundings = wrong_clock(world.folder, hours * HOUR)
    world.end(FAULTY)
    world.environment[FAULTY] = surroundings
    told = world.typed("silo", "run", "--config", world.config(FAULTY), code=5, where=FAULTY)
    words = " ".join(told.split())
    assert "x SA-5001" in words
    assert why in words
    assert ("set this machine's clock" in words) == (hours < 0)


def apart(one: str, other: str) -> float:
    """Return by how many seconds the first line of a log is later."""
    first, second = (datetime.fromisoformat(json.loads(line)["timestamp"]) for line in (one, other))
    return (first - second).total_seconds()
