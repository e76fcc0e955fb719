"""A sender's campaign and receivers who ask, in one process, for tests that come between them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from secagg import wire
from secagg.conversation import Await, Send, Side, together
from secagg.messages import Part
from secagg.payload import Frame
from secagg.psi.campaign_messages import Asking, Joining
from secagg.psi.campaign_receiver import HeldTags, asking
from secagg.psi.campaign_sender import CampaignSender
from secagg.psi.campaign_terms import CampaignTerms
from secagg.psi.identifiers import Key, read_identifiers
from secagg.psi.messages import Evaluated, Matched, Query, Revealed, Tags
from secagg.psi.outcome import Outcome
from secagg.psi.terms import IntersectionPolicy
from tests.psi.parties import ONE_CORE

KINDS = Joining | Asking | Tags | Query | Evaluated | Matched | Revealed


@dataclass
class Clock:
    """Stands still until it is set."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Insurer:
    """A sender, and what was said in its campaign.

    Attributes:
        asking: the receiver's side of the query that was last begun.
    """

    sender: CampaignSender
    clock: Clock
    held: dict[str, HeldTags] = field(default_factory=dict)
    said: list[tuple[str, Part]] = field(default_factory=list)
    asking: Any = None

    def ask(
        self,
        ids: Iterable[Key],
        receiver: str = "bank",
        *,
        terms: CampaignTerms | None = None,
        change: Callable[[Part], Part] = lambda message: message,
        policy: IntersectionPolicy | None = None,
    ) -> tuple[Outcome, Outcome]:
        """Return what receiver and sender learn; ``change`` sees each message before it arrives."""
        mine = read_identifiers(ids)
        terms = terms or self.sender.terms
        policy = policy or IntersectionPolicy()
        held = self.held.get(receiver)
        self.asking = asking(terms, receiver, mine, held, policy=policy, powers=ONE_CORE)
        sides: dict[str, Side[Any]] = {
            receiver: _changed(self.asking, change),
            "insurer": _changed(self.sender.answering(receiver), change),
        }

        def watch(sender: str, _: str, frame: Frame) -> None:
            self.said.append((sender, wire.decode_as(*frame, KINDS)))

        learned = together(sides, watch=watch)
        outcome, self.held[receiver] = learned[receiver]
        return outcome, learned["insurer"]


def _changed(side: Side[Any], change: Callable[[Part], Part]) -> Side[Any]:
    given: Frame | None = None
    while True:
        try:
            action: Send | Await = side.send(given)
        except StopIteration as end:
            return end.value
        if isinstance(action, Send):
            action = Send(action.to, wire.encode(change(wire.decode_as(*action.frame, KINDS))))
        given = yield action


def insurer(
    ids: Iterable[Key],
    *,
    budget: int = 100_000,
    policy: IntersectionPolicy | None = None,
    campaign: bytes | None = None,
    **agreed: Any,
) -> Insurer:
    clock = Clock()
    terms = CampaignTerms(
        **{"campaign": campaign or os.urandom(32), "sender": "insurer", "expires": 2000, **agreed}
    )
    sender = CampaignSender(
        terms,
        read_identifiers(ids),
        budget=budget,
        policy=policy or IntersectionPolicy(),
        powers=ONE_CORE,
        clock=clock,
    )
    return Insurer(sender, clock)
