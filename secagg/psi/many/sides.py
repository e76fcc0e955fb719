"""The parties of an intersection of many, each as a side of a conversation."""

from __future__ import annotations

from functools import partial
from typing import cast

from secagg.conversation import Side, hear, say
from secagg.psi.many.follower import FollowerSession
from secagg.psi.many.leader import LeaderSession
from secagg.psi.many.messages import FromFollower, FromLeader, Introduced
from secagg.psi.outcome import Outcome
from secagg.psi.sides import learned, limited


def leading(session: LeaderSession) -> Side[Outcome]:
    """Return the leader's side.

    Raises:
        SecaggError: see ``LeaderSession``. Of its own limit followers are told that were to learn.
    """
    followers = session.terms.followers
    told = followers if session.terms.reveal == "all" else ()
    message: FromLeader | None = session.open()
    # Each follower introduces itself; then it evaluates the query and sends its table.
    for answers in (1, 2):
        for follower in followers:
            if message is not None:
                yield from say(follower, message)
        for follower in followers:
            for _ in range(answers):
                heard: FromFollower = yield from hear(follower, cast("type[FromFollower]", FromFollower))
                message = yield from limited(told, heard, partial(session.receive, follower))
    for follower in told:
        if message is not None:
            yield from say(follower, message)
    return learned(session.outcome)


def following(session: FollowerSession) -> Side[Outcome | None]:
    """Return a follower's side: what it learned, or None if it is not to learn.

    Raises:
        SecaggError: see ``FollowerSession``. Of its own limit the leader is told.
    """
    leader, others = session.terms.leader, session.others
    introduced = session.open()
    for other in others:
        yield from say(other, introduced)
    for other in others:
        session.receive(other, (yield from hear(other, Introduced)))
    query: FromLeader = yield from hear(leader, cast("type[FromLeader]", FromLeader))
    for reply in (yield from limited([leader], query, partial(session.receive, leader))):
        yield from say(leader, reply)
    if session.terms.reveal == "leader":
        return None
    shared: FromLeader = yield from hear(leader, cast("type[FromLeader]", FromLeader))
    session.receive(leader, shared)
    return learned(session.outcome)
