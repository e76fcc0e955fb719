"""The sender of a campaign: it computes its tags once, and then answers for what a query costs.

One exponent serves all queries until the campaign ends, so a tag is the same in each: receivers who compare
notes see that they hold the same tags, and a receiver can tell of whatever it asked about whether it was in
the set, now as before. All queries together are one oracle (one-more gap Diffie-Hellman, as in ``sender``):
what can be learned in a campaign is what its queries ask about, which is why they have a budget. With the
exponent goes all of that; Python cannot wipe the memory where it was. It is not kept on disk: a sender whose
process ended begins another campaign.

Source: see ``sender``; what is computed once for many queries: Kiss, Liu, Schneider, Asokan, Pinkas, PoPETs
2017, "Private set intersection for unequal set sizes with mobile applications".
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import cast

import numpy as np

from secagg.conversation import Side, hear, say
from secagg.errors import FaultySilo, PolicyRefused
from secagg.hazmat.curve import POINT_SIZE, Exponent
from secagg.names import RandomSource, SiloId
from secagg.payload import Payload
from secagg.psi.campaign_messages import Asking, Joining
from secagg.psi.campaign_terms import CampaignTerms, QueryTerms
from secagg.psi.identifiers import Identifiers
from secagg.psi.messages import FromReceiver, FromSender, Tags
from secagg.psi.outcome import Outcome
from secagg.psi.powers import Powers
from secagg.psi.sender import Own, SenderSession, Told
from secagg.psi.sets import with_padding
from secagg.psi.tags import tags_of
from secagg.psi.terms import IntersectionPolicy
from secagg.ranges import whole

Clock = Callable[[], float]
"""Seconds since 1970."""


class CampaignSender:
    """A sender's set for one campaign, and the exponent that it is held under.

    Args:
        terms: of the campaign.
        identifiers: the sender's.
        budget: identifiers that may be asked about in all queries of all receivers, padding included.
        policy: limits of each query.
        powers: computes; the tags now, each query when it comes.
        clock: tells when the campaign has ended.
        random: for the exponent, orders and padding.

    Raises:
        ParameterError: the campaign has ended already, or ``budget`` is below 1.

    Guarantees:
        After ``expires``, or ``close``, nothing is answered and the exponent is gone.
        Of more identifiers than ``budget`` nothing is answered, whoever asks.
        A query costs as many powers as it has points, whatever the size of the set.
    """

    def __init__(
        self,
        terms: CampaignTerms,
        identifiers: Identifiers,
        *,
        budget: int,
        policy: IntersectionPolicy,
        powers: Powers,
        clock: Clock,
        random: RandomSource = os.urandom,
    ) -> None:
        self.terms = terms
        self.identifiers = identifiers
        self.policy = policy
        self.powers = powers
        self._left = whole("budget", budget, least=1)
        self._clock = clock
        self._random = random
        self._exponent: Exponent | None = Exponent.generate(random)
        exponent = self.exponent()
        known = with_padding(identifiers, random)
        tags = tags_of(powers.of_messages(known, terms.digest, exponent), terms.digest)
        self.holders = np.argsort(tags)
        self.tags = tags[self.holders]
        self.edition = terms.edition(self.tags)

    def exponent(self) -> Exponent:
        """Return the exponent of the campaign.

        Raises:
            PolicyRefused: the campaign has ended. The exponent is gone then.
        """
        if self._clock() >= self.terms.expires:
            self.close()
        if self._exponent is None:
            raise PolicyRefused("campaign", "the campaign has ended; agree on another one")
        return self._exponent

    def close(self) -> None:
        """End the campaign now."""
        self._exponent = None

    def charge(self, size: int) -> None:
        """Take ``size`` identifiers off what may still be asked about.

        Raises:
            PolicyRefused: fewer are left; nothing is taken.
        """
        if size > self._left:
            raise PolicyRefused("queries", f"a query of {size} is more than the {self._left} that are left")
        self._left -= size

    def answering(self, receiver: SiloId) -> Side[Outcome]:
        """Run the sender's side of one query; as many may run as there are receivers, in one thread.

        Args:
            receiver: who asks.

        Raises:
            FaultySilo: the receiver left the protocol, or agreed on another campaign, rule or set.
            PolicyRefused: the campaign has ended, the query is larger than is allowed here or than what is
                left, or fewer are shared than may be revealed.
        """
        begun = yield from hear(receiver, cast("type[Joining | Asking]", Joining | Asking))
        if begun.terms != self.terms.digest:
            raise FaultySilo(receiver, "it agreed on another campaign, rule, end or result")
        self.exponent()
        if isinstance(begun, Joining):
            yield from say(receiver, Tags(Payload.of(self.tags.view(np.uint8))))
        elif begun.edition != self.edition:
            raise FaultySilo(receiver, "it has tags of another set; it has to join anew")
        session = _Query(self, self.terms.of(receiver), self._random)
        while session.outcome is None:
            heard = yield from hear(receiver, cast("type[FromReceiver]", FromReceiver))
            for reply in session.receive(heard):
                yield from say(receiver, reply)
        return session.outcome

    def __repr__(self) -> str:
        return f"CampaignSender({len(self.identifiers)} identifiers)"


class _Query(SenderSession):
    """A ``SenderSession`` whose exponent and tags are those of a campaign."""

    def __init__(self, campaign: CampaignSender, terms: QueryTerms, random: RandomSource) -> None:
        super().__init__(
            terms,
            campaign.identifiers,
            policy=campaign.policy,
            powers=campaign.powers,
            draws=lambda _: random,
        )
        self._campaign = campaign

    def _own(self) -> Own:
        # Asked for once more: the receiver may have taken its time.
        return Own(self._campaign.exponent(), self._campaign.tags, self._campaign.holders)

    def _told(self, payload: Payload, own: Own) -> tuple[Told, tuple[FromSender, ...]]:
        self._campaign.charge(payload.length // POINT_SIZE)
        told, evaluated = self._evaluated(payload, own)
        return told, (evaluated,)
