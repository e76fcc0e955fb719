"""The label party's side of a training: it alone has labels, gradients, scores and the weights of leaves.

It learns of each feature party sums of gradients and of Hessians in each bin, exactly and no more, how many
bins columns have that vary, where they may not be split, and to which side rows go where it splits them: over
many trees, the order of rows in a column. It knows each row's gradient: a bin with few rows tells which they
are.

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
from secagg.names import RandomSource, RealVector, SiloId
from secagg.payload import Payload
from secagg.vertical.checkpoints import Checkpoints, agreed_step, data_digest
from secagg.vertical.trees.cells import Binned, Cells
from secagg.vertical.trees.gradients import check_labels, first_score
from secagg.vertical.trees.growing import Growing, GrownState
from secagg.vertical.trees.messages import Brought, KeyShown
from secagg.vertical.trees.model import Forest, Splits
from secagg.vertical.trees.secret import SecretKey
from secagg.vertical.trees.settings import TreeTerms
from secagg.vertical.trees.states import state_of
from secagg.vertical.trees.sums import check_rows


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
        self._data = data_digest(columns, labels)
        self._checkpoints = checkpoints
        self._random = random

    def side(self) -> Side[LabelOutcome]:
        """Train; return this party's parts.

        Raises:
            EnvironmentFault, ParameterError: see ``state_of``.
            FaultySilo: a party left the protocol, or agreed on other terms.
        """
        terms, settings = self._terms, self._settings
        step, kept = yield from agreed_step(terms.digest, self._others, self._checkpoints)
        state = self._fresh() if kept is None else state_of(kept, GrownState, terms, self._data)
        if step < settings.trees:
            key = SecretKey(self._random)
            for other in self._others:
                yield from say(other, KeyShown(key.public.seed, Payload.of(key.public.to_array())))
            cells: dict[SiloId, Cells] = {}
            for other in self._others:
                cells[other] = Cells((yield from hear(other, Brought)).bins)
            for tree in range(step, settings.trees):
                state = yield from Growing(terms, self._binned, self._labels, key, cells, state).grown()
                self._checkpoints.save(tree + 1, msgspec.msgpack.encode(state))
        forest = Forest(
            model=state.model,
            parties=terms.parties,
            label_party=self._name,
            loss=settings.loss,
            first=first_score(settings.loss, self._labels),
            trees=state.trees,
        )
        splits = Splits(
            model=state.model,
            parties=terms.parties,
            label_party=terms.label_party,
            party=self._name,
            width=self._width,
            columns=state.columns,
            thresholds=state.thresholds,
        )
        seen = [dict(zip(terms.parties, counts, strict=True)) for counts in (state.sums, state.sides)]
        return LabelOutcome(forest, splits, *({o: counts[o] for o in self._others} for counts in seen))

    def _fresh(self) -> GrownState:
        scores = np.full(len(self._labels), first_score(self._settings.loss, self._labels))
        none = (0,) * len(self._terms.parties)
        return GrownState(
            terms=self._terms.digest,
            data=self._data,
            model=self._terms.digest,
            trees=(),
            columns=(),
            thresholds=(),
            made=none,
            sums=none,
            sides=none,
            scores=scores.astype("<f8").tobytes(),
        )
