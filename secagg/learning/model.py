"""The base a round trains from: the global weights, the strategy's state, and one hash over both.

Every silo computes the next base itself, so two silos agree exactly when their hashes do. This module
holds and names a base; it does not train, average or store one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from secagg.errors import InputRefused, MalformedMessage, UsageError
from secagg.fixedpoint import BLOCK
from secagg.hazmat.content import ContentHash
from secagg.hazmat.framing import frame
from secagg.names import RealVector
from secagg.payload import PIECE_SIZE, Payload


class Blocks(Protocol):
    """A base that is read block by block, wherever it lies."""

    @property
    def round(self) -> int:
        """The round that trains from it."""
        ...

    @property
    def length(self) -> int:
        """Number of weights."""
        ...

    @property
    def slots(self) -> int:
        """Vectors of the strategy's state."""
        ...

    def blocks(self) -> Iterator[GlobalModel]:
        """Yield ``BLOCK`` weights after the other, the last ones fewer, with the state that is theirs."""
        ...


class Base(Blocks, Protocol):
    """A base that can be named and sent."""

    @property
    def digest(self) -> bytes:
        """As of ``GlobalModel``."""
        ...

    def payload(self) -> Payload:
        """Return ``[weights, state...]``, float64."""
        ...


@dataclass(frozen=True)
class SealedBase:
    """A base that silos computed and nobody else has: it can be named, and neither read nor sent.

    Attributes:
        round: the round that trains from it.
        length: number of weights.
        digest: as of ``GlobalModel``, as silos say it is.
    """

    round: int
    length: int
    digest: bytes

    @property
    def slots(self) -> int:
        """Not known here."""
        raise _only_silos()

    def blocks(self) -> Iterator[GlobalModel]:
        """Nothing is here to be read."""
        raise _only_silos()

    def payload(self) -> Payload:
        """Nothing is here to be sent."""
        raise _only_silos()


