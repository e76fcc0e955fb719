"""Both sides of a sum in one process, for tests that come between them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from secagg import wire
from secagg.conversation import Send, Side, together
from secagg.messages import Part
from secagg.paillier.secret import SecretKey
from secagg.payload import Frame
from secagg.psi.identifiers import Key, read_identifiers
from secagg.psi.messages import Evaluated, Query, Tags
from secagg.psi.powers import Powers
from secagg.shared_sums.holder import holder
from secagg.shared_sums.matcher import matcher
from secagg.shared_sums.messages import Added, Encrypted, Opened
from secagg.shared_sums.outcome import SumOutcome
from secagg.shared_sums.terms import Learns, SumPolicy, SumTerms
from tests.paillier_keys import secret_key

ONE_CORE = Powers(cores=1)
LOOSE = SumPolicy(smallest_intersection=3)
KINDS = Query | Evaluated | Tags | Encrypted | Added | Opened


@dataclass
class Sum:
    """What both learned, and every message between them.

    Attributes:
        said: sender, message and size of its frame.
        knew: party -> what it had at hand when it last sent something.
    """

    outcomes: dict[str, SumOutcome] = field(default_factory=dict)
    said: list[tuple[str, Part, int]] = field(default_factory=list)
    knew: dict[str, dict[str, Any]] = field(default_factory=dict)


def run(
    mine: Iterable[Key],
    theirs: Iterable[Key],
    values: Sequence[Sequence[int]],
    *,
    learns: Learns = "both",
    largest: int = 1000,
    policies: tuple[SumPolicy, SumPolicy] = (LOOSE, LOOSE),
    change: Callable[[Part], Part] = lambda message: message,
    key: SecretKey | None = None,
    into: Sum | None = None,
    theirs_agreed: dict[str, Any] | None = None,
) -> Sum:
    """Run a sum; ``change`` sees each message before it is sent."""
    key = key or secret_key()
    agreed: dict[str, Any] = {
        "session": os.urandom(32),
        "matcher": "shop",
        "holder": "bank",
        "learns": learns,
        "columns": len(values[0]) if values else 1,
        "largest": largest,
        "bits": key.public.bits,
    }
    found = Sum() if into is None else into
    sides = {
        "shop": matcher(SumTerms(**agreed), read_identifiers(mine), policy=policies[0], powers=ONE_CORE),
        "bank": holder(
            SumTerms(**{**agreed, **(theirs_agreed or {})}),
            read_identifiers(theirs),
            values,
            key,
            policy=policies[1],
            powers=ONE_CORE,
            threads=1,
        ),
    }

    def changed(name: str, side: Any) -> Side[SumOutcome]:
        given: Frame | None = None
        while True:
            try:
                action = side.send(given)
            except StopIteration as end:
                return cast(SumOutcome, end.value)
            if isinstance(action, Send):
                found.knew[name] = dict(side.gi_frame.f_locals)
                message = wire.decode_as(*action.frame, KINDS)
                action = Send(action.to, wire.encode(change(message)))
            given = yield action

    def watch(sender: str, _: str, frame: Frame) -> None:
        found.said.append((sender, wire.decode_as(*frame, KINDS), wire.size_of(frame)))

    found.outcomes = together({name: changed(name, side) for name, side in sides.items()}, watch=watch)
    return found
