"""Attack ``vertical_split_columns``: reckon a party's columns from the embeddings that it sends.

The label party knows the columns of some of the other's records, fits columns to embeddings on them, and
reckons those of all others: from one release, and from the mean of all. Noise does not make this impossible,
and nothing here says so: it takes away from how much of the columns is found.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secagg import wire
from secagg.errors import MalformedMessage
from secagg.payload import Frame, Payload
from secagg.privacy.noise import DiscreteGaussian
from secagg.vertical import SplitNetwork
from secagg.vertical.split.columns import Scaling
from secagg.vertical.split.cut import Cut
from secagg.vertical.split.messages import Embeddings
from tests.vertical.split_networks import NAMES, Layers, Small, fixed, split_task

KNOWN = 100
ONE, ALL = 0.78, 0.88
"""Shares of the variance of columns that may be found: in one release, and in all of them."""


class Loud(Small):
    """Bottoms whose outputs are large, so that noise of one size is small beside them."""

    def bottom(self, columns: int, width: int, *, seed: int) -> Layers:
        network = super().bottom(columns, width, seed=seed)
        network.parameters["second"] = 4 * network.parameters["second"]
        return network


def releases(networks: Small) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return what the insurer sends, shape (rounds, records, width), and its columns."""
    train, _, _ = split_task("breast cancer", parties=2, seed=0)
    sent: list[NDArray[Any]] = []

    def watch(sender: str, _receiver: str, frame: Frame) -> None:
        if sender == NAMES[1]:
            try:
                message: Embeddings = wire.decode_as(*frame, Embeddings)
            except MalformedMessage:
                return
            sent.append(message.rows.array().reshape(train.count, -1))

    SplitNetwork(networks).fit(train, random=fixed(1), watch=watch)
    columns = train.features(NAMES[1])
    return np.array(sent), Scaling.of(columns)(columns)


def found(embeddings: NDArray[Any], columns: NDArray[Any]) -> float:
    """Return the share of the columns' variance that ridge regression finds."""
    inputs = np.c_[embeddings, np.ones(len(embeddings))]
    known = inputs[:KNOWN]
    weights = np.linalg.solve(known.T @ known + np.eye(inputs.shape[1]), known.T @ columns[:KNOWN])
    rest = columns[KNOWN:]
    missed = ((rest - inputs[KNOWN:] @ weights) ** 2).sum()
    return float(1 - missed / ((rest - rest.mean(axis=0)) ** 2).sum())


def attack(networks: Small) -> tuple[float, float]:
    rounds, columns = releases(networks)
    return found(rounds[0], columns), found(rounds.mean(axis=0), columns)


def test_vertical_split_columns() -> None:
    for networks in (Small(), Loud()):
        one, every = attack(networks)
        assert one < ONE, "columns are found in one release"
        assert every < ALL, "columns are found in all releases"


def silent(_self: DiscreteGaussian, length: int) -> NDArray[np.int64]:
    return np.zeros(length, np.int64)


def as_large_as_it_is(_self: Cut, rows: NDArray[Any]) -> NDArray[Any]:
    return rows


def whatever_came(self: Cut, _sender: str, payload: Payload, count: int) -> NDArray[Any]:
    return payload.array().reshape(count, self._width)


@pytest.mark.parametrize(
    "mutants",
    [
        {"secagg.vertical.split.cut.DiscreteGaussian.sample": silent},
        {
            "secagg.vertical.split.cut.Cut.clipped": as_large_as_it_is,
            "secagg.vertical.split.cut.Cut.received": whatever_came,
        },
    ],
    ids=["no noise", "no clipping"],
)
def test_vertical_split_columns_mutant(monkeypatch: pytest.MonkeyPatch, mutants: dict[str, Any]) -> None:
    for defence, mutant in mutants.items():
        monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match="columns are found"):
        test_vertical_split_columns()
