"""The label party's side of a training: it alone has labels, gradients, scores and the weights of leaves.

It learns of each feature party sums of gradients and of Hessians in each bin, exactly and no more, how many
bins columns have that vary, where they may not be split, and to which side rows go where it splits them. It
knows each row's gradient: a bin with few rows in a small node tells which rows they are.

Source: Cheng et al., "SecureBoost", IEEE Intelligent Systems 2021, algorithms 1 and 2.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from secagg.conversation import Side, hear, say
from secagg.errors import FaultySilo
from secagg.names import RandomSource, RealVector, SiloId
from secagg.payload import Payload
from secagg.vertical.checkpoints import Checkpoints, agreed_step
from secagg.vertical.trees.cells import Binned, Cells
from secagg.vertical.trees.gradients import Fixed, check_labels, first_score, gradients
from secagg.vertical.trees.levels import Nodes
from secagg.vertical.trees.messages import (
    NOWHERE,
    Brought,
    Chosen,
    Gradients,
    Histograms,
    KeyShown,
    Level,
    Sides,
)
from secagg.vertical.trees.model import Forest, Splits, Tree
from secagg.vertical.trees.secret import SecretKey
from secagg.vertical.trees.settings import TreeTerms
from secagg.vertical.trees.splitting import Histogram, Split, best_split, leaf_weight
from secagg.vertical.trees.sums import GROUP_SIZE, check_rows, groups_of


@dataclass(frozen=True)
class LabelOutcome:
    """What the label party ends with.

    Attributes:
        forest: its part of the model.
        splits: of its own columns.
        sums: feature party -> sums of gradients and Hessians that were opened.
        sides: feature party -> how often it told a row's side.
    """

    forest: Forest
    splits: Splits
    sums: Mapping[SiloId, int]
    sides: Mapping[SiloId, int]


class _State(msgspec.Struct, frozen=True):
    """After a tree. ``made``: how many splits each party has; ``scores``: of all rows, float64."""

    trees: tuple[Tree, ...]
    columns: tuple[int, ...]
    thresholds: tuple[float, ...]
    made: tuple[int, ...]
    sums: tuple[int, ...]
    sides: tuple[int, ...]
    scores: bytes = field(repr=False)


class LabelParty:
    """One training, from the label party's side.

    Args:
        name: of this party.
        columns: its own, float64, shape (rows, columns), in the order of the alignment.
        labels: float64, shape (rows,).
        terms: what all agree on.
        checkpoints: of this party.
        random: fresh uniform bytes.

    Raises:
        InputRefused: labels that the loss does not take.
        ParameterError: too many rows.
    """

    def __init__(
        self,
        name: SiloId,
        columns: NDArray[np.float64],
        labels: RealVector,
        terms: TreeTerms,
        checkpoints: Checkpoints,
        *,
        random: RandomSource = os.urandom,
    ) -> None:
        check_labels(terms.settings.loss, labels)
        check_rows(len(labels))
        self._name = name
        self._terms = terms
        self._settings = terms.settings
        self._others = terms.others(name)
        self._labels = labels
        self._width = columns.shape[1]
        self._binned = Binned.of(columns, terms.settings.bins)
        self._checkpoints = checkpoints
        self._random = random

    def side(self) -> Side[LabelOutcome]:
        """Train; return this party's parts.

        Raises:
            FaultySilo: a party left the protocol, or agreed on other terms.
        """
        terms, settings = self._terms, self._settings
        step, kept = yield from agreed_step(terms.digest, self._others, self._checkpoints)
        state = self._fresh() if kept is None else msgspec.msgpack.decode(kept, type=_State)
        if step < settings.trees:
            key = SecretKey(self._random)
            for other in self._others:
                yield from say(other, KeyShown(key.public.seed, Payload.of(key.public.to_array())))
            cells: dict[SiloId, Cells] = {}
            for other in self._others:
                cells[other] = Cells((yield from hear(other, Brought)).bins)
            for tree in range(step, settings.trees):
                state = yield from _Growing(self, key, cells, state).grown()
                self._checkpoints.save(tree + 1, msgspec.msgpack.encode(state))
        forest = Forest(
            model=terms.digest,
            parties=terms.parties,
            label_party=self._name,
            loss=settings.loss,
            first=first_score(settings.loss, self._labels),
            trees=state.trees,
        )
        splits = Splits(
            model=terms.digest,
            parties=terms.parties,
            label_party=terms.label_party,
            party=self._name,
            width=self._width,
            columns=state.columns,
            thresholds=state.thresholds,
        )
        seen = [dict(zip(terms.parties, counts, strict=True)) for counts in (state.sums, state.sides)]
        return LabelOutcome(forest, splits, *({o: counts[o] for o in self._others} for counts in seen))

    def _fresh(self) -> _State:
        scores = np.full(len(self._labels), first_score(self._settings.loss, self._labels))
        none = (0,) * len(self._terms.parties)
        return _State((), (), (), none, none, none, scores.astype("<f8").tobytes())


class _Growing:
    """One tree."""

    def __init__(
        self, party: LabelParty, key: SecretKey, cells: Mapping[SiloId, Cells], state: _State
    ) -> None:
        self._settings = party._settings
        self._terms = party._terms
        self._name, self._others = party._name, party._others
        self._binned = party._binned
        self._key = key
        self._cells = cells
        self._state = state
        self._scores = np.frombuffer(state.scores, "<f8")
        self._fixed = Fixed.of(gradients(self._settings.loss, self._scores, party._labels))
        self._node = np.ones(len(self._scores), np.int64)
        self._splits: list[tuple[int, int, int]] = []
        self._columns, self._thresholds = list(state.columns), list(state.thresholds)
        self._made, self._sums, self._sides = list(state.made), list(state.sums), list(state.sides)
        # Histograms of feature parties at the nodes of the level before.
        self._before: dict[SiloId, dict[int, NDArray[np.int64]]] = {other: {} for other in self._others}

    def grown(self) -> Side[_State]:
        """Grow it; return the state after it."""
        seed, ciphertexts = self._key.encrypt(self._fixed.integers)
        for other in self._others:
            yield from say(other, Gradients(seed, Payload.of(ciphertexts)))
        del ciphertexts
        for level in range(self._settings.depth):
            nodes = self._nodes(level)
            if not nodes.present:
                break
            for other in self._others:
                yield from say(other, Level(Payload.of(nodes.places)))
            yield from self._split(nodes)
        for other in self._others:
            yield from say(other, Level(None))
        leaves = [int(node) for node in np.unique(self._node)]
        weights = [self._weight(node) for node in leaves]
        tree = Tree(tuple(self._splits), tuple(zip(leaves, weights, strict=True)))
        scores = self._scores + tree.weights_of(self._node)
        return _State(
            (*self._state.trees, tree),
            tuple(self._columns),
            tuple(self._thresholds),
            tuple(self._made),
            tuple(self._sums),
            tuple(self._sides),
            scores.astype("<f8").tobytes(),
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
        found: dict[SiloId, list[Histogram]] = {}
        for other in self._others:
            said = yield from hear(other, Histograms)
            found[other] = self._opened(other, said, nodes, totals)
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

    def _opened(
        self, sender: SiloId, said: Histograms, nodes: Nodes, totals: Mapping[int, NDArray[np.int64]]
    ) -> list[Histogram]:
        """Return the histograms of one feature party at each node."""
        cells = self._cells[sender]
        shape = (len(nodes.present), cells.count)
        bits = np.unpackbits(np.frombuffer(said.allowed, np.uint8))
        if len(said.allowed) != -(-shape[0] * shape[1] // 8) or bits[shape[0] * shape[1] :].any():
            raise FaultySilo(sender, "it allows splits of other nodes or cells than there are")
        allowed = bits[: shape[0] * shape[1]].reshape(shape).astype(np.bool_)
        if allowed[:, cells.lasts].any():
            raise FaultySilo(sender, "it allows a split after the last bin")
        sums = self._open(sender, said.sums, cells, nodes.summed)
        for place in nodes.summed:
            if (cells.up_to(sums[place])[:, cells.lasts] != totals[place][:, None]).any():
                raise FaultySilo(sender, "the sums of its bins are not the sum of the node")
        for place in nodes.present:
            if place not in sums:
                sums[place] = self._before[sender][place >> 1] - sums[place ^ 1]
        self._before[sender] = sums
        self._sums[self._terms.parties.index(sender)] += 2 * len(nodes.summed) * cells.count
        return [Histogram(cells, sums[place], may) for place, may in zip(nodes.present, allowed, strict=True)]

    def _open(
        self, sender: SiloId, sent: Payload | None, cells: Cells, places: list[int]
    ) -> dict[int, NDArray[np.int64]]:
        groups = groups_of(cells.count)
        size = groups * GROUP_SIZE
        if (0 if sent is None else sent.length) != len(places) * size or (sent and sent.dtype != "u1"):
            raise FaultySilo(sender, "it sent sums of other nodes or cells than were due")
        if sent is None:
            return {place: np.empty((2, 0), np.int64) for place in places}
        data = sent.array().reshape(len(places), size)
        opened = (self._key.open(one, groups) for one in data)
        found = {}
        for place, sums in zip(places, opened, strict=True):
            if sums[:, cells.count :].any():
                raise FaultySilo(sender, "it sent sums of cells that there are not")
            found[place] = sums[:, : cells.count]
        return found

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
