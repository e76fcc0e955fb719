"""What a party has of a network that was trained: its own part, which no other has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from secagg.errors import EnvironmentFault, InputRefused, MalformedMessage
from secagg.vertical.split.columns import Scaling
from secagg.vertical.split.ports import Network, Networks, RealMatrix, Tensors
from secagg.vertical.split.seeds import SEED_SIZE
from secagg.vertical.split.settings import SplitTerms
from secagg.vertical.split.tensors import decode, encode, group_of, prefixed


@dataclass(frozen=True, eq=False)
class SplitPart:
    """One party's part.

    Attributes:
        terms: of the training.
        scaling: of its columns.
        bottom: from its columns to its embedding.
        top: from all embeddings, the label party's first, to a score; None but at the label party.
        seed: of the noise of predictions, 32 bytes.
    """

    terms: SplitTerms
    scaling: Scaling = field(repr=False)
    bottom: Network = field(repr=False)
    top: Network | None = field(repr=False)
    seed: bytes = field(repr=False)

    def embed(self, columns: RealMatrix) -> RealMatrix:
        """Return the outputs of the bottom for ``columns``, neither clipped nor noised.

        Raises:
            InputRefused: there are other columns than were trained on.
        """
        return self.bottom.forward(self.scaling(columns))

    def to_bytes(self) -> bytes:
        """Return the part as safetensors. It is secret."""
        return encode(
            {
                **columns_as_tensors(self.scaling),
                **weights_as_tensors({"bottom": self.bottom} | ({"top": self.top} if self.top else {})),
                "seed": np.frombuffer(self.seed, np.uint8),
            },
            self.terms.digest,
        )

    @classmethod
    def from_bytes(cls, content: bytes, terms: SplitTerms, networks: Networks) -> SplitPart:
        """Return the part that ``to_bytes`` of a training under ``terms`` gave.

        Args:
            content: the bytes.
            terms: of the training.
            networks: builds what was trained.

        Raises:
            EnvironmentFault: the bytes are damaged, of another training, or of other networks.
            MissingExtra: safetensors is not installed.
        """
        tensors = own_tensors(content, terms)
        settings = terms.settings
        try:
            scaling = Scaling(tensors["columns.mean"], tensors["columns.deviation"])
            bottom = networks.bottom(scaling.mean.size, settings.width, seed=0)
            bottom.load(group_of(tensors, "bottom"))
            top = None
            if weights := group_of(tensors, "top"):
                top = networks.top(settings.width * len(terms.parties), seed=0)
                top.load(weights)
            return cls(terms, scaling, bottom, top, seed_of(tensors))
        except (KeyError, InputRefused):
            raise EnvironmentFault("the part is of other networks than these; build those it is of") from None


def own_tensors(content: bytes, terms: SplitTerms) -> Tensors:
    """Return the tensors of what this party itself stored.

    Raises:
        EnvironmentFault: it is damaged, or of another training.
    """
    try:
        return decode(content, terms.digest)
    except MalformedMessage:
        raise EnvironmentFault(
            "what was stored of a training is damaged, or of another training: take it away to begin anew"
        ) from None


def columns_as_tensors(scaling: Scaling) -> Tensors:
    """Return a scaling by names."""
    return {"columns.mean": scaling.mean, "columns.deviation": scaling.deviation}


def weights_as_tensors(networks: Mapping[str, Network]) -> Tensors:
    """Return the weights of networks by names."""
    return prefixed({name: network.weights() for name, network in networks.items()})


def seed_of(tensors: Tensors) -> bytes:
    """Return the secret among ``tensors``.

    Raises:
        KeyError: there is none.
    """
    seed = np.asarray(tensors["seed"], np.uint8).tobytes()
    if len(seed) != SEED_SIZE:
        raise KeyError("seed")
    return seed
