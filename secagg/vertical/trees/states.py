"""What a party keeps after each tree, read back."""

from __future__ import annotations

from typing import Protocol, TypeVar

import msgspec

from secagg.errors import EnvironmentFault
from secagg.vertical.trees.settings import TreeTerms


class State(Protocol):
    """Of any party."""

    @property
    def terms(self) -> bytes:
        """Digest of those of the training."""
        ...


S = TypeVar("S", bound=State)


def state_of(kept: bytes, kind: type[S], terms: TreeTerms) -> S:
    """Return the state that a party kept.

    Raises:
        EnvironmentFault: it cannot be read, or is of another training.
    """
    try:
        state = msgspec.msgpack.decode(kept, type=kind)
    except msgspec.MsgspecError:
        # The text of the decoder may quote what it read.
        raise EnvironmentFault(
            "a checkpoint of boosted trees cannot be read: begin again without it"
        ) from None
    if state.terms != terms.digest:
        raise EnvironmentFault("a checkpoint is of another training: give each training its own")
    return state
