"""Scores of rows from the parts of a model, which stay where they are; one agreed party gets them.

Every party tells that one, for each of its splits and each row, whether the row goes left; that one follows
the trees. It learns these sides also where no path leads. Who gets scores and has no labels is given the
trees with the weights of their leaves, which scores tell of anyway. Nobody learns a threshold of another,
and who only answers learns nothing.

Source: Cheng et al., "SecureBoost", IEEE Intelligent Systems 2021, section on federated inference, with all
questions asked at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secagg.conversation import Side, hear, say
from secagg.errors import FaultySilo, MalformedMessage, ParameterError
from secagg.hazmat.framing import digest
from secagg.names import RealVector, SiloId
from secagg.payload import Payload
from secagg.vertical.checkpoints import InMemory, agreed_step
from secagg.vertical.trees.gradients import probabilities
from secagg.vertical.trees.messages import Answers, Trees
from secagg.vertical.trees.model import Forest, Splits, from_json, to_json

_ROWS = 1 << 14
"""Rows that are scored at a time."""


@dataclass(frozen=True, kw_only=True)
class ScoreTerms:
    """One prediction.

    Attributes:
        alignment: digest of the records that are scored, and of their order.
        model, parties, label_party: as of the parts.
        to: who gets the scores.

    Raises:
        ParameterError: it is none of the parties.
    """

    alignment: bytes
    model: bytes
    parties: tuple[SiloId, ...]
    label_party: SiloId
    to: SiloId

    def __post_init__(self) -> None:
        if self.to not in self.parties:
            raise ParameterError(f"{self.to} is to get scores and is none of the parties")

    @property
    def digest(self) -> bytes:
        """What all parties mean, 32 bytes."""
        return digest("tree scores", self.alignment, self.model, self.parties, self.label_party, self.to)

    def fit(self, part: Forest | Splits) -> bool:
        """Whether a part is of this model."""
        return (part.model, part.parties, part.label_party) == (self.model, self.parties, self.label_party)


class ScoringParty:
    """One prediction, from one party's side.

    Args:
        name: of this party.
        columns: its own, shape (rows, columns), in the order of the alignment.
        splits: its own part of the model.
        forest: the trees, at the label party.
        terms: what all agree on.

    Raises:
        ParameterError: parts of another model, other columns than it was trained on, or trees at one that has
            none, or none at the one that has.
    """

    def __init__(
        self,
        name: SiloId,
        columns: NDArray[np.float64],
        splits: Splits,
        terms: ScoreTerms,
        *,
        forest: Forest | None = None,
    ) -> None:
        if any(part is not None and not terms.fit(part) for part in (splits, forest)):
            raise ParameterError("the parts are of another training")
        if forest is not None and not forest.has(splits):
            raise ParameterError("the splits are not those of the trees: take parts of one training")
        if splits.party != name or (forest is not None) != (name == terms.label_party):
            raise ParameterError("the parts are another party's")
        if columns.shape[1] != splits.width:
            raise ParameterError(f"the model was trained on {splits.width} columns, not {columns.shape[1]}")
        self._name = name
        self._columns = columns
        self._splits = splits
        self._forest = forest
        self._terms = terms
        self._others = tuple(party for party in terms.parties if party != name)

    def side(self) -> Side[RealVector | None]:
        """Score; return the scores at who gets them, else None.

        Scores are probabilities where the loss is logistic, shape (rows,).

        Raises:
            FaultySilo: a party left the protocol, or agreed on other terms.
        """
        yield from agreed_step(self._terms.digest, self._others, InMemory())
        if self._name != self._terms.to:
            yield from self._answer()
            return None
        forest = self._forest
        if forest is None:
            forest = self._read((yield from hear(self._terms.label_party, Trees)))
        scores = np.full(len(self._columns), forest.first)
        for start in range(0, len(scores), _ROWS):
            part = slice(start, start + _ROWS)
            yield from self._add(forest, self._columns[part], scores[part])
        return probabilities(scores) if forest.loss == "logistic" else scores

    def _answer(self) -> Side[None]:
        to = self._terms.to
        if self._forest is not None:
            yield from say(to, Trees(Payload.of(np.frombuffer(to_json(self._forest), np.uint8))))
        if self._splits.columns:
            for start in range(0, len(self._columns), _ROWS):
                left = self._splits.left(self._columns[start : start + _ROWS])
                yield from say(to, Answers(Payload.of(left.reshape(-1))))

    def _read(self, sent: Trees) -> Forest:
        label = self._terms.label_party
        try:
            forest = from_json(sent.forest.array().tobytes(), Forest)
        except MalformedMessage as error:
            raise FaultySilo(label, str(error)) from error
        if not self._terms.fit(forest) or not forest.has(self._splits):
            raise FaultySilo(label, "it sent trees of another training")
        return forest

    def _add(self, forest: Forest, part: NDArray[np.float64], scores: RealVector) -> Side[None]:
        """Add the weights of the leaves of some rows to their scores."""
        rows, size = len(part), -(-len(part) // 8)
        answers: list[NDArray[np.uint8]] = []  # As bits, of which one split at a time is unpacked.
        for party, name in enumerate(forest.parties):
            splits = forest.splits_of(party)
            if name == self._name:
                answers.append(self._splits.left(part))
            elif not splits:
                answers.append(np.empty((0, size), np.uint8))
            else:
                said = yield from hear(name, Answers)
                if said.left.dtype != "u1" or said.left.length != splits * size:
                    raise FaultySilo(name, "it answered for other splits or rows than there are")
                bits = said.left.array().reshape(splits, size)
                if (bits[:, -1] & ((1 << (8 * size - rows)) - 1)).any():
                    raise FaultySilo(name, "it answered for more rows than there are")
                answers.append(bits)

        def left(party: int, index: int) -> NDArray[np.bool_]:
            return np.unpackbits(answers[party][index], count=rows).astype(np.bool_)

        for tree in forest.trees:
            scores += tree.weights_of(tree.leaves_of(rows, left))
