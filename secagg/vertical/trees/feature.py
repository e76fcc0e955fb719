"""A feature party's side of a training: it sums gradients that it cannot read, and splits where it is told.

It learns which rows are in which node, and which of its columns split where. It sees no label, gradient or
score. What the label party may ask is checked, but it is trusted to keep to the protocol: one that puts rows
into nodes as it likes learns, from differences of sums, in which bins single rows are.

Source: Cheng et al., "SecureBoost", IEEE Intelligent Systems 2021, algorithms 1 and 2.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from secagg.conversation import Side, hear, say
from secagg.errors import FaultySilo, MalformedMessage
from secagg.names import RandomSource, SiloId
from secagg.payload import Payload
from secagg.vertical.checkpoints import Checkpoints, agreed_step, data_digest
from secagg.vertical.trees.cells import Binned
from secagg.vertical.trees.lattice import PublicKey
from secagg.vertical.trees.levels import Nodes
from secagg.vertical.trees.messages import (
    Brought,
    Chosen,
    Gradients,
    KeyShown,
    Level,
    Sides,
    Sums,
)
from secagg.vertical.trees.model import Splits
from secagg.vertical.trees.settings import TreeTerms
from secagg.vertical.trees.states import named_after, state_of
from secagg.vertical.trees.sums import EncryptedRows, check_hiding


@dataclass(frozen=True)
class FeatureOutcome:
    """What a feature party ends with.

    Attributes:
        splits: its part of the model.
        placed: times that it was told a row's node.
        encrypted: gradients and Hessians that it was sent and could not read.
    """

    splits: Splits
    placed: int
    encrypted: int


class _State(msgspec.Struct, frozen=True):
    """After a tree. ``terms`` and ``data``: their digests; ``model``: what names it so far."""

    terms: bytes
    data: bytes
    model: bytes
    columns: tuple[int, ...] = ()
    thresholds: tuple[float, ...] = ()
    placed: int = 0
    encrypted: int = 0


class FeatureParty:
    """One training, from a feature party's side.

    Args:
        name: of this party.
        columns: its own, float64, shape (rows, columns), in the order of the alignment.
        terms: what all agree on.
        checkpoints: of this party.
        random: fresh uniform bytes.

    Raises:
        ParameterError: too many rows, trees or cells for noise to hide how sums are made.
    """

    def __init__(
        self,
        name: SiloId,
        columns: NDArray[np.float64],
        terms: TreeTerms,
        checkpoints: Checkpoints,
        *,
        random: RandomSource = os.urandom,
    ) -> None:
        self._name = name
        self._terms = terms
        self._settings = terms.settings
        self._label = terms.label_party
        self._rows, self._width = columns.shape
        self._binned = Binned.of(columns, terms.settings.bins)
        self._data = data_digest(columns)
        self._checkpoints = checkpoints
        self._random = random
        check_hiding(self._binned, terms.settings.summed_nodes)

    def side(self) -> Side[FeatureOutcome]:
        """Train; return this party's part.

        Raises:
            EnvironmentFault, ParameterError: see ``state_of``.
            FaultySilo: a party left the protocol, or agreed on other terms.
        """
        terms, data = self._terms, self._data
        step, kept = yield from agreed_step(terms.digest, terms.others(self._name), self._checkpoints)
        fresh = _State(terms.digest, data, terms.digest)
        state = fresh if kept is None else state_of(kept, _State, terms, data)
        if step < self._settings.trees:
            key = self._key((yield from hear(self._label, KeyShown)))
            yield from say(self._label, Brought(self._binned.cells.bins))
            for tree in range(step, self._settings.trees):
                state = yield from self._tree(key, state)
                self._checkpoints.save(tree + 1, msgspec.msgpack.encode(state))
        splits = Splits(
            model=state.model,
            parties=terms.parties,
            label_party=terms.label_party,
            party=self._name,
            width=self._width,
            columns=state.columns,
            thresholds=state.thresholds,
        )
        return FeatureOutcome(splits, state.placed, state.encrypted)

    def _tree(self, key: PublicKey, state: _State) -> Side[_State]:
        columns, thresholds = list(state.columns), list(state.thresholds)
        placed, encrypted, model = state.placed, state.encrypted, state.model
        before: Nodes | None = None
        while True:
            told = yield from hear(self._label, Level)
            if told.nodes is None:
                break
            nodes = self._nodes(told.nodes, before)
            model = named_after(model, nodes)
            placed += int(nodes.counts.sum())
            allowed: dict[int, NDArray[np.bool_]] = {}
            for place in nodes.summed:
                some = {each: self._allowed(nodes.rows(each)) for each in nodes.together(place)}
                sent = yield from hear(self._label, Gradients)
                sums = self._summed(sent, key, nodes.rows(place))
                encrypted += 2 * int(nodes.counts[place])
                yield from say(self._label, Sums(np.packbits(np.stack(list(some.values()))).tobytes(), sums))
                allowed |= some
            chosen = yield from hear(self._label, Chosen)
            self._check(chosen, allowed)
            if chosen.splits:
                left = [self._binned.left(column, bin_, nodes.rows(p)) for p, column, bin_ in chosen.splits]
                yield from say(self._label, Sides(Payload.of(np.packbits(np.concatenate(left)))))
            columns += [self._binned.column[column] for _, column, _ in chosen.splits]
            thresholds += [float(self._binned.cuts[column][bin_]) for _, column, bin_ in chosen.splits]
            before = nodes
        return _State(state.terms, state.data, model, tuple(columns), tuple(thresholds), placed, encrypted)

    def _key(self, shown: KeyShown) -> PublicKey:
        try:
            return PublicKey.of(shown.seed, shown.zeros.array())
        except MalformedMessage as error:
            raise self._faulty(f"its key: {error}") from error

    def _nodes(self, told: Payload, before: Nodes | None) -> Nodes:
        level = 0 if before is None else before.level + 1
        if told.dtype != "u1" or told.length != self._rows or level >= self._settings.depth:
            raise self._faulty("it told nodes of other rows, or of a level too deep")
        nodes = Nodes.at(level, told.array())
        after = nodes.fault_of_root() if before is None else nodes.fault_after(before)
        text = nodes.fault(self._settings.min_child_rows) or after
        if text:
            raise self._faulty(text)
        return nodes

    def _allowed(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return after which cells a node of ``rows`` may be split."""
        return self._binned.cells.allowed(self._binned.counts(rows), self._settings.min_child_rows)

    def _summed(self, sent: Gradients, key: PublicKey, rows: NDArray[np.int64]) -> Payload | None:
        """Return the encrypted histograms of one node's rows."""
        try:
            encrypted = EncryptedRows(sent.seed, sent.ciphertexts.array(), len(rows))
        except MalformedMessage as error:
            raise self._faulty(f"its gradients: {error}") from error
        if not self._binned.cells.count:
            return None
        sums = encrypted.sums(self._binned.of_rows(rows), key, random=self._random)
        return Payload.of(sums.reshape(-1))

    def _check(self, chosen: Chosen, allowed: Mapping[int, NDArray[np.bool_]]) -> None:
        places = [place for place, _, _ in chosen.splits]
        if places != sorted(set(places)) or not set(places) <= allowed.keys():
            raise self._faulty("it splits nodes that there are not, or one twice")
        cells = self._binned.cells
        for place, column, bin_ in chosen.splits:
            if (
                column >= len(cells.bins)
                or bin_ >= cells.bins[column]
                or not allowed[place][cells.starts[column] + bin_]
            ):
                raise self._faulty("it splits where this party does not allow it")

    def _faulty(self, text: str) -> FaultySilo:
        return FaultySilo(self._label, text)
