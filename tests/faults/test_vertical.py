"""``silo vertical`` between processes: it equals the work in one process, and survives what may happen."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

import msgspec
import numpy as np
import pytest

from secagg.names import SiloId
from secagg.vertical import Party, align
from secagg.vertical.linear.regression import LogisticRegression
from secagg.vertical.trees.boosting import GradientBoosting
from silo.vertical.job_file import VerticalJob
from silo.vertical.work import Work
from tests.faults.vertical_wire import leaks, without_labels
from tests.faults.vertical_world import (
    FLOOR,
    JOB,
    LABEL_PARTY,
    LOGISTIC,
    NAMES,
    TREES,
    Columns,
    parties,
    shared,
)

FIT, NEW = parties(), parties(60, seed=6)
STAGES = (
    ("written", "begun"),
    ("writing", "heard"),
    ("written", "heard"),
    ("writing", "alignment"),
    ("written", "alignment"),
    ("writing", "1"),
    ("written", "2"),
    ("writing", "part"),
    ("written", "report"),
    ("writing", "done"),
)
"""Moments at which a silo is killed in training, in their order."""


@dataclass(frozen=True)
class Undisturbed:
    """What is there after trees were trained and new records scored, with nothing in between."""

    fitted: dict[str, bytes]
    predicted: dict[str, bytes]
    told: str
    heard: dict[SiloId, bytes]
    forwarded: bytes


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Columns]:
    with Columns(tmp_path_factory.mktemp("columns")) as world:
        yield world


@pytest.fixture(scope="module")
def undisturbed(lasting: Columns) -> Undisturbed:
    lasting.begin(TREES, FIT, NEW)
    lasting.both("fit")
    fitted, told = lasting.kept(), lasting.running["bank"].log
    lasting.keep()
    lasting.both("predict")
    return Undisturbed(
        fitted,
        lasting.kept(),
        told,
        {name: lasting.noted(name, "heard") for name in NAMES},
        lasting.noted("coordinator", "forwarded"),
    )


@pytest.fixture
def world(lasting: Columns, undisturbed: Undisturbed) -> Iterator[Columns]:
    lasting.begin(TREES, FIT, NEW)
    yield lasting
    for name in NAMES:
        if name in lasting.running:
            lasting.running.pop(name).end(Signals.SIGKILL)


def scores(written: bytes) -> dict[int, float]:
    return {int(line["row"]): float(line["score"]) for line in csv.DictReader(written.decode().splitlines())}


def test_trees_and_scores_are_those_of_one_process(undisturbed: Undisturbed, tmp_path: Path) -> None:
    alone = GradientBoosting(trees=3, depth=2, min_child_rows=5, bins=8).fit(
        align([FIT[name] for name in NAMES])
    )
    for name in NAMES:
        part = part_of(undisturbed.fitted[f"{name}/fit/part"], tmp_path)
        held = msgspec.json.decode(part)
        ours = msgspec.json.decode(msgspec.json.encode(alone.splits(name)))
        assert held["splits"]["columns"] == ours["columns"]
        assert held["splits"]["thresholds"] == ours["thresholds"]
        if name == LABEL_PARTY:
            trees = msgspec.json.decode(msgspec.json.encode(alone.forest))["trees"]
            assert held["forest"]["trees"] == trees
        else:
            assert held["forest"] is None
    new = align([without_labels(NEW[name]) for name in NAMES])
    found = dict(zip(new.rows[LABEL_PARTY].tolist(), alone.predict(new).tolist(), strict=True))
    assert scores(undisturbed.predicted["scores"]) == found
    assert len(found) == len(shared(NEW))
    assert "which of its own records are shared with insurer" in undisturbed.told


def part_of(kept: bytes, folder: Path) -> bytes:
    (folder / "part").write_bytes(kept)
    part = Work(folder).part
    assert part is not None
    return part.part


def test_what_is_kept_is_its_owners_alone(lasting: Columns, undisturbed: Undisturbed) -> None:
    lasting.put_back()
    for name in NAMES:
        for path in lasting.state(name).rglob("*"):
            assert not path.stat().st_mode & 0o077, path


@pytest.mark.full
def test_a_regression_is_that_of_one_process_shows_nothing_and_survives_kills(
    world: Columns, tmp_path: Path
) -> None:
    world.begin(LOGISTIC, FIT, NEW)
    world.both("fit")
    fitted = world.kept()
    world.both("predict")
    heard = {name: world.noted(name, "heard") for name in NAMES}
    job = VerticalJob.load(world.folder / "cwd" / "job.toml")
    work = Work(world.state(LABEL_PARTY) / "fit")
    nothing_travelled(heard, world.noted("coordinator", "forwarded"), job, work)

    alone = LogisticRegression().fit(align([FIT[name] for name in NAMES]))
    for name in NAMES:
        held = msgspec.msgpack.decode(part_of(fitted[f"{name}/fit/part"], tmp_path))
        # Sums over records are of another order there.
        np.testing.assert_allclose(held["coefficients"], alone.parts[name].coefficients, atol=1e-6)
    new = align([without_labels(NEW[name]) for name in NAMES])
    found = dict(zip(new.rows[LABEL_PARTY].tolist(), alone.predict(new).tolist(), strict=True))
    ours = scores(world.kept()["scores"])
    assert ours.keys() == found.keys()
    assert max(abs(ours[row] - found[row]) for row in found) < 1e-6

    world.begin(LOGISTIC, FIT, NEW)
    killed_at_each(world, "fit", "insurer", (("written", "1"), ("writing", "2"), ("writing", "part")))
    assert world.kept() == fitted


@pytest.mark.parametrize(
    ("victim", "stages"),
    [
        pytest.param("bank", STAGES[2:7:2], id="bank"),
        pytest.param("bank", STAGES, id="bank-everywhere", marks=pytest.mark.full),
        pytest.param("insurer", STAGES[1::2], id="insurer", marks=pytest.mark.full),
    ],
)
def test_one_that_is_killed_at_each_stage_ends_with_the_same_files(
    world: Columns, undisturbed: Undisturbed, victim: str, stages: tuple[tuple[str, str], ...]
) -> None:
    killed_at_each(world, "fit", victim, stages)
    assert world.kept() == undisturbed.fitted


@pytest.mark.full
@pytest.mark.parametrize(
    ("victim", "stages"),
    [
        ("bank", (("written", "heard"), ("writing", "report"))),
        ("insurer", (("written", "alignment"), ("writing", "report"), ("writing", "done"))),
    ],
)
def test_one_that_is_killed_while_scoring_ends_with_the_same_scores(
    world: Columns, undisturbed: Undisturbed, victim: str, stages: tuple[tuple[str, str], ...]
) -> None:
    world.put_back()
    killed_at_each(world, "predict", victim, stages)
    assert world.kept() == undisturbed.predicted


def killed_at_each(world: Columns, verb: str, victim: str, stages: tuple[tuple[str, str], ...]) -> None:
    other = world.type(next(name for name in NAMES if name != victim), verb)
    for at, what in stages:
        world.order(victim, at, what)
        world.type(victim, verb)
        world.killed(victim)
    last = world.type(victim, verb)
    assert last.end() == 0, last.log
    assert other.end() == 0, other.log


@pytest.mark.full
def test_both_and_the_coordinator_are_killed_and_started_again(
    world: Columns, undisturbed: Undisturbed
) -> None:
    for name in NAMES:
        world.order(name, "written", "1")
        world.type(name, "fit")
    for name in NAMES:
        world.killed(name)
    going = [world.type(name, "fit") for name in NAMES]
    world.running.pop("coordinator").end(Signals.SIGKILL)
    world.start_coordinator()
    for process in going:
        assert process.end() == 0, process.log
    assert world.kept() == undisturbed.fitted


def test_a_partner_that_vanishes_or_never_came_is_named(world: Columns) -> None:
    world.order("insurer", "written", "1")
    left = world.type("bank", "fit", wait=4.0)
    world.type("insurer", "fit")
    world.killed("insurer")
    assert left.end() == 4
    assert "x SA-4106  not all parties came back: insurer" in left.log
    assert "step 1 is on disk" in left.log


@pytest.mark.full
def test_another_table_job_or_beginning_is_refused_by_name(world: Columns) -> None:
    world.order("insurer", "written", "1")
    bank = world.type("bank", "fit", wait=4.0)
    world.type("insurer", "fit")
    world.killed("insurer")
    bank.end()

    held = FIT["insurer"]
    columns = held.X.copy()
    columns[3, 1] += 1
    world.write("insurer", "fit", Party("insurer", columns, held.ids, held.y, columns=held.columns))
    changed = world.type("insurer", "fit", wait=4.0)
    assert changed.end() == 2
    assert "the table holds something else than when this was begun" in changed.log

    bank, anew = world.type("bank", "fit"), world.type("insurer", "fit", "--again")
    assert {bank.end(), anew.end()} == {4}
    assert "insurer: it began anew, or with other records" in bank.log
    world.both("fit", "--again")
    assert "done" in world.type("bank", "fit").saw("all parties keep their parts")

    job = world.folder / "cwd" / "job.toml"
    job.write_text(job.read_text(encoding="utf-8").replace("trees = 3", "trees = 4"), encoding="utf-8")
    later = world.type("insurer", "fit")
    assert later.end() == 2
    assert "the job file says something else than when this was begun" in later.log


@pytest.mark.full
def test_a_partner_with_another_job_file_is_named(world: Columns) -> None:
    job = world.folder / "cwd" / "job.toml"
    bank = world.type("bank", "fit")
    bank.saw("waiting")
    job.write_text(job.read_text(encoding="utf-8").replace("trees = 3", "trees = 4"), encoding="utf-8")
    insurer = world.type("insurer", "fit")
    assert (bank.end(), insurer.end()) == (4, 4)
    said = [
        process.log
        for process, other in ((bank, "insurer"), (insurer, "bank"))
        if f"{other}: it has another job file" in process.log
    ]
    assert said, bank.log + insurer.log


@pytest.mark.full
def test_who_is_not_listed_or_asks_too_much_is_refused_before_anything_is_told(world: Columns) -> None:
    toml = world.config("bank")
    text = toml.read_text(encoding="utf-8")
    toml.write_text(text.replace('partners = ["insurer"]', "partners = []"), encoding="utf-8")
    try:
        unlisted = world.type("bank", "fit", wait=4.0)
        assert unlisted.end() == 6
        assert "insurer may not look for shared records here" in unlisted.log
        toml.write_text(
            text.replace('partners = ["insurer"]', 'partners = ["insurer"]\nlargest_set = 10'),
            encoding="utf-8",
        )
        narrow, insurer = world.type("bank", "fit"), world.type("insurer", "fit")
        assert narrow.end() == 6
        assert insurer.end() in {4, 6}
        assert "bank" in insurer.log.split("x SA-")[1]
        assert "insurer brings" in narrow.log
    finally:
        toml.write_text(text, encoding="utf-8")
    assert not (world.state("insurer") / "fit" / "alignment").exists()


def test_a_job_that_shows_more_than_a_silo_lets_is_refused_there(world: Columns) -> None:
    toml = world.config("bank")
    text = toml.read_text(encoding="utf-8")
    toml.write_text(text.replace(FLOOR, "[vertical]\nmin_child_rows = 6\n"), encoding="utf-8")
    try:
        for verb in ("fit", "predict"):
            bank = world.type("bank", verb)
            assert bank.end() == 6
            assert "[trees] min_child_rows = 5" in bank.log
            assert "x SA-6020" in bank.log
            assert "read" not in bank.log.split("x SA-")[0]
    finally:
        toml.write_text(text, encoding="utf-8")
    assert not world.state("bank").exists()


@pytest.mark.full
def test_labels_that_are_none_are_refused_where_they_are(world: Columns) -> None:
    held = FIT["insurer"]
    assert held.y is not None
    wrong = Party("insurer", held.X, held.ids, held.y + 1, columns=held.columns)
    world.begin(TREES, FIT | {"insurer": wrong}, NEW)
    refused = world.type("insurer", "fit")
    assert refused.end() == 2
    assert "the label label has other numbers than 0 and 1" in refused.log
    unlabelled = world.type("bank", "fit", "--label", "bank_0")
    assert unlabelled.end() == 2
    assert "insurer has the labels" in unlabelled.log


def test_nothing_that_is_secret_travels(undisturbed: Undisturbed, tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(JOB + TREES, encoding="utf-8")
    (tmp_path / "alignment").write_bytes(undisturbed.fitted[f"{LABEL_PARTY}/fit/alignment"])
    job = VerticalJob.load(tmp_path / "job.toml")
    nothing_travelled(undisturbed.heard, undisturbed.forwarded, job, Work(tmp_path))


def nothing_travelled(heard: dict[SiloId, bytes], forwarded: bytes, job: VerticalJob, labelled: Work) -> None:
    aligned = labelled.alignment
    assert aligned is not None
    unlabelled = {name: without_labels(NEW[name]) for name in NAMES}
    found = leaks(heard, forwarded, job=job, trained=FIT, order=aligned.places, scored=unlabelled)
    assert not found, "\n".join(found)
