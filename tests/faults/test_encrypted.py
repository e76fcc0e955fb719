"""Rounds over ciphertexts between real processes: silos make a key, one is killed, they alone have the model.

The coordinator's folder is looked through for a model; the silos' models are held against the same run in one
process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from secagg.ckks.params import CKKS
from secagg.errors import ParameterError, UsageError
from secagg.learning.federation import Federation
from secagg.learning.request import asked_of
from secagg.paillier.params import Paillier, ThresholdPaillier
from secagg.policy import Policy
from secagg.scheme import EncryptedScheme
from secagg.simulation import Dropouts
from secagg.terms import KeyScheme
from silo.model_files import ModelFiles, describe
from tests.faults.app import Counted
from tests.faults.orders import Kill
from tests.faults.test_coordinator_killed import kill_and_start_again, marks
from tests.faults.world import SETTINGS, World

KILLED = "south"
SCHEMES: dict[KeyScheme, tuple[EncryptedScheme, str]] = {
    "ckks": (CKKS(), "4096"),
    "paillier": (Paillier(), "2048"),
    "threshold-paillier": (ThresholdPaillier(), "2048"),
}


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    policy = Policy(schemes=frozenset(SCHEMES), min_weight_cap=1000.0)
    with World(tmp_path_factory.mktemp("encrypted") / "w", policy=policy) as world:
        yield world


def make_key(world: World, scheme: KeyScheme) -> str:
    size = SCHEMES[scheme][1]
    operator = ("--credentials", world.files / "operator")
    return world.typed("coordinator", "key", "make", "--scheme", scheme, "--size", size, *operator, code=0)


def held_by(world: World, silo: str, run: str) -> Path:
    (path,) = world.state(silo).glob(f"model-*{run}.safetensors")
    return path


def tensors_of(path: Path) -> int:
    """Return how many numbers a file holds."""
    with safe_open(path, framework="np") as file:
        return sum(file.get_tensor(name).size for name in file.keys())  # noqa: SIM118 - it is no mapping


def test_no_run_begins_without_a_key(world: World) -> None:
    with pytest.raises(ParameterError, match="coordinator key make --scheme paillier"):
        world.begin(1, scheme=asked_of(Paillier()))


@pytest.mark.parametrize(
    "scheme",
    ["ckks", *(pytest.param(kind, marks=pytest.mark.full) for kind in ("threshold-paillier", "paillier"))],
)
def test_a_silo_is_killed_and_the_model_stays_at_the_silos(world: World, scheme: KeyScheme) -> None:
    told = make_key(world, scheme)
    assert told.startswith(f"{scheme} key ") or f"\n{scheme} key " in told
    listed = world.typed("silo", "key", "list", "--config", world.config("west"), code=0)
    assert f"{scheme} key" in listed
    keys = world.state(KILLED) / "keys"
    assert {path.stat().st_mode & 0o777 for path in keys.iterdir()} == {0o600}
    rounds = 3
    world.order(KILLED, Kill("leaving", "EncryptedInput", 2))
    go_on = world.shut("west", rounds)
    run = world.begin(rounds, scheme=asked_of(SCHEMES[scheme][0]))
    world.killed(KILLED)
    if scheme != "threshold-paillier":  # A peer sends it again; a share is its silo's alone.
        for path in keys.iterdir():
            path.unlink()
    world.start(KILLED)
    run.until(KILLED, "Training", "done", after=("round", rounds))
    go_on()
    outcome = run.outcome()
    assert outcome.state in {"completed", "degraded"}, outcome.text
    assert outcome.text.startswith("L0: " if scheme in {"ckks", "paillier"} else outcome.state)
    assert "the model is at the silos alone" in outcome.text
    digest = outcome.text.rpartition("digest ")[2]
    assert (outcome.model, outcome.card) == (None, None)
    survivors = [record.report.survivors for record in outcome.records]
    assert [KILLED in there for there in survivors] == [True, False, True, True]
    assert all(record.metrics == {} for record in outcome.records)
    world.check_honest(outcome)
    alone = in_one_process(world, run.weights, rounds, lost={KILLED: "Training"})
    for silo in world.silos:
        path = held_by(world, silo, run.run)
        model = load_file(path)["weights"]
        np.testing.assert_array_equal(model, alone.model.astype(np.float32))
        card = ModelFiles(world.state(silo)).card(path.stem.removeprefix("model-"))
        assert len(digest) == 16
        assert f"  digest {digest}, as the coordinator tells it" in describe(card, world.state(silo))
        assert card.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        expected = {record.report.round: dict(record.metrics) for record in alone.records}
        opened = {each.round: each.metrics for each in card.sums}
        assert opened == {number: expected[number] for number in opened}
        assert opened.keys() == expected.keys() - ({2} if silo == KILLED else set())
    check_told(world, run.run, outcome.text.split()[-1])
    check_coordinator_has_none(world, run.run)


LAST = 3
"""The sum of metrics alone, after two rounds."""
KILLS = [
    ("ckks", Kill("taken", "Opened", 2, 2)),
    ("ckks", Kill("taken", "Opened", 1)),
    ("ckks", Kill("closed", "ConsistencyCheck", 2)),
    ("ckks", Kill("closed", "Opened", 2)),
    ("ckks", Kill("writing", "add_record", 2)),
    ("ckks", Kill("taken", "Opened", LAST, 3)),
    ("threshold-paillier", Kill("taken", "Opened", 2, 2)),
    ("threshold-paillier", Kill("closed", "PartialDecryption", 2)),
    ("paillier", Kill("taken", "Opened", LAST, 2)),
]


@pytest.mark.parametrize(
    ("scheme", "kill"),
    [
        pytest.param(
            scheme,
            kill,
            id=f"{scheme}-{kill.round}-{kill.what}-{kill.at}-{kill.time}",
            marks=pytest.mark.full if at else (),
        )
        for at, (scheme, kill) in enumerate(KILLS)
    ],
)
def test_a_coordinator_that_is_killed_while_silos_open_ends_with_the_same_model(
    world: World, scheme: KeyScheme, kill: Kill
) -> None:
    """No silo holds the base of that round any more: each says again what it opened."""
    make_key(world, scheme)
    said = marks(world)
    world.order("coordinator", kill)
    run = world.begin(LAST - 1, scheme=asked_of(SCHEMES[scheme][0]))
    kill_and_start_again(world, said)
    outcome = run.outcome()
    assert (outcome.state, outcome.exit) == ("completed", 0), outcome.text
    assert [record.report.round for record in outcome.records] == [1, 2, 3]
    assert {record.report.survivors for record in outcome.records} == {world.silos}
    alone = in_one_process(world, run.weights, LAST - 1, lost={})
    for silo in world.silos:
        assert world.trained(silo) == {1: 1, 2: 1}
        path = held_by(world, silo, run.run)
        np.testing.assert_array_equal(load_file(path)["weights"], alone.model.astype(np.float32))
        card = ModelFiles(world.state(silo)).card(path.stem.removeprefix("model-"))
        assert [each.metrics for each in card.sums] == [dict(record.metrics) for record in alone.records]
    check_coordinator_has_none(world, run.run)


def check_told(world: World, run: str, digest: str) -> None:
    """Check what an operator of a silo is told of the model, which nobody at the coordinator is."""
    config = ("--config", world.config("west"))
    lines = [
        line for line in world.typed("silo", "model", "list", *config, code=0).splitlines() if run in line
    ]
    (line,) = lines
    job, *_, path = line.split()
    assert Path(path) == held_by(world, "west", run)
    assert "3 rounds" in line
    shown = world.typed("silo", "model", "show", job, *config, code=0)
    for word in (
        f"digest {digest}",
        "round 1",
        "round 3",
        "the final model",
        "4 silos",
        "3 silos",
        "loss ",
        "who reads",
        "privacy",
    ):
        assert word in shown, shown
    assert "no model of job other" in " ".join(
        world.typed("silo", "model", "show", "other", *config, code=2).split()
    )


def in_one_process(world: World, weights: Any, rounds: int, *, lost: Dropouts) -> Any:
    federation = Federation(
        silos={silo: Counted(seed) for seed, silo in enumerate(world.silos)}, initial=weights, **SETTINGS
    )
    return federation.run(rounds, dropouts={2: lost}, progress=False)


def check_coordinator_has_none(world: World, run: str) -> None:
    with pytest.raises(UsageError, match="at the silos alone"):
        world.client.model(run)
    assert {path.name for path in world.runs(run).iterdir()} == {"checkpoint.safetensors"}
    assert tensors_of(world.runs(run) / "checkpoint.safetensors") == 0
