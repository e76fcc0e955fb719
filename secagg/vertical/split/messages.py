"""What parties of a split network say to each other. No label, no column and no identifier is among it."""

from __future__ import annotations

from secagg.messages import Part
from secagg.payload import Payload


class Said(Part, frozen=True):
    """Shape of every message below. Its repr shows nothing."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Embeddings(Said, frozen=True, tag=True):
    """To whoever has the top: outputs of my bottom model, a row each, clipped and noised; f8."""

    rows: Payload


class Gradients(Said, frozen=True, tag=True):
    """Label party to another: of each record's loss at its embedding, a row each, clipped and noised; f8."""

    rows: Payload


class TopShared(Said, frozen=True, tag=True):
    """Label party to the party that is to get scores: the weights of the top; safetensors, u1."""

    weights: Payload
