"""A silo that is killed while it charges: what was charged is there, and nobody is locked out."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.counts import FULL, count
from tests.privacy.ledgers import (
    Kill,
    Life,
    epsilon,
    in_memory,
    live,
    lose_power,
    path_in,
    rounds,
)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    with in_memory(tmp_path) as folder:
        yield folder


CHARGES = count(2, full=4)


def points(steps: list[tuple[str, int]]) -> Iterator[Kill]:
    """Yield kills before and after every step, and in the middle of every write; in full at each byte."""
    for number, (_, size) in enumerate(steps, 1):
        yield Kill(number)
        yield Kill(number, None)
        for part in range(1, size, 1 if FULL else max(size // 3, 1)):
            yield Kill(number, part)


def check(folder: Path, life: Life, known: list[int], numbers: list[int]) -> list[int]:
    """Open the ledger after a crash; return what it now has."""
    paid = known + life.acknowledged
    found = rounds(folder)
    assert found in (paid, [*paid, *numbers[len(life.acknowledged) :][:1]]), "what was charged is not there"
    return found


def lean(attack: Callable[..., None], *arguments: object) -> None:
    """Call ``attack`` in a fresh process: pytest has so much loaded that thousands of forks are slow."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        fresh.submit(attack, *arguments).result()


@pytest.mark.parametrize("power", [True, False], ids=["power lost", "killed"])
def test_a_kill_at_every_write_loses_nothing_that_was_charged(place: Path, power: bool) -> None:
    lean(kill_at_every_write, place, power)


def kill_at_every_write(place: Path, power: bool) -> None:
    numbers = list(range(1, CHARGES + 1))
    whole = live(place / "whole", numbers, Kill(0))
    assert (whole.acknowledged, whole.killed) == (numbers, False)
    names = {name for name, _ in whole.steps}
    assert {"write", "pwrite", "fdatasync", "fsync", "replace", "sql"} <= names
    kills = list(points(whole.steps))
    assert len(kills) > count(50, full=1000)  # Of each kind, so thousands together.
    for number, kill in enumerate(kills):
        folder = place / str(number)
        life = live(folder, numbers, kill)
        assert life.killed
        if power:
            lose_power(folder, life, existed=False)
        found = check(folder, life, [], numbers)
        after = live(folder, [100], Kill(0))  # Nobody is locked out.
        assert check(folder, after, found, [100]) == [*found, 100]
        shutil.rmtree(folder)


def test_whatever_part_of_an_unsynced_line_survives_it_opens(place: Path) -> None:
    """After a power cut the end of the file is any prefix of what was written, or zeros in its place."""
    lean(keep_part_of_a_line, place)


def keep_part_of_a_line(place: Path) -> None:
    live(place, [1, 2], Kill(0))
    path = path_in(place)
    before = path.stat().st_size
    whole = live(place, [3], Kill(0))
    line = path.read_bytes()[before:]
    at = next(number for number, (name, _) in enumerate(whole.steps, 1) if name == "fdatasync")
    for size in range(0, len(line), count(37, full=1)):
        folder = place / str(size)
        live(folder, [1, 2], Kill(0))
        life = live(folder, [3], Kill(at))
        assert life.killed
        assert not life.acknowledged
        data = path_in(folder).read_bytes()
        for rest in (b"", bytes(len(line) - size)):
            path_in(folder).write_bytes(data[: before + size] + rest)
            assert check(folder, life, [1, 2], [3]) == [1, 2]
        assert live(folder, [4], Kill(0)).acknowledged == [4]


@given(
    lives=st.lists(
        st.tuples(
            st.integers(0, 4),
            st.integers(0, 30),
            st.one_of(st.none(), st.integers(0, 400)),
            st.booleans(),
            st.integers(0, 300),
        ),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=count(10, full=100), suppress_health_check=list(HealthCheck))
def test_epsilon_is_that_of_all_charges_that_returned_or_one_more_of_each_life(
    tmp_path_factory: pytest.TempPathFactory, lives: list[tuple[int, int, int | None, bool, int]]
) -> None:
    number, known, spent = 0, list[int](), 0.0
    with in_memory(tmp_path_factory.mktemp("lives")) as folder:
        for charges, step, part, power, rest in lives:
            numbers = list(range(number + 1, number + charges + 1))
            number += charges
            existed = path_in(folder).exists()
            life = live(folder, numbers, Kill(step, part))
            if power and life.killed:
                lose_power(folder, life, existed=existed, rest=rest)
            known = check(folder, life, known, numbers)
            before, spent = spent, epsilon(folder)
            assert spent >= before
