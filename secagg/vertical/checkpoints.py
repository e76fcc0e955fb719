"""Where a party keeps how far it is, and how parties agree from which step they go on.

Nothing random in these protocols changes what comes out, so what a step ends with is all that must be kept:
a run that was killed goes on from the last step that all parties have, with identical output.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from secagg.conversation import Side, hear, say
from secagg.errors import FaultySilo
from secagg.messages import Said
from secagg.names import SiloId
from secagg.terms import Digest

Steps = Annotated[tuple[Annotated[int, msgspec.Meta(ge=1)], ...], msgspec.Meta(max_length=2)]


class Checkpoints(Protocol):
    """Keeps what the last two steps ended with, where a crash of this process does not reach it.

    Two, because a party may be one step ahead of another. It is secret: its owner's part of a model.
    """

    def save(self, step: int, state: bytes) -> None:
        """Keep ``state`` as that after ``step``, from 1; return when it cannot be lost."""
        ...

    def load(self) -> Mapping[int, bytes]:
        """Return step -> state of what is kept."""
        ...


class InMemory:
    """Keeps them in this process."""

    def __init__(self) -> None:
        self._kept: dict[int, bytes] = {}

    def save(self, step: int, state: bytes) -> None:
        """See ``Checkpoints``."""
        self._kept = {at: kept for at, kept in self._kept.items() if at == step - 1} | {step: state}

    def load(self) -> Mapping[int, bytes]:
        """See ``Checkpoints``."""
        return dict(self._kept)


def data_digest(*arrays: NDArray[Any] | None) -> bytes:
    """Return what tells a party's own data from others, 32 bytes. It stays in its checkpoints."""
    content = hashlib.sha256()
    for array in arrays:
        content.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    return content.digest()


class Standing(Said, frozen=True, tag=True):
    """To every other party, first of all: what I agreed to, and after which steps I can go on."""

    terms: Digest
    steps: Steps


def agreed_step(
    terms: bytes, others: Sequence[SiloId], checkpoints: Checkpoints
) -> Side[tuple[int, bytes | None]]:
    """Return the last step that every party has, with this party's state after it; (0, None) without one.

    Args:
        terms: digest of all that the parties must agree on: the alignment's digest among it, 32 bytes.
        others: names of the other parties.
        checkpoints: of this party.

    Raises:
        FaultySilo: a party agreed on other terms: another alignment, other settings, another protocol.
    """
    kept = checkpoints.load()
    common = set(kept)
    for other in others:
        yield from say(other, Standing(terms, tuple(sorted(kept))))
    for other in others:
        standing = yield from hear(other, Standing)
        if standing.terms != terms:
            raise FaultySilo(other, "it agreed on other records, settings or parties; compare both sides")
        common &= set(standing.steps)
    step = max(common, default=0)
    return step, kept.get(step)
