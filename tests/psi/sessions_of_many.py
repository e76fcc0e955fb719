"""Sessions of an intersection of many, for tests that come between them or look at what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from secagg import wire
from secagg.conversation import Side, together
from secagg.messages import Said
from secagg.names import SiloId
from secagg.payload import Frame
from secagg.psi.draws import Draws, fresh
from secagg.psi.identifiers import Key, read_identifiers
from secagg.psi.many.follower import FollowerSession
from secagg.psi.many.leader import LeaderSession
from secagg.psi.many.messages import FromFollower, FromLeader
from secagg.psi.many.sides import following, leading
from secagg.psi.many.terms import ManyTerms
from secagg.psi.outcome import Outcome
from secagg.psi.terms import IntersectionPolicy
from tests.psi.parties import ONE_CORE

Heard: TypeAlias = Callable[[SiloId, SiloId, Said, int], None]
"""Told sender, receiver, message and bytes of all that is said."""


def meet(
    terms: ManyTerms,
    sets: Mapping[SiloId, Iterable[Key]],
    heard: Heard,
    *,
    draws: Mapping[SiloId, Draws] | None = None,
) -> None:
    """Run all sides; what each draws is fresh where nothing else is given."""
    sides: dict[SiloId, Side[Outcome | None]] = {}
    for name in terms.parties:
        read, policy = read_identifiers(sets[name]), IntersectionPolicy()
        drawn = (draws or {}).get(name, fresh)
        if name == terms.leader:
            lead = LeaderSession(terms, read, policy=policy, powers=ONE_CORE, draws=drawn)
            sides[name] = leading(lead)
        else:
            follow = FollowerSession(terms, name, read, policy=policy, powers=ONE_CORE, draws=drawn)
            sides[name] = following(follow)

    def watch(sender: SiloId, to: SiloId, frame: Frame) -> None:
        kind: Any = FromLeader if sender == terms.leader else FromFollower
        heard(sender, to, wire.decode_as(*frame, kind), wire.size_of(frame))

    together(sides, watch=watch)


class Parties:
    """All parties in one process, over the bytes of the wire, driven one message at a time.

    Attributes:
        sent: party -> bytes that it sent so far.
    """

    def __init__(
        self, terms: ManyTerms, leader: LeaderSession, followers: Mapping[SiloId, FollowerSession]
    ) -> None:
        self.leader = leader
        self.followers = followers
        self.sent = dict.fromkeys(terms.parties, 0)
        self._name = terms.leader

    def run(self) -> None:
        """Carry every message to where it goes, until nothing more is said."""
        opening = self.leader.open()
        for name, follower in self.followers.items():
            follower.receive(self._name, self._from_leader(opening))
            introduced = follower.open()
            for other, peer in self.followers.items():
                if other != name:
                    peer.receive(name, self._from_follower(name, introduced))
        said = [self._hear(name, each.open()) for name, each in self.followers.items()]
        while (message := next((each for each in said if each is not None), None)) is not None:
            answers = [
                (name, answer)
                for name, follower in self.followers.items()
                for answer in follower.receive(self._name, self._from_leader(message))
            ]
            said = [self._hear(name, answer) for name, answer in answers]

    def _hear(self, name: SiloId, message: FromFollower) -> FromLeader | None:
        return self.leader.receive(name, self._from_follower(name, message))

    def _from_leader(self, message: FromLeader) -> FromLeader:
        heard: FromLeader = wire.decode_as(*self._frame(self._name, message), FromLeader)
        return heard

    def _from_follower(self, name: SiloId, message: FromFollower) -> FromFollower:
        heard: FromFollower = wire.decode_as(*self._frame(name, message), FromFollower)
        return heard

    def _frame(self, sender: SiloId, message: Said) -> Frame:
        frame = wire.encode(message)
        self.sent[sender] += wire.size_of(frame)
        return frame
