"""What a sender and its receivers agree on for a campaign: many queries against one set, until it ends.

Points are hashed under the campaign's terms and not under a session's, so they stay the same over its
queries, and those of another campaign are others.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from secagg.errors import ParameterError
from secagg.hazmat.framing import digest
from secagg.names import SiloId
from secagg.psi.identifiers import Rule
from secagg.psi.terms import IntersectionTerms, check_session
from secagg.ranges import whole

CampaignReveal: TypeAlias = Literal["receiver", "both"]


@dataclass(frozen=True, kw_only=True)
class CampaignTerms:
    """One campaign.

    Attributes:
        campaign: 32 bytes that no other campaign or intersection has.
        sender: whose set is asked about.
        expires: when it ends, seconds since 1970.
        reveal: of each query, ``"receiver"`` or ``"both"``; see ``IntersectionTerms``. A number alone cannot
            be kept to over several queries: the tags that come again tell which records matched in both.
        rule: how identifiers are read.

    Raises:
        ParameterError: a campaign of another size, or a word that there is not.
    """

    campaign: bytes
    sender: SiloId
    expires: int
    reveal: CampaignReveal = "receiver"
    rule: Rule = field(default_factory=Rule)

    def __post_init__(self) -> None:
        check_session(self.campaign, self.rule)
        whole("expires", self.expires, least=1)
        if self.reveal not in get_args(CampaignReveal):
            words = ", ".join(get_args(CampaignReveal))
            raise ParameterError(f"reveal is {self.reveal!r}, must be one of {words} in a campaign")

    @property
    def digest(self) -> bytes:
        """What all mean, 32 bytes; identifiers are hashed to points under it."""
        return digest(
            "intersection campaign",
            self.campaign,
            self.sender,
            self.expires,
            self.reveal,
            (self.rule.case, self.rule.spaces),
        )

    def of(self, receiver: SiloId) -> QueryTerms:
        """Return the terms of one query of ``receiver``."""
        return QueryTerms(
            session=self.campaign,
            receiver=receiver,
            sender=self.sender,
            reveal=self.reveal,
            rule=self.rule,
            campaign=self,
        )

    def edition(self, tags: NDArray[np.bytes_]) -> bytes:
        """Return what names the sender's set in this campaign, 32 bytes, given its tags."""
        return digest("campaign tags", self.digest, hashlib.sha256(tags.tobytes()).digest())


@dataclass(frozen=True, kw_only=True)
class QueryTerms(IntersectionTerms):
    """One query of a campaign, which is an intersection on the campaign's terms.

    Attributes:
        campaign: that it is part of.
    """

    campaign: CampaignTerms

    @property
    def digest(self) -> bytes:
        """See ``CampaignTerms``."""
        return self.campaign.digest
