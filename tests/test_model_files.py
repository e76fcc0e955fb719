"""Models that silos alone have: what a card says, and what is left of a round that was opened before."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file

from secagg.errors import EnvironmentFault, UsageError
from secagg.learning.model import GlobalModel
from secagg.names import RealVector
from secagg.session import Aggregate
from secagg.terms import Terms
from silo.model_files import Card, ModelFiles, OpenedSum, describe
from tests.federations import CKKS_4096, NAMES, Federation
from tests.learners import Line

WEIGHTS = np.arange(5.0)
SURVIVORS = NAMES[:4]


def terms(number: int, **changes: Any) -> Terms:
    fields = {"job": "scans", "round": number, "kind": "train"}
    return msgspec.structs.replace(Federation(4, scheme=CKKS_4096).terms, **(fields | changes))


def keep(
    folder: Path, number: int, weights: RealVector = WEIGHTS, *, loss: float = 0.5, **changes: Any
) -> Path:
    survivors = changes.pop("survivors", SURVIVORS)
    return ModelFiles(folder).keep(
        terms(number, **changes),
        Aggregate(np.zeros(1, np.uint32), survivors),
        Line(),
        model=GlobalModel(number, weights),
        metrics={"loss": loss},
    )


def test_a_card_says_what_made_the_model(tmp_path: Path) -> None:
    keep(tmp_path, 1, loss=0.9)
    path = keep(tmp_path, 2, WEIGHTS + 1, loss=0.7, survivors=SURVIVORS[:3])
    keep(tmp_path, 3, WEIGHTS + 1, loss=0.6, kind="metrics")
    assert path == tmp_path / "model-scans.safetensors"
    np.testing.assert_array_equal(load_file(path)["weights"], (WEIGHTS + 1).astype(np.float32))
    (card,) = ModelFiles(tmp_path).cards()
    assert card == ModelFiles(tmp_path).card("scans")
    assert (card.job, card.scheme, card.rounds, card.parameters) == ("scans", "CKKS", 2, 5)
    assert card.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card.sums == (
        OpenedSum(1, "train", SURVIVORS, {"loss": 0.9}),
        OpenedSum(2, "train", SURVIVORS[:3], {"loss": 0.7}),
        OpenedSum(3, "metrics", SURVIVORS, {"loss": 0.6}),
    )
    assert card.who_can_read_one_update.startswith("L0: any one silo")
    text = describe(card, tmp_path)
    assert max(map(len, text.splitlines()[4:])) <= 80
    for line in (
        "L0: scans, CKKS, 2 rounds, 5 weights",
        f"  digest {GlobalModel(3, WEIGHTS + 1).digest.hex()[:16]}, as the coordinator tells it",
        "  before round 1   4 silos  loss 0.9",
        "  before round 2   3 silos  loss 0.7",
        "  the final model  4 silos  loss 0.6",
    ):
        assert line in text.splitlines()


def test_metrics_of_a_model_that_came_from_a_peer_are_kept_with_it(tmp_path: Path) -> None:
    """This silo missed the last round of training: the final model is not the one that it opened last."""
    keep(tmp_path, 1)
    path = keep(tmp_path, 3, WEIGHTS + 2, kind="metrics")
    np.testing.assert_array_equal(load_file(path)["weights"], (WEIGHTS + 2).astype(np.float32))
    card = ModelFiles(tmp_path).card("scans")
    assert card.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card.rounds == 2
    assert [(each.round, each.kind) for each in card.sums] == [(1, "train"), (3, "metrics")]


def test_a_silo_that_opened_no_round_of_training_has_the_final_model_too(tmp_path: Path) -> None:
    path = keep(tmp_path, 3, kind="metrics")
    np.testing.assert_array_equal(load_file(path)["weights"], WEIGHTS.astype(np.float32))
    card = ModelFiles(tmp_path).card("scans")
    assert (card.rounds, card.parameters) == (2, 5)


def test_a_round_that_is_opened_again_leaves_the_same(tmp_path: Path) -> None:
    for number in (1, 2):
        keep(tmp_path, number)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    keep(tmp_path, 2)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_model_of_which_no_silo_alone_read_an_update_has_no_level(tmp_path: Path) -> None:
    keep(tmp_path, 1)
    (card,) = ModelFiles(tmp_path).cards()
    shown = describe(msgspec.structs.replace(card, scheme="ThresholdPaillier"), tmp_path)
    assert shown.startswith("scans, ThresholdPaillier, 1 round")


def test_jobs_have_models_of_their_own(tmp_path: Path) -> None:
    keep(tmp_path, 1)
    keep(tmp_path, 1, WEIGHTS[:2], job="other")
    assert {card.job: card.parameters for card in ModelFiles(tmp_path).cards()} == {"scans": 5, "other": 2}
    with pytest.raises(UsageError, match="no model of job third; the last ones are: "):
        ModelFiles(tmp_path).card("third")


def test_without_a_model_that_is_said(tmp_path: Path) -> None:
    assert ModelFiles(tmp_path).cards() == ()
    with pytest.raises(UsageError, match="none yet"):
        ModelFiles(tmp_path).card("scans")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"card": 1}', b'{"job": 7}'])
def test_a_damaged_card_is_told_and_the_next_sum_begins_another(tmp_path: Path, content: bytes) -> None:
    keep(tmp_path, 1)
    (tmp_path / "model-scans.card.json").write_bytes(content)
    for read in (ModelFiles(tmp_path).cards, lambda: ModelFiles(tmp_path).card("scans")):
        with pytest.raises(EnvironmentFault, match="damaged"):
            read()
    keep(tmp_path, 2)
    card: Card = ModelFiles(tmp_path).card("scans")
    assert [each.round for each in card.sums] == [2]


def test_what_cannot_be_written_is_told_and_nothing_half_is_left(tmp_path: Path) -> None:
    (tmp_path / "model-scans.card.json").mkdir()
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        keep(tmp_path, 1)
    assert {path.name for path in tmp_path.iterdir()} == {"model-scans.safetensors", "model-scans.card.json"}
