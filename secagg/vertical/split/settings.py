"""What all parties of a split network agree on before anything is computed."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property

from secagg.errors import ParameterError
from secagg.hazmat.framing import digest
from secagg.names import SiloId
from secagg.privacy.gaussian import least_epsilon
from secagg.ranges import positive, whole
from secagg.vertical.split.cut import Cut

MOST_PARTIES = 5


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """How a split network is trained.

    Attributes:
        width: numbers in one embedding of one party, 1 to 1024.
        rounds: how often embeddings of all records leave, and gradients come back; at least 1. What noise
            hides of a record, each round wears away.
        passes: over all records that the label party learns in one round, at least 1.
        batch: records of one step, about; at least 1. Which records are in one is fixed.
        label_flip: probability with which each label is turned round, once, before any gradient is made from
            it; above 0, below 0.5. To whoever knows all else, what leaves tells a label from its opposite
            with an AUC of ``1 - label_flip`` at the most.
        embedding_clip: largest norm of one embedding, before noise.
        embedding_noise: standard deviation of the noise in each of its numbers, over that norm.
        gradient_clip: largest norm of the gradient of one record's loss at one party's embedding.
        gradient_noise: standard deviation of the noise in it, over that norm.

    Raises:
        ParameterError: a value is outside its range.
    """

    width: int = 16
    rounds: int = 5
    passes: int = 4
    batch: int = 64
    label_flip: float = 0.47
    embedding_clip: float = 4.0
    embedding_noise: float = 0.075
    gradient_clip: float = 0.01
    gradient_noise: float = 1.0

    def __post_init__(self) -> None:
        for name in ("width", "rounds", "passes", "batch"):
            object.__setattr__(self, name, whole(name, getattr(self, name), least=1))
        if self.width > 1024:
            raise ParameterError(f"width is {self.width}, must be at most 1024")
        object.__setattr__(self, "label_flip", positive("label_flip", self.label_flip))
        if self.label_flip >= 0.5:
            raise ParameterError(
                f"label_flip is {self.label_flip}, must be below 0.5: nothing is learned there"
            )
        for name in ("embedding_clip", "embedding_noise", "gradient_clip", "gradient_noise"):
            object.__setattr__(self, name, positive(name, getattr(self, name)))
        _ = self.embeddings, self.gradients  # They refuse what no grid has room for.

    @cached_property
    def embeddings(self) -> Cut:
        """How embeddings leave."""
        return Cut(self.embedding_clip, self.embedding_noise, self.width)

    @cached_property
    def gradients(self) -> Cut:
        """How gradients leave."""
        return Cut(self.gradient_clip, self.gradient_noise, self.width)

    @property
    def label_epsilon(self) -> float:
        """Of one label, with delta 0, over a whole training: differential privacy by randomised response."""
        return math.log((1 - self.label_flip) / self.label_flip)

    def embedding_epsilon(self, releases: int, delta: float) -> float:
        """Return epsilon at ``delta`` of one record's embeddings of one party, released so many times.

        What the party's bottom learned from the record, and so puts into embeddings of others, is not in it.
        """
        return least_epsilon(self.embeddings.mu * math.sqrt(releases), delta)


@dataclass(frozen=True, kw_only=True)
class SplitTerms:
    """One training.

    Attributes:
        alignment: digest of which records, in which order, 32 bytes.
        count: records, at least 2.
        parties: names, 2 to 5.
        label_party: the one of them that has labels.
        settings: how.

    Raises:
        ParameterError: see there.
    """

    alignment: bytes
    count: int
    parties: tuple[SiloId, ...]
    label_party: SiloId
    settings: SplitSettings

    def __post_init__(self) -> None:
        if len(self.alignment) != 32:
            raise ParameterError("the digest of an alignment is 32 bytes")
        if whole("count", self.count) < 2:
            raise ParameterError("too few records are shared: a split network takes at least 2")
        if not 2 <= len(set(self.parties)) == len(self.parties) <= MOST_PARTIES:
            raise ParameterError(f"a split network is of 2 to {MOST_PARTIES} parties, each once")
        if self.label_party not in self.parties:
            raise ParameterError("the label party is none of the parties")

    @property
    def feature_parties(self) -> tuple[SiloId, ...]:
        """All but the label party, in order."""
        return tuple(name for name in self.parties if name != self.label_party)

    @cached_property
    def digest(self) -> bytes:
        """Of all of it, 32 bytes."""
        settings = tuple((field.name, getattr(self.settings, field.name)) for field in fields(self.settings))
        return digest("split network", self.alignment, self.count, self.parties, self.label_party, settings)

    def others(self, name: SiloId) -> tuple[SiloId, ...]:
        """Return all but ``name``, in order.

        Raises:
            ParameterError: it is none of the parties.
        """
        if name not in self.parties:
            raise ParameterError(f"{name} is none of the parties")
        return tuple(other for other in self.parties if other != name)


@dataclass(frozen=True, kw_only=True)
class PredictionTerms:
    """One prediction.

    Attributes:
        training: terms of the network.
        alignment: digest of the records to be scored, 32 bytes.
        count: of them, at least 1.
        to: the party that gets the scores, and nobody else does.

    Raises:
        ParameterError: see there.
    """

    training: SplitTerms
    alignment: bytes
    count: int
    to: SiloId

    def __post_init__(self) -> None:
        if len(self.alignment) != 32:
            raise ParameterError("the digest of an alignment is 32 bytes")
        if whole("count", self.count) < 1:
            raise ParameterError("no record is shared: there is nothing to score")
        if self.to not in self.training.parties:
            raise ParameterError("who is to get the scores is none of the parties")

    @cached_property
    def digest(self) -> bytes:
        """Of all of it, 32 bytes."""
        return digest("split prediction", self.training.digest, self.alignment, self.count, self.to)

    def agreed(self, network: bytes) -> bytes:
        """Return what parties with parts of one network agree on, 32 bytes; ``network`` is its name."""
        return digest("split prediction of", self.digest, network)
