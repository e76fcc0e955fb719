"""A campaign in one process: ``secagg.psi.Campaign``, one set that is asked about many times."""

from __future__ import annotations

import os
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from secagg import wire
from secagg.conversation import Side, together
from secagg.names import SiloId
from secagg.payload import Frame
from secagg.psi.campaign_receiver import HeldTags, asking
from secagg.psi.campaign_sender import CampaignSender, Clock
from secagg.psi.campaign_terms import CampaignReveal, CampaignTerms
from secagg.psi.identifiers import Duplicates, Key, Rule, read_identifiers
from secagg.psi.intersection import Intersection
from secagg.psi.powers import Powers, Progress
from secagg.psi.terms import SESSION_SIZE, IntersectionPolicy


class Campaign:
    """One set, b's, that receivers ask about until the campaign ends; b computes its tags once, now.

    ``with Campaign(...) as campaign`` ends it with the block.

    Args:
        ids_b: identifiers of b, the sender; see ``read_identifiers``.
        expires: when it ends, whole seconds since 1970.
        budget: identifiers that may be asked about in all queries together, padding included.
        clock: tells the time in seconds since 1970: ``time.time``.
        reveal: ``"receiver"`` or ``"both"``; see ``intersect``.
        rule: how identifiers are read, b's and those of queries; ``Rule()`` if None.
        duplicates: what becomes of an identifier that several rows of one party have.
        policy: limits of b and of receivers in each query; ``IntersectionPolicy()`` if None.
        cores: threads to compute with; None for one for each usable core.
        progress: told how many points were computed.

    Raises:
        InputRefused: an identifier is none, or repeats and is refused.
        MissingExtra: rbcl or PyNaCl is not installed.
        ParameterError: a word that there is not, or a number out of its range.
        PolicyRefused: ``expires`` has passed.

    Guarantees:
        After ``expires``, or ``close``, nothing is answered and the exponent is gone.
        Tags of two campaigns have nothing in common, whatever their sets have.
    """

    def __init__(
        self,
        ids_b: Iterable[Key],
        *,
        expires: int,
        budget: int,
        clock: Clock,
        reveal: CampaignReveal = "receiver",
        rule: Rule | None = None,
        duplicates: Duplicates = "refuse",
        policy: IntersectionPolicy | None = None,
        cores: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._rule, self._duplicates = rule or Rule(), duplicates
        self._policy = policy or IntersectionPolicy()
        self._powers = Powers(cores=cores, progress=progress)
        self._b = read_identifiers(ids_b, rule=self._rule, duplicates=duplicates, name="ids_b")
        terms = CampaignTerms(
            campaign=os.urandom(SESSION_SIZE), sender="b", expires=expires, reveal=reveal, rule=self._rule
        )
        self._sender = CampaignSender(
            terms, self._b, budget=budget, policy=self._policy, powers=self._powers, clock=clock
        )
        self._held: dict[SiloId, HeldTags] = {}

    def intersect(self, ids_a: Iterable[Key], *, receiver: SiloId = "a") -> Intersection:
        """Find which of a receiver's records b has, for what the query costs.

        Args:
            ids_a: identifiers of the receiver.
            receiver: who asks. It gets b's tags with its first query and keeps them.

        Returns:
            ``rows_b`` is None unless both learn which.

        Raises:
            InputRefused: an identifier is none, or repeats and is refused.
            PolicyRefused: the campaign has ended, the query is larger than is allowed or than what is left of
                the budget, or fewer are shared than may be revealed.
        """
        a = read_identifiers(ids_a, rule=self._rule, duplicates=self._duplicates, name="ids_a")
        sent = {receiver: 0, "b": 0}

        def watch(sender: SiloId, _: SiloId, frame: Frame) -> None:
            sent[sender] += wire.size_of(frame)

        sides: dict[SiloId, Side[Any]] = {
            receiver: asking(
                self._sender.terms,
                receiver,
                a,
                self._held.get(receiver),
                policy=self._policy,
                powers=self._powers,
            ),
            "b": self._sender.answering(receiver),
        }
        learned = together(sides, watch=watch)
        (outcome, self._held[receiver]), told = learned[receiver], learned["b"]
        return Intersection(
            count=outcome.count,
            rows_a=outcome.rows,
            rows_b=told.rows,
            digest=outcome.digest,
            counts_a=a.counts,
            counts_b=self._b.counts,
            bytes_a=sent[receiver],
            bytes_b=sent["b"],
        )

    def close(self) -> None:
        """End the campaign now; its exponent is gone."""
        self._sender.close()
        self._powers.close()
        self._held.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Campaign({len(self._b)} identifiers)"
