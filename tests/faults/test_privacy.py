"""Differential privacy between real processes: ledgers that are charged, spent, killed over and put back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from secagg.learning.request import DistributedAsked, PrivacyAsked
from secagg.names import SiloId
from secagg.privacy.ledger import Budget, Ledger
from silo.config import SiloConfig
from silo.ledger_view import read_ledger
from tests.faults.orders import Kill
from tests.faults.world import World

ROUNDS = 4
SMALL = Budget(epsilon=12.0)


def asked(epsilon: float = 8.0, rounds: int = ROUNDS) -> PrivacyAsked:
    return DistributedAsked(epsilon, 1e-5, rounds, "silo", 1.0, None, None)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    for silo in made.silos:
        config = made.config(silo)
        text = config.read_text(encoding="utf-8")
        config.write_text(text.replace("[policy]", f"[policy]\nepsilon = {SMALL.epsilon}"), encoding="utf-8")
    with made:
        yield made


def ledger(world: World, silo: SiloId) -> Ledger:
    return read_ledger(SiloConfig.load(world.config(silo)))[1]


def test_every_round_is_charged_once_at_every_silo_and_the_report_says_what_is_left(world: World) -> None:
    run = world.begin(2, privacy=asked(rounds=2), metrics=())
    outcome = run.outcome()
    assert outcome.error is None
    spent = [report.spent for report in run.reports]
    assert [sum(release.count for release in each.releases) for each in spent if each] == [1, 2]
    for silo in world.silos:
        charged = ledger(world, silo)
        assert [entry.round for entry in charged.entries] == [1, 2]
        # The ledger charges for the fewest silos that might be in the sum, the report for those that were.
        last = spent[-1]
        assert last is not None
        assert last.epsilon <= charged.spent("silo") <= 8.0
        shown = world.typed("silo", "ledger", "show", "--config", world.config(silo), code=0)
        assert f"{charged.spent('silo'):.4f}" in shown
        assert "1-2" in shown
    card = world.runs(run.run) / "model.card.json"
    found = next(world.runs(run.run).glob("*card*")) if not card.exists() else card
    assert "for one silo's whole contribution" in found.read_text(encoding="utf-8")


def test_a_run_that_no_budget_holds_is_refused_before_a_masked_vector_leaves(world: World) -> None:
    run = world.begin(1, privacy=asked(epsilon=30.0, rounds=1), metrics=())
    outcome = run.outcome()
    assert outcome.exit == 7
    assert outcome.state == "refused"
    assert "SA-7001" in outcome.text
    for silo in world.silos:
        assert ledger(world, silo).entries == ()
        assert not world.joined(silo)
        assert not world.trained(silo)


def test_one_silo_whose_budget_is_spent_is_left_out_and_the_others_go_on(world: World) -> None:
    world.end("south")
    config = world.config("south")
    text = config.read_text(encoding="utf-8").replace(f"epsilon = {SMALL.epsilon}", "epsilon = 0.01")
    config.write_text(text, encoding="utf-8")
    world.start("south")
    world.together("south")
    run = world.begin(1, privacy=asked(), metrics=())
    outcome = run.outcome()
    assert outcome.state == "degraded"
    assert run.reports[0].dropouts == {"south": "refused: privacy budget"}
    assert ledger(world, "south").entries == ()


@pytest.mark.parametrize(
    ("phase", "at", "left"),
    [
        pytest.param("Training", "leaving", False, marks=pytest.mark.full),
        pytest.param("MaskedInput", "arrived", False, marks=pytest.mark.full),
        ("MaskedInput", "leaving", True),
        ("ConsistencyCheck", "written", True),
    ],
)
def test_a_silo_that_is_killed_has_spent_what_left_it_and_once(
    world: World, phase: str, at: str, left: bool
) -> None:
    world.order("south", Kill(at, phase, 1))
    go_on = world.shut("west", 2)
    run = world.begin(2, privacy=asked(), metrics=())
    world.killed("south")
    before = [entry.round for entry in ledger(world, "south").entries]
    assert before == ([1] if left else [])
    world.start("south")
    run.until("south", "Training", "done", after=("round", 2))
    go_on()
    assert run.outcome().error is None
    after = [entry.round for entry in ledger(world, "south").entries]
    # What had not left may still have: the round waited, or another attempt came.
    assert after == [1, 2] if left else after in ([1, 2], [2])


def test_a_ledger_that_is_put_back_with_the_whole_disk_is_found_by_its_peers(world: World) -> None:
    world.end("south")
    copy = world.folder / "backup"
    shutil.copytree(world.home("south"), copy)
    world.start("south")
    world.together("south")
    assert world.begin(2, privacy=asked(rounds=2), metrics=()).outcome().error is None
    assert len(ledger(world, "south").entries) == 2

    world.end("south")
    shutil.rmtree(world.home("south"))
    shutil.copytree(copy, world.home("south"))
    world.start("south")
    world.together("south")
    for _ in range(3):  # It goes on to write entries, and would soon have as many as it had.
        run = world.begin(1, privacy=asked(epsilon=1.0), metrics=())
        outcome = run.outcome()
        # It took part in ignorance. Its peers signed no set with it, and went on without it.
        assert outcome.state == "degraded", outcome.text
        assert set(run.reports[0].survivors) == set(world.silos) - {"south"}
        assert "its privacy ledger was put back" in run.reports[0].dropouts["south"]
    assert len(ledger(world, "south").entries) > 2
    world["north"].saw("put back to an older state", "south")

    for peer in set(world.silos) - {"south"}:
        world.end(peer)
        world.typed("silo", "ledger", "trust", "south", "--config", world.config(peer), code=0)
        world.start(peer)
        world.together(peer)
    run = world.begin(1, privacy=asked(epsilon=1.0), metrics=())
    assert run.outcome().state == "completed"


def test_another_release_of_a_round_frees_it_of_a_set_that_cannot_form_again(world: World) -> None:
    # Two of four sign the set and are gone before they release: three are needed, and the set is locked.
    for silo in ("south", "west"):
        world.order(silo, Kill("leaving", "Unmasking", 1))
    waits = {"training_seconds": 10.0, "phase_seconds": 10.0}
    run = world.begin(1, privacy=asked(), metrics=(), attempts=1, **waits)
    for silo in ("south", "west"):
        world.killed(silo)
    assert run.outcome().error is not None
    assert not run.reports
    shutil.rmtree(world.state("west"))  # West does not come back.
    world.start("south")
    world.together("south")

    world.client.resume(run.run, new_release=True)
    again = world.again(run)
    outcome = again.outcome()
    assert outcome.error is None, outcome.text
    report = again.reports[0]
    assert set(report.survivors) == {"north", "south", "east"}
    assert report.spent is not None
    assert sum(release.count for release in report.spent.releases) == 2  # The first may be open somewhere.
    assert [entry.release for entry in ledger(world, "north").entries] == [1, 2]


@pytest.mark.full
def test_without_differential_privacy_there_is_no_other_release(world: World) -> None:
    world.order("south", Kill("leaving", "Unmasking", 1))
    world.order("west", Kill("leaving", "Unmasking", 1))
    run = world.begin(1, phase_seconds=10.0, attempts=1)
    assert run.outcome().error is not None
    world.typed(
        "coordinator",
        "run",
        "resume",
        run.run,
        "--new-release",
        "--credentials",
        world.files / "scientist",
        code=2,
    )
    assert ledger(world, "north").unprotected == 1


def test_a_ledger_goes_to_an_auditor_and_is_checked_there(world: World) -> None:
    assert world.begin(1, privacy=asked(), metrics=()).outcome().error is None
    file = world.folder / "north.ledger.jsonl"
    world.typed("silo", "ledger", "export", file, "--config", world.config("north"), code=0)
    roster = next(world.files.rglob("roster.toml"))
    said = world.typed("silo", "ledger", "verify", file, "--roster", roster, code=0)
    assert "signed by north" in said
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[:1] + lines[2:]), encoding="utf-8")
    world.typed("silo", "ledger", "verify", file, "--roster", roster, code=3)
