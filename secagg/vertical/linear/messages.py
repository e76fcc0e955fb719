"""What the parties of a regression say to each other, in the order of the protocol."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from secagg.messages import Key, Said
from secagg.payload import Payload

MOST_EXPONENT = 512
Exponent = Annotated[int, msgspec.Meta(ge=-MOST_EXPONENT, le=MOST_EXPONENT)]
Seed = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Numbers: TypeAlias = Annotated[tuple[float, ...], msgspec.Meta(max_length=1 << 12)]


class Joined(Said, frozen=True, tag=True):
    """To every other party: how many columns I have, and a fresh X25519 key for masks between us."""

    columns: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    mask: Key


class Unit(Said, frozen=True, tag=True):
    """Label party to the others of a linear model: labels are told in units of 2^exponent."""

    exponent: Exponent


class PublicKey(Said, frozen=True, tag=True):
    """Holder to askers: an encryption of zero, its first half as a seed; u4."""

    seed: Seed
    second: Payload


class Hidden(Said, frozen=True, tag=True):
    """Holder to askers: a vector with an entry for each row, encrypted; first halves as a seed; u4."""

    seed: Seed
    seconds: Payload


class MaskedProducts(Said, frozen=True, tag=True):
    """Asker to holder: its matrix times the hidden vector, encrypted, masked and flooded; u4."""

    halves: Payload


class Opened(Said, frozen=True, tag=True):
    """Holder to asker: the masked products; u8."""

    products: Payload


class Point(Said, frozen=True, tag=True):
    """Label party to the others: where these multiples of your gradients add up to, go on, or end.

    The gradient is short enough there, or was the last that was agreed on. Before that, ``kept`` of your
    newest gradient and the rest of the one before it make what takes the newest one's place.
    """

    multiples: Numbers
    kept: float
    word: Literal["go", "converged", "stopped"]


class Dots(Said, frozen=True, tag=True):
    """To the label party: inner products of my last gradient with all of mine."""

    products: Numbers


class Verdict(Said, frozen=True, tag=True):
    """Label party to feature parties: your last gradient is a direction to go in, or ends the training.

    It is short enough, or the last that was agreed on. All gradients together are no longer than 2^exponent.
    """

    word: Literal["further", "converged", "stopped"]
    exponent: Exponent


class Sums(Said, frozen=True, tag=True):
    """To who adds up: for each row the sum of my columns along a direction, or by a model, masked; u8."""

    sums: Payload
