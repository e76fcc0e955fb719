"""Networks in NumPy, so that the protocol is tested without torch; tasks; what attackers compute."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.errors import InputRefused
from secagg.names import RandomSource
from secagg.vertical.alignment import Alignment
from secagg.vertical.party import Party
from secagg.vertical.split.columns import Scaling
from secagg.vertical.split.ports import RealMatrix, Tensors
from secagg.vertical.split.settings import SplitSettings
from secagg.vertical.split.training import probability

NAMES = ("bank", "insurer", "shop", "clinic", "gym")


class Layers:
    """Inputs, a layer of tanh units, linear outputs; descends by Adam."""

    def __init__(self, inputs: int, hidden: int, outputs: int, *, seed: int, rate: float) -> None:
        generator = np.random.default_rng(seed)
        self._rate, self._steps = rate, 0
        self.parameters = {
            "first": _orthogonal(generator, inputs, hidden),
            "first_bias": np.zeros(hidden),
            "second": _orthogonal(generator, hidden, outputs),
            "second_bias": np.zeros(outputs),
        }
        self._moments = {name: np.zeros((2, *array.shape)) for name, array in self.parameters.items()}

    def forward(self, rows: RealMatrix) -> RealMatrix:
        p = self.parameters
        self._inputs, self._units = rows, np.tanh(rows @ p["first"] + p["first_bias"])
        outputs: RealMatrix = self._units @ p["second"] + p["second_bias"]
        return outputs

    def backward(self, gradient: RealMatrix) -> RealMatrix:
        p = self.parameters
        inner = gradient @ p["second"].T * (1 - self._units**2)
        at_inputs: RealMatrix = inner @ p["first"].T
        self._step("first", self._inputs.T @ inner)
        self._step("first_bias", inner.sum(axis=0))
        self._step("second", self._units.T @ gradient)
        self._step("second_bias", gradient.sum(axis=0))
        self._steps += 1
        return at_inputs

    def _step(self, name: str, gradient: NDArray[Any]) -> None:
        mean, square = self._moments[name]
        mean += 0.1 * (gradient - mean)
        square += 0.001 * (gradient**2 - square)
        time = self._steps + 1
        moved = mean / (1 - 0.9**time) / (np.sqrt(square / (1 - 0.999**time)) + 1e-8)
        self.parameters[name] = self.parameters[name] - self._rate * moved

    def weights(self) -> Tensors:
        return dict(self.parameters)

    def state(self) -> Tensors:
        moments = {f"moments.{name}": array.copy() for name, array in self._moments.items()}
        return {**self.weights(), **moments, "steps": np.array(self._steps)}

    def load(self, tensors: Tensors) -> None:
        for name, array in self.parameters.items():
            if name not in tensors or tensors[name].shape != array.shape:
                raise InputRefused("layout", "weights of another network")
            self.parameters[name] = np.array(tensors[name])
        if "steps" in tensors:
            self._moments = {name: np.array(tensors[f"moments.{name}"]) for name in self._moments}
            self._steps = int(tensors["steps"])


class Small:
    """Builds them."""

    def __init__(self, hidden: int = 32, bottom_rate: float = 1e-3, top_rate: float = 1e-2) -> None:
        self._hidden, self._bottom_rate, self._top_rate = hidden, bottom_rate, top_rate

    def bottom(self, columns: int, width: int, *, seed: int) -> Layers:
        return Layers(columns, self._hidden, width, seed=seed, rate=self._bottom_rate)

    def top(self, width: int, *, seed: int) -> Layers:
        return Layers(width, self._hidden, 1, seed=seed, rate=self._top_rate)


def _orthogonal(generator: np.random.Generator, inputs: int, outputs: int) -> NDArray[np.float64]:
    q, _ = np.linalg.qr(generator.normal(size=(max(inputs, outputs), min(inputs, outputs))))
    return q if inputs >= outputs else q.T


def aligned(parts: Sequence[NDArray[Any]], labels: NDArray[Any] | None, *, seed: int = 0) -> Alignment:
    """Return the alignment of parties whose rows are one record each already; the first has the labels."""
    size = len(parts[0])
    ids = [str(number) for number in range(size)]
    parties = tuple(
        Party(name, part, ids, y=labels if name == NAMES[0] else None)
        for name, part in zip(NAMES, parts, strict=False)
    )
    rows = {party.name: np.arange(size) for party in parties}
    return Alignment(
        parties=parties, rows=rows, digest=hashlib.sha256(bytes([seed, len(parts)])).digest(), counts={}
    )


@cache
def _loaded(task: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from sklearn.datasets import load_breast_cancer, load_digits

    if task == "breast cancer":
        columns, labels = load_breast_cancer(return_X_y=True)
        return columns, (labels == 0).astype(float)  # 1 is malignant: 37 in 100.
    columns, labels = load_digits(return_X_y=True)
    return columns, (labels == int(task.removeprefix("digit "))).astype(float)  # 10 in 100.


def split_task(task: str, *, parties: int, seed: int) -> tuple[Alignment, Alignment, NDArray[np.float64]]:
    """Return records to train on, others without labels, and the labels of these.

    Args:
        task: ``"breast cancer"``, or ``"digit 8"`` against all others.
        parties: that have the columns; the first has the labels.
        seed: of the split.
    """
    columns, labels = _loaded(task)
    order = np.random.default_rng(seed).permutation(len(labels))
    test, train = order[: len(order) // 3], order[len(order) // 3 :]
    groups = np.array_split(np.arange(columns.shape[1]), parties)
    return (
        aligned([columns[np.ix_(train, group)] for group in groups], labels[train], seed=seed),
        aligned([columns[np.ix_(test, group)] for group in groups], None, seed=seed + 100),
        labels[test],
    )


def auc(labels: NDArray[Any], scores: NDArray[Any]) -> float:
    """Return the probability that a record of label 1 has the higher score; ties count half."""
    positive, negative = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    below = np.searchsorted(negative, positive, "left").sum()
    up_to = np.searchsorted(negative, positive, "right").sum()
    return float((below + up_to) / 2 / (positive.size * negative.size))


def fixed(seed: int) -> RandomSource:
    """Return a source that repeats: each call gives other bytes, and the same ones next time."""
    calls = count()
    return lambda size: hashlib.shake_256(b"%d %d" % (seed, next(calls))).digest(size)


def pooled_auc(train: Alignment, test: Alignment, labels: NDArray[Any], networks: Any, *, seed: int) -> float:
    """Return the AUC of the network of the same shape over all columns in one place, in as many passes."""
    settings = SplitSettings()
    names, width = train.names, settings.width
    scaling = {name: Scaling.of(train.features(name)) for name in names}
    columns = {name: scaling[name](train.features(name)) for name in names}
    bottoms = {
        name: networks.bottom(columns[name].shape[1], width, seed=10 * seed + place)
        for place, name in enumerate(names)
    }
    top = networks.top(width * len(names), seed=10 * seed + 9)
    order = np.random.default_rng(seed).permutation(train.count)
    for _ in range(settings.rounds * settings.passes):
        for rows in np.array_split(order, train.count // settings.batch):
            embedded = np.concatenate([bottoms[name].forward(columns[name][rows]) for name in names], axis=1)
            wrong = probability(top.forward(embedded)[:, 0]) - train.labels()[rows]
            gradient = top.backward(wrong[:, None] / len(rows))
            for name, part in zip(names, np.split(gradient, len(names), axis=1), strict=True):
                bottoms[name].backward(part)
    scaled = [bottoms[name].forward(scaling[name](test.features(name))) for name in names]
    return auc(labels, top.forward(np.concatenate(scaled, axis=1))[:, 0])
