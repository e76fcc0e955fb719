"""One tree at the label party: gradients go out, sums come back, and nodes are split where most is gained.

Source: Cheng et al., "SecureBoost", IEEE Intelligent Systems 2021, algorithms 1 and 2.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from secagg.conversation import Side, hear, say
from secagg.errors import FaultySilo
from secagg.names import RealVector, SiloId
from secagg.payload import Payload
from secagg.vertical.trees.cells import Binned, Cells
from secagg.vertical.trees.gradients import Fixed, gradients
from secagg.vertical.trees.levels import Nodes
from secagg.vertical.trees.messages import NOWHERE, Chosen, Gradients, Level, Sides, Sums
from secagg.vertical.trees.model import Tree
from secagg.vertical.trees.secret import SecretKey
from secagg.vertical.trees.settings import TreeTerms
from secagg.vertical.trees.splitting import Histogram, Split, best_split, leaf_weight
from secagg.vertical.trees.states import named_after
from secagg.vertical.trees.sums import GROUP_SIZE, groups_of


class GrownState(msgspec.Struct, frozen=True):
    """After a tree, at the label party.

    Attributes:
        terms, data: their digests.
        model: what names it so far.
        trees: all so far.
        columns, thresholds: of the label party's own splits.
        made: how many splits each party has.
        sums: how many sums of each party were opened.
        sides: how often each party told a row's side.
        scores: of all rows, float64.
    """

    terms: bytes
    data: bytes
    model: bytes
    trees: tuple[Tree, ...]
    columns: tuple[int, ...]
    thresholds: tuple[float, ...]
    made: tuple[int, ...]
    sums: tuple[int, ...]
    sides: tuple[int, ...]
    scores: bytes


class Growing:
    """One tree, at the label party.

    Args:
        terms: what all agree on.
        binned: the label party's columns.
        labels: of all rows.
        key: of this run.
        cells: feature party -> of its columns.
        state: after the tree before.
    """

    def __init__(
        self,
        terms: TreeTerms,
        binned: Binned,
        labels: RealVector,
        key: SecretKey,
        cells: Mapping[SiloId, Cells],
        state: GrownState,
    ) -> None:
        self._terms = terms
        self._settings = terms.settings
        self._name = terms.label_party
        self._others = terms.others(self._name)
        self._binned = binned
        self._key = key
        self._cells = cells
        self._state = state
        self._scores = np.frombuffer(state.scores, "<f8")
        self._fixed = Fixed.of(gradients(self._settings.loss, self._scores, labels))
        self._node = np.ones(len(self._scores), np.int64)
        self._model = state.model
        self._splits: list[tuple[int, int, int]] = []
        self._columns, self._thresholds = list(state.columns), list(state.thresholds)
        self._made, self._sums, self._sides = list(state.made), list(state.sums), list(state.sides)
        # Histograms of feature parties at the nodes of the level before.
        self._before: dict[SiloId, dict[int, NDArray[np.int64]]] = {other: {} for other in self._others}

    def grown(self) -> Side[GrownState]:
        """Grow it; return the state after it."""
        for level in range(self._settings.depth):
            nodes = self._nodes(level)
            if not nodes.present:
                break
            for other in self._others:
                yield from say(other, Level(Payload.of(nodes.places)))
            self._model = named_after(self._model, nodes)
            yield from self._split(nodes)
        for other in self._others:
            yield from say(other, Level(None))
        leaves = [int(node) for node in np.unique(self._node)]
        weights = [self._weight(node) for node in leaves]
        tree = Tree(tuple(self._splits), tuple(zip(leaves, weights, strict=True)))
        scores = self._scores + tree.weights_of(self._node)
        return GrownState(
            terms=self._state.terms,
            data=self._state.data,
            model=self._model,
            trees=(*self._state.trees, tree),
            columns=tuple(self._columns),
            thresholds=tuple(self._thresholds),
            made=tuple(self._made),
            sums=tuple(self._sums),
            sides=tuple(self._sides),
            scores=scores.astype("<f8").tobytes(),
        )

    def _weight(self, node: int) -> float:
        settings = self._settings
        total = self._fixed.integers[:, self._node == node].sum(axis=1)
        return leaf_weight(total, self._fixed, l2=settings.l2, learning_rate=settings.learning_rate)

    def _nodes(self, level: int) -> Nodes:
        """Return the nodes of a level that may be split, and the other sides of their splits."""
        places = np.full(len(self._node), NOWHERE, np.uint8)
        here = self._node >> level == 1
        places[here] = self._node[here] - (1 << level)
        every = Nodes.at(level, places)
        for place in every.present:
            if not every.worth(place, self._settings.min_child_rows):
                places[every.rows(place)] = NOWHERE
        return Nodes.at(level, places)

    def _split(self, nodes: Nodes) -> Side[None]:
        """Split the nodes of a level."""
        totals = {place: self._fixed.integers[:, nodes.rows(place)].sum(axis=1) for place in nodes.present}
        found = yield from self._theirs(nodes, totals)
        found[self._name] = self._own(nodes)
        best: dict[int, Split] = {}
        for at, place in enumerate(nodes.present):
            histograms = [found[party][at] for party in self._terms.parties]
            split = best_split(histograms, totals[place], self._fixed, l2=self._settings.l2)
            if split is not None:
                best[place] = split
        left: dict[int, NDArray[np.bool_]] = {}
        for party, name in enumerate(self._terms.parties):
            mine = {place: split for place, split in best.items() if split.party == party}
            if name == self._name:
                for place, split in mine.items():
                    left[place] = self._binned.left(split.column, split.bin, nodes.rows(place))
                    self._columns.append(self._binned.column[split.column])
                    self._thresholds.append(float(self._binned.cuts[split.column][split.bin]))
            else:
                yield from say(name, Chosen(tuple((p, s.column, s.bin) for p, s in mine.items())))
        for party, name in enumerate(self._terms.parties):
            mine = {place: split for place, split in best.items() if split.party == party}
            if name != self._name and mine:
                left |= self._sides_of(party, (yield from hear(name, Sides)), mine, nodes)
        self._apply(nodes, best, left)

    def _own(self, nodes: Nodes) -> list[Histogram]:
        found = []
        for place in nodes.present:
            rows = nodes.rows(place)
            allowed = self._binned.cells.allowed(self._binned.counts(rows), self._settings.min_child_rows)
            sums = self._binned.sums(list(self._fixed.integers), rows)
            found.append(Histogram(self._binned.cells, sums, allowed))
        return found

    def _theirs(
        self, nodes: Nodes, totals: Mapping[int, NDArray[np.int64]]
    ) -> Side[dict[SiloId, list[Histogram]]]:
        """Return the histograms of each feature party at each node."""
        places = nodes.summed
        sums: dict[SiloId, dict[int, NDArray[np.int64]]] = {other: {} for other in self._others}
        allowed: dict[SiloId, dict[int, NDArray[np.bool_]]] = {other: {} for other in self._others}
        ready = self._encrypted(nodes.rows(places[0]))
        for at, place in enumerate(places):
            for other in self._others:
                yield from say(other, ready)
            if at + 1 < len(places):  # Encrypted while the others add, and sent when they have answered.
                ready = self._encrypted(nodes.rows(places[at + 1]))
            both = nodes.together(place)
            for other in self._others:
                said = yield from hear(other, Sums)
                cells = self._cells[other]
                may = self._allowed(other, said.allowed, cells, len(both))
                allowed[other] |= dict(zip(both, may, strict=True))
                opened = self._opened(other, said.sums, cells)
                if (cells.up_to(opened)[:, cells.lasts] != totals[place][:, None]).any():
                    raise FaultySilo(other, "the sums of its bins are not the sum of the node")
                sums[other] |= {
                    each: opened if each == place else self._before[other][place >> 1] - opened
                    for each in both
                }
                self._sums[self._terms.parties.index(other)] += opened.size
        self._before = sums
        return {
            other: [
                Histogram(self._cells[other], sums[other][place], allowed[other][place])
                for place in nodes.present
            ]
            for other in self._others
        }

    def _encrypted(self, rows: NDArray[np.int64]) -> Gradients:
        seed, ciphertexts = self._key.encrypt(self._fixed.integers[:, rows])
        return Gradients(seed, Payload.of(ciphertexts))

    @staticmethod
    def _allowed(sender: SiloId, sent: bytes, cells: Cells, nodes: int) -> NDArray[np.bool_]:
        bits = np.unpackbits(np.frombuffer(sent, np.uint8)).astype(np.bool_)
        count = nodes * cells.count
        if len(sent) != -(-count // 8) or bits[count:].any():
            raise FaultySilo(sender, "it allows splits of other nodes or cells than there are")
        allowed = bits[:count].reshape(nodes, cells.count)
        if allowed[:, cells.lasts].any():
            raise FaultySilo(sender, "it allows a split after the last bin")
        return allowed

    def _opened(self, sender: SiloId, sent: Payload | None, cells: Cells) -> NDArray[np.int64]:
        groups = groups_of(cells.count)
        if (0 if sent is None else sent.length) != groups * GROUP_SIZE or (sent and sent.dtype != "u1"):
            raise FaultySilo(sender, "it sent sums of other cells than there are")
        if sent is None:
            return np.empty((2, 0), np.int64)
        sums = self._key.open(sent.array(), groups)
        if sums[:, cells.count :].any():
            raise FaultySilo(sender, "it sent sums of cells that there are not")
        return sums[:, : cells.count]

    def _sides_of(
        self, party: int, said: Sides, splits: Mapping[int, Split], nodes: Nodes
    ) -> dict[int, NDArray[np.bool_]]:
        """Return which rows of each node go left, as a feature party says."""
        name = self._terms.parties[party]
        counts = [int(nodes.counts[place]) for place in splits]
        if said.left.dtype != "u1" or said.left.length != -(-sum(counts) // 8):
            raise FaultySilo(name, "it told sides of other rows than were split")
        bits = np.unpackbits(said.left.array())
        parts = np.split(bits.astype(np.bool_), np.cumsum(counts))
        if parts.pop().any():
            raise FaultySilo(name, "it told sides of more rows than were split")
        left = dict(zip(splits, parts, strict=True))
        for place, split in splits.items():
            rows = nodes.rows(place)[left[place]]
            fewest = min(len(rows), int(nodes.counts[place]) - len(rows))
            sums = self._fixed.integers[:, rows].sum(axis=1)
            if fewest < self._settings.min_child_rows or (sums != split.left).any():
                raise FaultySilo(name, "the rows of a side do not add up to its sums, or are too few")
        self._sides[party] += sum(counts)
        return left

    def _apply(self, nodes: Nodes, best: Mapping[int, Split], left: Mapping[int, NDArray[np.bool_]]) -> None:
        """Move rows to the sides of splits, and number the splits as their parties do."""
        for place, split in best.items():
            node = (1 << nodes.level) + place
            self._node[nodes.rows(place)] = 2 * node + ~left[place]
            self._splits.append((node, split.party, self._made[split.party]))
            self._made[split.party] += 1
