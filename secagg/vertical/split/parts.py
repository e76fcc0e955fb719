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

NAME_SIZE = 32


@dataclass(frozen=True, eq=False)
class SplitPart:
    """One party's part.

    Attributes:
        terms: of the training.
        name: of the network, 32 bytes; all parts of one have the same, and those of no other.
        scaling: of its columns.
        bottom: from its columns to its embedding.
        top: from all embeddings, the label party's first, to a score; None but at the label party.
        seed: of the noise of predictions, 32 bytes.
    """

    terms: SplitTerms
    name: bytes = field(repr=False)
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
                "name": np.frombuffer(self.name, np.uint8),
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
            name, seed = bytes_of(tensors, "name", NAME_SIZE), bytes_of(tensors, "seed", SEED_SIZE)
            return cls(terms, name, scaling, bottom, top, seed)
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


def bytes_of(tensors: Tensors, name: str, size: int) -> bytes:
    """Return bytes that stand among ``tensors``.

    Raises:
        KeyError: there are none of that name and size.
    """
    found = np.asarray(tensors[name], np.uint8).tobytes()
    if len(found) != size:
        raise KeyError(name)
    return found
