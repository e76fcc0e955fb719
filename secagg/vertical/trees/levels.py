"""The nodes of one level of a tree: which are there, which of them are summed, and what may follow a level.

A level says for each row the place of its node, 0 to 2^level - 1, or NOWHERE. From the second level on
nodes come in twos, the sides of one split. The smaller of both is summed; the other is what it lacks to their
parent.

Source: Ke et al., "LightGBM", NeurIPS 2017, section 5 (histogram subtraction).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secagg.vertical.trees.messages import NOWHERE


@dataclass(frozen=True, eq=False)
class Nodes:
    """The nodes of one level.

    Attributes:
        level: from 0.
        places: uint8, shape (rows,): of each row's node.
        counts: rows of each place.
    """

    level: int
    places: NDArray[np.uint8] = field(repr=False)
    counts: NDArray[np.int64] = field(repr=False)

    @classmethod
    def at(cls, level: int, places: NDArray[np.uint8]) -> Nodes:
        """Return the nodes that ``places`` tell of. Those beyond the level are left out."""
        counts = np.bincount(places, minlength=NOWHERE + 1)
        return cls(level, places, counts[: 1 << level])

    @property
    def present(self) -> list[int]:
        """Places of nodes that have rows, ascending."""
        return [int(place) for place in np.flatnonzero(self.counts)]

    @property
    def summed(self) -> list[int]:
        """Places of nodes that are summed, ascending: the root, or of two the one with fewer rows."""
        if self.level == 0:
            return self.present
        return [p for p in self.present if (self.counts[p], p) < (self.counts[p ^ 1], p ^ 1)]

    def together(self, place: int) -> list[int]:
        """Return the root, or a node and the other side of its split, the left one first."""
        return [place] if self.level == 0 else sorted((place, place ^ 1))

    def rows(self, place: int) -> NDArray[np.int64]:
        """Return the rows of a node, ascending."""
        return np.flatnonzero(self.places == place)

    def fault(self, least: int) -> str:
        """Return what is wrong with the nodes of a level; empty if nothing is.

        Args:
            least: rows that each node has at least.
        """
        if ((self.places >> self.level != 0) & (self.places != NOWHERE)).any():
            return "a row is in a node that there is not"
        if not self.present:
            return "a level has no node"
        if self.level and any(self.counts[place ^ 1] == 0 for place in self.present):
            return "a side of a split is missing"
        if any(self.counts[place] < least for place in self.present):
            return f"a node has fewer rows than the {least} that were agreed on"
        if not all(self.worth(place, least) for place in self.present):
            return "a level has nodes that cannot be split"
        return ""

    def worth(self, place: int, least: int) -> bool:
        """Whether a node, or the other side of its split, has rows enough to be split."""
        largest = self.counts[0] if self.level == 0 else max(self.counts[place], self.counts[place ^ 1])
        return bool(largest >= 2 * least)

    def fault_of_root(self) -> str:
        """Return what is wrong with the first level, which all rows are in; empty if nothing is."""
        return "the root lacks rows" if (self.places == NOWHERE).any() else ""

    def fault_after(self, before: Nodes) -> str:
        """Return what is wrong with this level after the one ``before``; empty if nothing is."""
        here = self.places != NOWHERE
        if (before.places[here] != self.places[here] >> 1).any():
            return "a row is in a node that is no side of where it was"
        for place in before.present:
            gone = int(before.counts[place]) - int(self.counts[2 * place : 2 * place + 2].sum())
            if gone not in (0, before.counts[place]):
                return "some rows of a split were left out"
        return ""
