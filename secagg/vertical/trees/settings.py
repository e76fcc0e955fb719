"""What all parties of boosted trees agree on before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from secagg.errors import ParameterError
from secagg.hazmat.framing import digest
from secagg.names import SiloId
from secagg.ranges import positive, whole
from secagg.vertical.trees.cells import MOST_BINS

Loss: TypeAlias = Literal["logistic", "squared"]
MOST_DEPTH = 7
MOST_TREES = 10_000
MOST_PARTIES = 5


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How trees are grown.

    Attributes:
        trees: how many, 1 to 10,000.
        depth: splits from the root to a leaf at the most, 1 to 7.
        learning_rate: factor of each leaf's weight, above 0, 1 at the most.
        bins: of a column at the most, 2 to 256.
        l2: added to the Hessians of a leaf, above 0.
        min_child_rows: rows that both sides of a split have at least, from 1. No party sends a histogram of
            fewer rows, and a bin of it can have one: take it well above ``bins``.
        loss: ``"logistic"`` for labels 0 and 1, ``"squared"`` for numbers.

    Raises:
        ParameterError: a value out of its range.
    """

    trees: int = 100
    depth: int = 4
    learning_rate: float = 0.1
    bins: int = 32
    l2: float = 1.0
    min_child_rows: int = 20
    loss: Loss = "logistic"

    def __post_init__(self) -> None:
        for name, least, most in (
            ("trees", 1, MOST_TREES),
            ("depth", 1, MOST_DEPTH),
            ("bins", 2, MOST_BINS),
            ("min_child_rows", 1, 1 << 30),
        ):
            number = whole(name, getattr(self, name), least=least)
            if number > most:
                raise ParameterError(f"{name} is {number}, must be at most {most}")
            object.__setattr__(self, name, number)
        for name in ("learning_rate", "l2"):
            object.__setattr__(self, name, positive(name, getattr(self, name)))
        if self.learning_rate > 1:
            raise ParameterError(f"learning_rate is {self.learning_rate}, must be at most 1")
        if self.loss not in get_args(Loss):
            raise ParameterError(f"loss is {self.loss!r}, must be one of {', '.join(get_args(Loss))}")

    @property
    def summed_nodes(self) -> int:
        """Nodes of which sums leave a party in all trees, at the most: the root, and one of each two."""
        return self.trees << (self.depth - 1)


@dataclass(frozen=True, kw_only=True)
class TreeTerms:
    """One training.

    Attributes:
        alignment: digest of the records and their order.
        parties: their names, in the order of the alignment; 2 to 5.
        label_party: which of them has the labels.
        settings: how trees are grown.

    Raises:
        ParameterError: too few or too many parties, or the label party is none of them.
    """

    alignment: bytes
    parties: tuple[SiloId, ...]
    label_party: SiloId
    settings: Settings

    def __post_init__(self) -> None:
        if not 2 <= len(self.parties) <= MOST_PARTIES or len(set(self.parties)) < len(self.parties):
            raise ParameterError(f"{len(self.parties)} parties; trees take 2 to {MOST_PARTIES}, each once")
        if self.label_party not in self.parties:
            raise ParameterError(f"{self.label_party} has the labels and is no party")

    def others(self, name: SiloId) -> tuple[SiloId, ...]:
        """Return all parties but one."""
        return tuple(party for party in self.parties if party != name)

    @property
    def digest(self) -> bytes:
        """What all parties mean, 32 bytes."""
        chosen = self.settings
        return digest(
            "boosted trees",
            self.alignment,
            self.parties,
            self.label_party,
            (chosen.trees, chosen.depth, chosen.learning_rate, chosen.bins),
            (chosen.l2, chosen.min_child_rows, chosen.loss),
        )
