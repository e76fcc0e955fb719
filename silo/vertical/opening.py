"""What parties of a vertical job say to each other before and after the work: that they mean the same.

Nothing here is secret but for digests, from which nobody learns what they are of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from secagg.conversation import Side, hear, say
from secagg.errors import FaultySilo
from secagg.messages import Part
from secagg.names import SiloId
from secagg.terms import Digest

Command: TypeAlias = Literal["fit", "predict"]


class Opening(Part, frozen=True, tag=True):
    """To every other party, first of all: what I was told to do, and what I have of it.

    ``job``: digest of the job. ``model``: which fit my part of the model is of, to predict with.
    ``alignment``: digest of the order of shared records that I keep, or none yet.
    """

    job: Digest
    command: Command
    model: Digest | None
    alignment: Digest | None

    def __repr__(self) -> str:
        return "Opening()"


class Kept(Part, frozen=True, tag=True):
    """To every other party, last of all: what came out here is on disk."""

    def __repr__(self) -> str:
        return "Kept()"


def opened(own: Opening, others: Sequence[SiloId]) -> Side[tuple[SiloId, ...]]:
    """Return which of the others keep no alignment yet.

    Args:
        own: of this party.
        others: names of the other parties.

    Raises:
        FaultySilo: a party was told to do something else, by another job file or with another model.
    """
    for other in others:
        yield from say(other, own)
    lacking = []
    for other in others:
        theirs = yield from hear(other, Opening)
        if theirs.job != own.job:
            raise FaultySilo(other, "it has another job file; compare the two, they must be the same")
        if theirs.command != own.command:
            raise FaultySilo(
                other, f"it typed `silo vertical {theirs.command}`, and here is `silo vertical {own.command}`"
            )
        if theirs.model != own.model:
            raise FaultySilo(
                other, "its part of the model is of another fit than the one here; fit once more, together"
            )
        if theirs.alignment is None:
            lacking.append(other)
        elif own.alignment is not None and theirs.alignment != own.alignment:
            raise began_anew(other)
    return tuple(lacking)


def began_anew(other: SiloId) -> FaultySilo:
    """Return what it means that ``other`` has not the shared records that are kept here."""
    return FaultySilo(
        other,
        "it began anew, or with other records, while the job is under way here; begin anew with --again at "
        "every party",
    )


def closed(others: Sequence[SiloId]) -> Side[None]:
    """Return when every party has told that what came out is on its disk."""
    for other in others:
        yield from say(other, Kept())
    for other in others:
        yield from hear(other, Kept)
