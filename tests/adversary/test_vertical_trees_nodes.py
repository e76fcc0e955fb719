"""Attack ``vertical_trees_nodes``: have sums made of rows that one wants to know something about.

A label party that leaves the protocol puts a single row into a node, whose sums then say in which bin of
every column it is; or it says so of all rows but one, and subtracts. Both have fewer rows on one side than
a node may have. What is left to it, nodes of as many rows as were agreed on and as it likes, is said in the
threat model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from secagg.conversation import Side, together
from secagg.errors import FaultySilo
from secagg.messages import Part
from secagg.payload import Frame, Payload
from secagg.vertical.checkpoints import InMemory
from secagg.vertical.trees import messages
from secagg.vertical.trees.feature import FeatureParty
from secagg.vertical.trees.label import LabelParty
from secagg.vertical.trees.settings import Settings, TreeTerms
from tests.vertical.trees import decoded, tampered

ROWS, VICTIM = 80, 17
RANDOM = np.random.default_rng(1)
COLUMNS = RANDOM.normal(size=(ROWS, 3))
OWN = RANDOM.normal(size=(ROWS, 1))
LABELS = (COLUMNS[:, 0] > 0).astype(float)
TERMS = TreeTerms(
    alignment=bytes(32),
    parties=("bank", "shop"),
    label_party="bank",
    settings=Settings(trees=1, depth=2, bins=4, min_child_rows=10),
)


def alone(said: messages.Level) -> Part | None:
    """Put the victim into a node of its own, one level below the root."""
    if said.nodes is None or said.nodes.array().max() == 0:
        return None
    places = np.zeros(ROWS, np.uint8)
    places[VICTIM] = 1
    return messages.Level(Payload.of(places))


def missing(said: messages.Level) -> Part | None:
    """Leave the victim out of the root."""
    if said.nodes is None or said.nodes.array().max() > 0:
        return None
    places = np.zeros(ROWS, np.uint8)
    places[VICTIM] = messages.NOWHERE
    return messages.Level(Payload.of(places))


def asked_of(change: Callable[[messages.Level], Part | None]) -> int:
    """Attack: return how many sums came back of nodes that the label party made up."""
    both: dict[str, Side[Any]] = {
        "bank": LabelParty("bank", OWN, LABELS, TERMS, InMemory()).side(),
        "shop": FeatureParty("shop", COLUMNS, TERMS, InMemory()).side(),
    }
    asked = came = 0

    def watch(sender: str, _: str, frame: Frame) -> None:
        nonlocal asked, came
        said = decoded(frame)
        if isinstance(said, messages.Level) and said.nodes is not None:
            counts = np.bincount(said.nodes.array(), minlength=256)
            asked += 1 in {int(counts[1]), int(counts[messages.NOWHERE])}
        came += asked > 0 and isinstance(said, messages.Sums)

    both["bank"] = tampered(both["bank"], messages.Level, change)
    with pytest.raises(FaultySilo):  # Its own code does not expect what comes back, if it comes.
        together(both, watch=watch)
    assert asked
    return came


def test_vertical_trees_nodes() -> None:
    assert asked_of(alone) == 0, "a single row was summed"
    assert asked_of(missing) == 0, "all rows but one were summed"


def fine(*_: Any) -> str:
    return ""


@pytest.mark.parametrize(
    ("defence", "found"), [("fault", "a single row"), ("fault_of_root", "all rows but one")]
)
def test_vertical_trees_nodes_mutant(monkeypatch: pytest.MonkeyPatch, defence: str, found: str) -> None:
    monkeypatch.setattr(f"secagg.vertical.trees.levels.Nodes.{defence}", fine)
    with pytest.raises(AssertionError, match=found):
        test_vertical_trees_nodes()
