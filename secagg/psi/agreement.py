"""How an intersection between processes begins and ends: what all agree on, and that all have their result.

Before anything of a set is said each party tells each other what it was started with, and draws 32 bytes for
the name of the session. So a difference between two operators' commands is found in words, and no session
has the name of another as long as one party is honest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, TypeAlias

import msgspec

from secagg.conversation import Side, hear, say
from secagg.errors import FaultySilo, ParameterError
from secagg.hazmat.content import content_digest
from secagg.hazmat.framing import digest
from secagg.messages import Part
from secagg.names import SiloId
from secagg.psi.identifiers import Case, Rule, Spaces
from secagg.psi.many.terms import MOST, ManyReveal, ManyTerms
from secagg.psi.sizes import LARGEST
from secagg.psi.terms import IntersectionTerms, Reveal
from secagg.terms import Digest, Name

Terms: TypeAlias = IntersectionTerms | ManyTerms
_OF_MANY: Mapping[Reveal, ManyReveal] = {"both": "all", "receiver": "leader"}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What one party was started with.

    Attributes:
        parties: all, in the order of the roster.
        first: whether this party is to learn first (receiver, leader); None leaves it to the others, and if
            all do, to the order of ``parties``.
        reveal: as of ``IntersectionTerms``; of more than two parties ``"both"`` is everybody, ``"receiver"``
            the leader.
        case: of the rule.
        spaces: of the rule.
        parts: columns of a key.
        smallest_intersection: of this party's policy.
    """

    parties: Annotated[tuple[Name, ...], msgspec.Meta(min_length=2, max_length=MOST)]
    first: bool | None = None
    reveal: Reveal = "both"
    case: Case = "fold"
    spaces: Spaces = "collapse"
    parts: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    smallest_intersection: Annotated[int, msgspec.Meta(ge=0, le=LARGEST)] = 0


class Proposed(Part, frozen=True, tag=True):
    """To every other party, first of all. ``nonce``: drawn for this session."""

    nonce: Digest
    settings: Settings


class Finished(Part, frozen=True, tag=True):
    """To every other party, last of all: I have my result, and ask for nothing more."""


@dataclass(frozen=True)
class Agreed:
    """What all agreed on.

    Attributes:
        terms: of two or of many.
        proposals: party -> digest of all that it proposed, 32 bytes.
    """

    terms: Terms
    proposals: Mapping[SiloId, bytes] = field(repr=False)


def agreed(mine: SiloId, settings: Settings, nonce: bytes) -> Side[Agreed]:
    """Return what all parties agree on.

    Args:
        mine: the name of this party.
        settings: of this party.
        nonce: 32 bytes, drawn for this session by this party.

    Raises:
        FaultySilo: a party was started with something that does not fit.
        ParameterError: the settings fit no intersection.
    """
    if len(settings.parties) > 2 and settings.reveal == "count":
        raise ParameterError("the number alone is found for two parties, not for more")
    others = [party for party in settings.parties if party != mine]
    proposed = {mine: Proposed(nonce, settings)}
    for other in others:
        yield from say(other, proposed[mine])
    for other in others:
        proposed[other] = yield from hear(other, Proposed)
        _check_alike(other, proposed[other].settings, settings)
    first = _first(mine, {party: proposed[party].settings.first for party in settings.parties})
    proposals = {party: content_digest(msgspec.msgpack.encode(proposed[party])) for party in settings.parties}
    session = digest("intersection session", settings.parties, tuple(proposals.values()))
    rule = Rule(case=settings.case, spaces=settings.spaces)
    if len(settings.parties) == 2:
        (second,) = (party for party in settings.parties if party != first)
        two = IntersectionTerms(
            session=session, receiver=first, sender=second, reveal=settings.reveal, rule=rule
        )
        return Agreed(two, proposals)
    many = ManyTerms(
        session=session,
        leader=first,
        followers=tuple(party for party in settings.parties if party != first),
        reveal=_OF_MANY[settings.reveal],
        rule=rule,
        smallest_intersection=max(each.settings.smallest_intersection for each in proposed.values()),
    )
    return Agreed(many, proposals)


def finished(others: Sequence[SiloId]) -> Side[None]:
    """Tell all that this party has its result, and wait until all have theirs."""
    for other in others:
        yield from say(other, Finished())
    for other in others:
        yield from hear(other, Finished)


def _check_alike(other: SiloId, theirs: Settings, mine: Settings) -> None:
    for name, what in (
        ("parties", "is to be between"),
        ("reveal", "is to reveal"),
        ("case", "reads case by"),
        ("spaces", "reads spaces by"),
        ("parts", "has so many columns in a key:"),
    ):
        here, there = getattr(mine, name), getattr(theirs, name)
        if here != there:
            raise FaultySilo(
                other,
                f"it was started otherwise: there it {what} {_shown(there)}, here {_shown(here)}. Agree with "
                "its operator and start again",
            )


def _shown(value: tuple[str, ...] | str | int) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _first(mine: SiloId, wishes: Mapping[SiloId, bool | None]) -> SiloId:
    """Return who learns first: who says so, or the first that does not decline."""
    wanting = [party for party, wish in wishes.items() if wish]
    if len(wanting) > 1:
        other = next(party for party in wanting if party != mine)
        raise FaultySilo(other, f"only one party can learn first, and {' and '.join(wanting)} want to")
    free = wanting or [party for party, wish in wishes.items() if wish is None]
    if not free:
        other = next(party for party in wishes if party != mine)
        raise FaultySilo(other, "every party declines to learn first; one of them must")
    return free[0]
