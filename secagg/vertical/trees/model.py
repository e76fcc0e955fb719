"""The parts of a model of boosted trees: one at each party, none of use without the others.

The label party has the trees: which party splits a node, by the how-manieth of its splits, and what leaves
weigh. Each party has its own splits: the column and the threshold.

Nodes are numbered as in a heap: 1 is the root, 2 k and 2 k + 1 are the sides of k.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, TypeAlias, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from secagg.errors import MalformedMessage, ParameterError
from secagg.names import RealVector
from secagg.terms import Digest, Name
from secagg.vertical.trees.settings import MOST_DEPTH, MOST_PARTIES, MOST_TREES, Loss

_LARGEST = sys.float_info.max

Place = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
Finite = Annotated[float, msgspec.Meta(ge=-_LARGEST, le=_LARGEST)]
Parties = Annotated[tuple[Name, ...], msgspec.Meta(min_length=2, max_length=MOST_PARTIES)]
P = TypeVar("P", bound="Forest | Splits")


class Tree(msgspec.Struct, frozen=True):
    """One tree.

    Attributes:
        splits: (node, party, which of the party's splits), nodes ascending.
        leaves: (node, weight), nodes ascending.
    """

    splits: tuple[tuple[Place, Place, Place], ...]
    leaves: tuple[tuple[Place, Finite], ...]

    def __post_init__(self) -> None:
        inner, leaves = [node for node, _, _ in self.splits], [node for node, _ in self.leaves]
        reached = sorted([1, *(2 * node + side for node in inner for side in (0, 1))])
        if inner != sorted(inner) or leaves != sorted(leaves) or sorted(inner + leaves) != reached:
            raise ParameterError("nodes are no tree")
        if max(leaves).bit_length() > MOST_DEPTH + 1:
            raise ParameterError("a tree is too deep")

    def leaves_of(self, rows: int, left: Callable[[int, int], NDArray[np.bool_]]) -> NDArray[np.int64]:
        """Return the leaf of each row.

        Args:
            rows: how many.
            left: returns which rows go left at a split, by party and which of its splits.
        """
        found = np.ones(rows, np.int64)
        for node, party, index in self.splits:
            at = np.flatnonzero(found == node)
            found[at] = 2 * node + ~left(party, index)[at]
        return found

    def weights_of(self, leaves: NDArray[np.int64]) -> RealVector:
        """Return the weight of each row's leaf."""
        weights = np.zeros(2 << MOST_DEPTH)
        for node, weight in self.leaves:
            weights[node] = weight
        return weights[leaves]


class Forest(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The label party's part. Its repr shows no weight.

    Attributes:
        model: digest of the training's terms and of where rows were, 32 bytes; all parts have the same.
        parties: names, in order.
        label_party: whose part this is.
        loss: which.
        first: score that every row begins with.
        trees: in the order of training.
    """

    model: Digest
    parties: Parties
    label_party: Name
    loss: Loss
    first: Finite
    trees: Annotated[tuple[Tree, ...], msgspec.Meta(max_length=MOST_TREES)]

    def __post_init__(self) -> None:
        for party in range(len(self.parties)):
            made = [index for tree in self.trees for _, whose, index in tree.splits if whose == party]
            if made != list(range(len(made))):
                raise ParameterError("a split is none of its party's, or is in two nodes")
        if any(whose >= len(self.parties) for tree in self.trees for _, whose, _ in tree.splits):
            raise ParameterError("a split is of no party")
        if self.label_party not in self.parties:
            raise ParameterError("the label party is none of the parties")

    def has(self, splits: Splits) -> bool:
        """Whether a party's splits are of this model, and as many as the trees have of it."""
        ours = (splits.model, splits.parties, splits.label_party)
        return (self.model, self.parties, self.label_party) == ours and (
            self.splits_of(self.parties.index(splits.party)) == len(splits.columns)
        )

    def splits_of(self, party: int) -> int:
        """Return how many splits are of one party's columns."""
        return sum(whose == party for tree in self.trees for _, whose, _ in tree.splits)

    def __repr__(self) -> str:
        return f"Forest({len(self.trees)} trees)"


class Splits(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """One party's own splits, in the order of training. Its repr shows none.

    Attributes:
        model, parties, label_party: as of ``Forest``.
        party: whose they are.
        width: columns that the party brought.
        columns: of each split, which one.
        thresholds: of each; who is not above it goes left.
    """

    model: Digest
    parties: Parties
    label_party: Name
    party: Name
    width: Place
    columns: tuple[Place, ...]
    thresholds: tuple[Finite, ...]

    def __post_init__(self) -> None:
        if len(self.columns) != len(self.thresholds) or any(at >= self.width for at in self.columns):
            raise ParameterError("splits are of columns that there are, each with its threshold")
        if not {self.party, self.label_party} <= set(self.parties):
            raise ParameterError("splits are of one of the parties")

    def left(self, columns: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Return which rows of ``columns``, shape (rows, width), go left at each split.

        Returns:
            Bits, shape (splits, bytes): every split begins with a byte of its own.
        """
        found = np.empty((len(self.columns), -(-len(columns) // 8)), np.uint8)
        for at, (column, threshold) in enumerate(zip(self.columns, self.thresholds, strict=True)):
            found[at] = np.packbits(columns[:, column] <= threshold)
        return found

    def __repr__(self) -> str:
        return f"Splits({len(self.columns)} of {self.party})"


ModelPart: TypeAlias = Forest | Splits


def to_json(part: ModelPart) -> bytes:
    """Return a part as ``from_json`` reads it, exactly."""
    return msgspec.json.encode(part)


def from_json(data: bytes, kind: type[P]) -> P:
    """Read a part.

    Raises:
        MalformedMessage: the bytes are no such part.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError:
        # The text of the decoder may quote what it read.
        raise MalformedMessage(f"the bytes are no {kind.__name__}") from None
