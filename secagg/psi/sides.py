"""The two parties of an intersection, each as a side of a conversation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, cast, get_args

from secagg.conversation import Side, hear, say
from secagg.errors import PolicyRefused, ProtocolError
from secagg.messages import Said
from secagg.names import SiloId
from secagg.psi.messages import FromReceiver, FromSender, Withheld
from secagg.psi.outcome import Outcome
from secagg.psi.receiver import ReceiverSession
from secagg.psi.sender import SenderSession
from secagg.psi.terms import Limit

T = TypeVar("T")


def receiving(session: ReceiverSession) -> Side[Outcome]:
    """Return the receiver's side.

    Raises:
        SecaggError: see ``ReceiverSession``. Of its own limit the sender is told.
    """
    sender = session.terms.sender
    message: FromReceiver | None = session.open()
    while message is not None:
        yield from say(sender, message)
        message = None
        while message is None and session.outcome is None:
            heard: FromSender = yield from hear(sender, cast("type[FromSender]", FromSender))
            message = yield from limited([sender], heard, session.receive)
    return learned(session.outcome)


def sending(session: SenderSession) -> Side[Outcome]:
    """Return the sender's side.

    Raises:
        SecaggError: see ``SenderSession``. Of its own limit the receiver is told.
    """
    receiver = session.terms.receiver
    session.prepare()
    while session.outcome is None:
        heard: FromReceiver = yield from hear(receiver, cast("type[FromReceiver]", FromReceiver))
        for reply in (yield from limited([receiver], heard, session.receive)):
            yield from say(receiver, reply)
    return session.outcome


M = TypeVar("M", bound=Said)


def limited(partners: Sequence[SiloId], heard: M, receive: Callable[[M], T]) -> Side[T]:
    """Return what ``receive`` makes of ``heard``; if a limit of this party refuses, tell ``partners`` which.

    Raises:
        PolicyRefused: see there.
    """
    try:
        return receive(heard)
    except PolicyRefused as refusal:
        if not isinstance(heard, Withheld) and refusal.rule in get_args(Limit):
            for partner in partners:
                yield from say(partner, Withheld(cast(Limit, refusal.rule)))
        raise


def learned(outcome: Outcome | None) -> Outcome:
    """Return ``outcome``.

    Raises:
        ProtocolError: there is none.
    """
    if outcome is None:
        raise ProtocolError("the session ended without a result")
    return outcome
