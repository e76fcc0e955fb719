"""What a party keeps after each tree, read back."""

from __future__ import annotations

from typing import Protocol, TypeVar

import msgspec

from secagg.errors import EnvironmentFault, ParameterError
from secagg.hazmat.framing import digest
from secagg.vertical.trees.levels import Nodes
from secagg.vertical.trees.settings import TreeTerms


class State(Protocol):
    """Of any party."""

    @property
    def terms(self) -> bytes:
        """Digest of those of the training."""
        ...

    @property
    def data(self) -> bytes:
        """Digest of the party's columns and labels."""
        ...


S = TypeVar("S", bound=State)


def state_of(kept: bytes, kind: type[S], terms: TreeTerms, data: bytes) -> S:
    """Return the state that a party kept.

    Raises:
        EnvironmentFault: it cannot be read, or is of another training.
        ParameterError: ``data`` are not those that the training was begun with.
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
    if state.data != data:
        raise ParameterError("columns or labels are not those that this training was begun with")
    return state


def named_after(model: bytes, nodes: Nodes) -> bytes:
    """Return what names a model after one more level.

    All parties see these nodes. So parts of trainings on other columns or labels have other names, although
    terms are the same; and a training that went on has the name of one that was not interrupted.
    """
    return digest("boosted trees, nodes", model, nodes.places.tobytes())
