"""What the label party and a feature party say to each other, in the order of the protocol.

After ``Standing`` (see ``checkpoints``): the key, and how many bins there are; then for each level of a tree
where rows are, encrypted gradients, sums of them, what is split, and to which sides rows go.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from secagg.messages import Said
from secagg.payload import Payload
from secagg.vertical.trees.cells import MOST_BINS
from secagg.vertical.trees.settings import MOST_DEPTH

Seed = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Bins = Annotated[int, msgspec.Meta(ge=2, le=MOST_BINS)]
Node = Annotated[int, msgspec.Meta(ge=0, lt=1 << MOST_DEPTH)]
Column = Annotated[int, msgspec.Meta(ge=0, lt=1 << 16)]
Bin = Annotated[int, msgspec.Meta(ge=0, lt=MOST_BINS)]

NOWHERE = 255
"""Stands for the node of a row that is in a leaf already."""


class KeyShown(Said, frozen=True, tag=True):
    """Label party to feature party: the public key of this run; u1."""

    seed: Seed
    zeros: Payload


class Brought(Said, frozen=True, tag=True):
    """Feature party to label party: how many bins each of its columns has that vary."""

    bins: Annotated[tuple[Bins, ...], msgspec.Meta(max_length=1 << 16)]


class Level(Said, frozen=True, tag=True):
    """Label party to feature party: the node of each row in this level, or NOWHERE; u1.

    None: the tree is grown.
    """

    nodes: Payload | None


class Gradients(Said, frozen=True, tag=True):
    """Label party to feature party, for each node that is summed: gradients and Hessians, encrypted; u1.

    Of the node's rows alone, in their order, so that a small node costs little.
    """

    seed: Seed
    ciphertexts: Payload


class Sums(Said, frozen=True, tag=True):
    """Feature party to label party, for each node that is summed: its encrypted histograms; u1.

    None where no column varies. ``allowed``: after which cells this node, and the other side of its split,
    may be split; a bit each, the left side first.
    """

    allowed: bytes
    sums: Payload | None


class Chosen(Said, frozen=True, tag=True):
    """Label party to feature party: nodes that are split by its columns: (node, column, bin), ascending."""

    splits: Annotated[tuple[tuple[Node, Column, Bin], ...], msgspec.Meta(max_length=1 << MOST_DEPTH)]


class Sides(Said, frozen=True, tag=True):
    """Feature party to label party: for each row of nodes that it splits, whether it goes left; bits, u1.

    In the order of nodes, and in each of rows.
    """

    left: Payload


class Trees(Said, frozen=True, tag=True):
    """Label party to who is to get scores: its part of the model; u1."""

    forest: Payload


class Answers(Said, frozen=True, tag=True):
    """To who is to get scores: for each of the sender's splits and each of some rows, whether it goes left.

    Bits, u1; every split begins with a byte of its own.
    """

    left: Payload