@dataclass(frozen=True, eq=False, repr=False)
class GlobalModel:
    """Weights and server optimiser state at the start of one round.

    Vectors that are not read-only yet are copied, so that a base can never change under its hash.

    Args:
        round: the round that trains from this base, from 1.
        weights: global weights, real, finite, shape (length,) with length >= 1; kept as float64.
        state: one vector for each slot of the strategy, each as ``weights``.

    Raises:
        InputRefused: a vector has another shape or dtype, or holds NaN or an infinity.

    Guarantees:
        The vectors are float64, contiguous and read-only.
        The digest depends on every bit of weights and state and on which slot holds it, and on nothing else.
    """

    round: int
    weights: RealVector
    state: tuple[RealVector, ...] = ()

    def __post_init__(self) -> None:
        weights = frozen(self.weights)
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "state", tuple(frozen(slot) for slot in self.state))
        if any(slot.shape != weights.shape for slot in self.state):
            raise InputRefused("shape", f"a slot of the strategy's state is not of shape {weights.shape}")

    @property
    def length(self) -> int:
        """Number of weights."""
        return int(self.weights.size)

    @property
    def slots(self) -> int:
        """Vectors of the strategy's state."""
        return len(self.state)

    def blocks(self) -> Iterator[GlobalModel]:
        """Yield the base block by block; see ``Blocks``."""
        for start in range(0, self.length, BLOCK):
            part = slice(start, start + BLOCK)
            yield self._checked(self.round, self.weights[part], tuple(slot[part] for slot in self.state))

    @classmethod
    def gathered(cls, base: Blocks) -> GlobalModel:
        """Return ``base`` in memory.

        Raises:
            InputRefused: as ``base`` does.
        """
        if isinstance(base, GlobalModel):
            return base
        vectors = np.empty((1 + base.slots, base.length))
        content = begin_digest(base.length, base.slots)
        at = 0
        for block in base.blocks():
            for vector, part in zip(vectors, (block.weights, *block.state), strict=True):
                vector[at : at + block.length] = part
            content.update(little(block.weights))  # While it is in the caches.
            at += block.length
        for vector in vectors[1:]:
            content.update(little(vector))
        vectors.flags.writeable = False
        weights, *state = vectors
        model = cls._checked(base.round, weights, tuple(state))
        model.__dict__["digest"] = content.digest()
        return model

    @classmethod
    def _checked(cls, round_number: int, weights: RealVector, state: tuple[RealVector, ...]) -> GlobalModel:
        """Return a base of vectors that come out of one: a second look at 10^7 weights takes a while."""
        model = object.__new__(cls)
        for name, value in (("round", round_number), ("weights", weights), ("state", state)):
            object.__setattr__(model, name, value)
        return model

    @cached_property
    def digest(self) -> bytes:
        """BLAKE3 (32 bytes) over the lengths and the little-endian float64 bytes of weights and state.

        The round is left out: one base has one hash, whatever job or round it serves.
        """
        # They are hashed where they lie, because joining them would copy a base of 80 MB.
        content = begin_digest(self.length, self.slots)
        for vector in (self.weights, *self.state):
            content.update(little(vector))
        return content.digest()

    def to_payload(self) -> RealVector:
        """Return ``[weights, state...]`` as one new float64 vector, shape ((1 + slots) * length,)."""
        return np.concatenate((self.weights, *self.state))

    def payload(self) -> Payload:
        """Return ``to_payload()`` as a payload; a model with state is joined when it is first sent, once."""
        if not self.state:
            return Payload.of(self.weights)

        def pieces() -> Iterator[memoryview]:
            for vector in (self.weights, *self.state):
                data = little(vector)
                for start in range(0, len(data), PIECE_SIZE):
                    yield data[start : start + PIECE_SIZE]

        return Payload("f8", (1 + len(self.state)) * self.length, pieces)

    @classmethod
    def from_payload(cls, round_number: int, vector: RealVector, *, length: int) -> GlobalModel:
        """Rebuild a base that ``to_payload`` flattened; the caller then compares its digest.

        Args:
            round_number: the round that trains from it, from 1.
            vector: float64, shape ((1 + slots) * length,).
            length: number of weights, >= 1, from the receiver's own parameters.

        Raises:
            MalformedMessage: the vector cannot be a base of this length.
        """
        if vector.ndim != 1 or length < 1 or vector.size == 0 or vector.size % length:
            raise MalformedMessage(f"a base of shape {vector.shape} does not hold {length} weights")
        try:
            weights, *state = frozen(vector).reshape(-1, length)
            return cls(round_number, weights, tuple(state))
        except InputRefused as refused:
            raise MalformedMessage(f"not a base: {refused}") from refused

    def __repr__(self) -> str:
        return f"GlobalModel(round={self.round}, length={self.length}, slots={len(self.state)})"


def _only_silos() -> UsageError:
    return UsageError("the model of this run is at its silos, and nowhere else")


def begin_digest(length: int, slots: int) -> ContentHash:
    """Return what is to be updated with the bytes of weights and state, for ``GlobalModel.digest``."""
    # Both sizes come first, so the raw vectors after them split in one way only.
    return ContentHash(frame("base model", length, slots))


def little(vector: RealVector) -> memoryview:
    """Return the bytes of ``vector``, little-endian, where they lie."""
    return vector.astype("<f8", copy=False).data.cast("B")


def frozen(vector: NDArray[Any]) -> RealVector:
    """Return ``vector`` as a read-only float64 vector, copied only if it is not one already."""
    if vector.dtype.kind not in "fiu":
        raise InputRefused("dtype", f"weights have dtype {vector.dtype}, real numbers are needed")
    if vector.ndim != 1 or vector.size == 0:
        raise InputRefused("shape", f"weights have shape {vector.shape}, (length,) is needed")
    if vector.dtype != np.float64 or vector.flags.writeable or not vector.flags.c_contiguous:
        vector = np.array(vector, dtype=np.float64, order="C")
        vector.flags.writeable = False
    if not np.isfinite(vector).all():
        rule = "nan" if np.isnan(vector).any() else "infinite"
        raise InputRefused(rule, f"weights hold {'NaN' if rule == 'nan' else 'an infinity'}")
    return vector
