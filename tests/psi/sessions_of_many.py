"""Sessions of an intersection of many, driven one message at a time, for tests that come between them."""

from __future__ import annotations

from collections.abc import Mapping

from secagg import wire
from secagg.messages import Said
from secagg.names import SiloId
from secagg.payload import Frame
from secagg.psi.many.follower import FollowerSession
from secagg.psi.many.leader import LeaderSession
from secagg.psi.many.messages import FromFollower, FromLeader
from secagg.psi.many.terms import ManyTerms


class Parties:
    """All parties in one process, over the bytes of the wire.

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
