"""What parties of a split network say to each other. No label, no column and no identifier is among it."""

from __future__ import annotations

from secagg.messages import Said
from secagg.payload import Payload
from secagg.terms import Digest


class Embeddings(Said, frozen=True, tag=True):
    """To whoever has the top: outputs of my bottom model, a row each, clipped and noised; f8."""

    rows: Payload


class Gradients(Said, frozen=True, tag=True):
    """Label party to another: of each record's loss at its embedding, a row each, clipped and noised; f8."""

    rows: Payload


class Named(Said, frozen=True, tag=True):
    """Label party to another, last: what names this network, so that parts of two do not go together."""

    network: Digest


class TopShared(Said, frozen=True, tag=True):
    """Label party to the party that is to get scores: the weights of the top; safetensors, u1."""

    weights: Payload
