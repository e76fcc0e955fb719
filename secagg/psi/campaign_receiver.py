"""The receiver of a campaign: it gets the sender's tags once, and asks while the sender's budget lasts.

Every query has an exponent of its own, so that the sender cannot tell which queries ask about the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from secagg.conversation import Side, hear, say
from secagg.errors import ProtocolError
from secagg.names import SiloId
from secagg.psi.campaign_messages import Asking, Joining
from secagg.psi.campaign_terms import CampaignTerms
from secagg.psi.identifiers import Identifiers
from secagg.psi.messages import FromSender, Tags
from secagg.psi.outcome import Outcome
from secagg.psi.powers import Powers
from secagg.psi.receiver import ReceiverSession
from secagg.psi.tags import TAG
from secagg.psi.terms import IntersectionPolicy


@dataclass(frozen=True, eq=False)
class HeldTags:
    """The sender's tags in one campaign, which a receiver keeps until it ends.

    Attributes:
        said: by the sender, checked.
        edition: what names them.
    """

    said: Tags
    edition: bytes


def asking(
    terms: CampaignTerms,
    receiver: SiloId,
    identifiers: Identifiers,
    held: HeldTags | None,
    *,
    policy: IntersectionPolicy,
    powers: Powers,
) -> Side[tuple[Outcome, HeldTags]]:
    """Run the receiver's side of one query; return what it learned, and the tags to ask with again.

    Args:
        terms: of the campaign.
        receiver: this party.
        identifiers: that it asks about.
        held: the sender's tags, if it has them.
        policy: its own limits.
        powers: computes.

    Raises:
        FaultySilo: the sender left the protocol.
        PolicyRefused: the sender's set is larger than is allowed here, or fewer are shared than may be told.
    """
    sender = terms.sender
    if held is None:
        yield from say(sender, Joining(terms.digest))
        said = yield from hear(sender, Tags)
    else:
        yield from say(sender, Asking(terms.digest, held.edition))
        said = held.said
    session = ReceiverSession(terms.of(receiver), identifiers, policy=policy, powers=powers)
    yield from say(sender, session.open())
    session.receive((yield from hear(sender, cast("type[FromSender]", FromSender))))
    matched = session.receive(said)  # Which checks it.
    if matched is not None:
        yield from say(sender, matched)
    session.receive((yield from hear(sender, cast("type[FromSender]", FromSender))))
    if session.outcome is None:
        raise ProtocolError("the query ended without a result")
    return session.outcome, held or HeldTags(said, terms.edition(said.tags.array().view(TAG)))
