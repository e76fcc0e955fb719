"""How every session of a regression begins: parties agree, say how many columns they have, and meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from secagg.conversation import Side, hear, say
from secagg.errors import FaultySilo, ParameterError
from secagg.names import RandomSource, SiloId
from secagg.vertical.checkpoints import Checkpoints, agreed_step
from secagg.vertical.linear.masks import Masks
from secagg.vertical.linear.messages import Joined
from secagg.vertical.linear.terms import Terms


@dataclass(frozen=True)
class Start:
    """What a side begins with.

    Attributes:
        state: of the last step that all have; None at the beginning.
        columns: party -> how many it has.
        masks: of this party, which met the others.
    """

    state: bytes | None
    columns: Mapping[SiloId, int]
    masks: Masks


def begin(
    name: SiloId, terms: Terms, columns: int, checkpoints: Checkpoints, random: RandomSource
) -> Side[Start]:
    """Agree with all others.

    Args:
        name: of this party.
        terms: see there.
        columns: that this party has, an intercept counted.
        checkpoints: of this party.
        random: where the key of its masks comes from.

    Raises:
        FaultySilo: another party agreed on other terms, has too many columns, or a key that is none.
        ParameterError: this party is none of the parties, or has too many columns for so few rows.
    """
    if name not in terms.parties:
        raise ParameterError(f"{name} is none of the parties of this training")
    terms.check_columns(name, columns)
    others = terms.others(name)
    _, state = yield from agreed_step(terms.digest, others, checkpoints)
    masks = Masks(name, terms.digest, random)
    counts = {name: columns}
    for other in others:
        yield from say(other, Joined(columns, masks.public))
    for other in others:
        joined = yield from hear(other, Joined)
        masks.meet(other, joined.mask)
        try:
            terms.check_columns(other, joined.columns)
        except ParameterError as error:
            raise FaultySilo(other, str(error)) from error
        counts[other] = joined.columns
    return Start(state, {party: counts[party] for party in terms.parties}, masks)
