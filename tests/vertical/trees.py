"""Parties of boosted trees for tests, without the intersection that would align them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg import wire
from secagg.conversation import Send, Side
from secagg.errors import MalformedMessage
from secagg.messages import Part
from secagg.payload import Frame
from secagg.vertical import Alignment, GradientBoosting, Party
from secagg.vertical.trees import messages
from secagg.vertical.trees.pooled import PooledForest

Columns = NDArray[np.float64]
KINDS: Any = (
    messages.KeyShown
    | messages.Brought
    | messages.Gradients
    | messages.Level
    | messages.Sums
    | messages.Chosen
    | messages.Sides
    | messages.Trees
    | messages.Answers
)


def aligned(
    columns: Mapping[str, Columns],
    labels: NDArray[np.float64] | None,
    *,
    label: str,
    digest: bytes = bytes(32),
) -> Alignment:
    """Return an alignment of rows that are in one order already."""
    rows = len(next(iter(columns.values())))
    ids = [f"record-{at}" for at in range(rows)]
    parties = tuple(Party(name, x, ids, labels if name == label else None) for name, x in columns.items())
    return Alignment(
        parties=parties, rows={name: np.arange(rows) for name in columns}, digest=digest, counts={}
    )


def joined(model: GradientBoosting) -> list[tuple[dict[int, tuple[int, int, float]], dict[int, float]]]:
    """Return splits and leaves of each tree, with what the parts of all parties say of them."""
    parts = [model.splits(name) for name in model.forest.parties]
    return [
        (
            {n: (p, parts[p].columns[at], parts[p].thresholds[at]) for n, p, at in tree.splits},
            dict(tree.leaves),
        )
        for tree in model.forest.trees
    ]


def pooled_trees(forest: PooledForest) -> list[tuple[dict[int, tuple[int, int, float]], dict[int, float]]]:
    """Return the same of pooled training."""
    return [(tree.splits, tree.leaves) for tree in forest.trees]


def decoded(frame: Frame) -> Any:
    """Return the message of a frame; None for what is said before all protocols."""
    try:
        return wire.decode_as(*frame, KINDS)
    except MalformedMessage:
        return None


def tampered(side: Side[Any], kind: type[Part], change: Callable[[Any], Part | None]) -> Side[Any]:
    """Drive ``side`` with messages of ``kind`` changed; what ``change`` returns None for is sent as it is."""
    given = None
    try:
        while True:
            action = side.send(given)
            if isinstance(action, Send):
                said = decoded(action.frame)
                changed = change(said) if isinstance(said, kind) else None
                if changed is not None:
                    action = Send(action.to, wire.encode(changed))
            given = yield action
    except StopIteration as end:
        return end.value
