"""Aligned records for regressions, pooled answers, and sides that are cut or changed on their way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer

from secagg import wire
from secagg.conversation import Send, Side
from secagg.messages import Part, Said
from secagg.names import RealVector
from secagg.payload import Frame
from secagg.vertical import Party
from secagg.vertical.alignment import Alignment
from secagg.vertical.linear import messages
from secagg.vertical.linear.links import Polynomial

NAMES = ("bank", "insurer", "shop", "clinic", "phone")
KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in vars(messages).values()
    if isinstance(kind, type) and issubclass(kind, Said) and kind is not Said
}
T = TypeVar("T")


def breast_cancer() -> tuple[NDArray[np.float64], RealVector]:
    """Return 569 x 30 standardised columns, and labels 0 and 1."""
    x, y = load_breast_cancer(return_X_y=True)
    return (x - x.mean(axis=0)) / x.std(axis=0), y.astype(np.float64)


def drawn(rows: int, columns: int, *, seed: int = 1) -> tuple[NDArray[np.float64], RealVector]:
    """Return correlated columns, and labels that depend on them."""
    generator = np.random.default_rng(seed)
    mixed = np.eye(columns) + 0.3 * generator.normal(size=(columns, columns))
    x = generator.normal(size=(rows, columns)) @ mixed
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    sums = x @ generator.normal(size=columns) / np.sqrt(columns)
    return x, (sums + generator.logistic(size=rows) / 2 > 0).astype(np.float64)


def aligned(
    x: NDArray[np.float64], y: RealVector | None, parties: int = 2, *, widths: Sequence[int] | None = None
) -> Alignment:
    """Return columns split between parties, as if they had been aligned; the first has the labels."""
    edges = np.linspace(0, x.shape[1], parties + 1).astype(int) if widths is None else np.cumsum([0, *widths])
    held = []
    for at, name in enumerate(NAMES[: len(edges) - 1]):
        columns = [f"{name}{i}" for i in range(edges[at + 1] - edges[at])]
        part = x[:, edges[at] : edges[at + 1]]
        held.append(Party(name, part, range(len(x)), y=y if at == 0 else None, columns=columns))
    rows = {party.name: np.arange(len(x)) for party in held}
    return Alignment(parties=tuple(held), rows=rows, digest=bytes(range(32)), counts={})


def coefficients(model: Any) -> RealVector:
    """Return those of all parties in order, and the intercept."""
    parts = [model.parts[name] for name in NAMES if name in model.parts]
    return np.concatenate([*(part.coefficients for part in parts), [parts[0].intercept]])


def pooled(x: NDArray[np.float64], y: RealVector, link: Polynomial, l2: float) -> RealVector:
    """Return coefficients and intercept of pooled training with a polynomial link, by Newton's method."""
    wide = np.hstack((x, np.ones((len(x), 1))))
    penalty = np.append(np.full(x.shape[1], l2), 0.0)
    at = np.zeros(wide.shape[1])
    for _ in range(50):
        sums = wide @ at
        slope = link.first + 3 * link.third * sums**2
        gradient = wide.T @ (link(sums) - y) + penalty * at
        at = at - np.linalg.solve((wide.T * slope) @ wide + np.diag(penalty), gradient)
    return at


class Killed(Exception):
    """Everything was lost but what was kept."""


def killed_at(count: int) -> Callable[[str, str, Frame], None]:
    """Return a watch that kills all parties when so many frames were sent."""
    left = [count]

    def watch(_sender: str, _to: str, _frame: Frame) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    return watch


def read(frame: Frame) -> Part:
    """Return the message of a frame of a regression; others as they are refused."""
    longest_first = sorted(KINDS, key=len, reverse=True)
    name = next((name for name in longest_first if name.encode() in frame[0][:32]), None)
    message: Part = wire.decode_as(*frame, KINDS[name]) if name else Part()
    return message


def changed(side: Side[T], change: Callable[[str, Part], Part]) -> Side[T]:
    """Yield as a side does, with messages of a regression changed before they leave."""
    given = None
    while True:
        try:
            action = side.send(given)
        except StopIteration as end:
            value: T = end.value
            return value
        if isinstance(action, Send) and type(message := read(action.frame)) is not Part:
            action = Send(action.to, wire.encode(change(action.to, message)))
        given = yield action
