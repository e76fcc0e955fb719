"""A silo that lost a key, and the peer that seals it to it again. Only silos import this.

The joiner signs a fresh X25519 key for its request; the holder answers only a member of its pinned roster,
and only for a key that every member was given when it was made. A share of a threshold key is its silo's
alone, so nobody can forward it.

Source: ``docs/keys.md``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TypeAlias

from secagg.errors import (
    FaultyCoordinator,
    FaultySiloOrCoordinator,
    MalformedMessage,
    PolicyRefused,
    UnexpectedMessage,
    UsageError,
)
from secagg.hazmat.agreement import AgreementKey
from secagg.hazmat.identity import IdentityKey
from secagg.keys.boxes import Way, open_box, seal_box, seal_secret
from secagg.keys.document import decode_document, document_fault, encode_document
from secagg.keys.keyring import HeldKey, Keyring, check_age
from secagg.keys.silo import blame
from secagg.keys.transcript import request_digest, sealing_fault, sign_sealing_key, sign_taken
from secagg.messages import (
    FromCoordinator,
    KeyAsked,
    KeyForwarded,
    KeyPassed,
    KeyTaken,
    KeyWanted,
)
from secagg.names import RandomSource, SiloId
from secagg.policy import Policy
from secagg.records import KeyAccepted, KeyPassedOn
from secagg.roster import Roster
from secagg.session import SiloStep, Step
from secagg.terms import KeyScheme


def forward_key(
    asked: KeyAsked,
    keyring: Keyring,
    *,
    silo: SiloId,
    identity: IdentityKey,
    roster: Roster,
    now: int,
    random: RandomSource = os.urandom,
) -> SiloStep:
    """Return a key of ``keyring``, sealed to the member of the roster that asked for it.

    Args:
        asked: as the coordinator relays it.
        keyring: of this silo.
        silo: its name.
        identity: its long-lived signing key.
        roster: the pinned roster.
        now: seconds since 1970.
        random: fresh uniform bytes.

    Raises:
        FaultyCoordinator: this silo is asked for its own key.
        FaultySiloOrCoordinator: the request is not signed by the pinned identity of the joiner.
        PolicyRefused: ``key``: it is a share of a threshold key, or ``Keyring.held`` refuses.

    Guarantees:
        What leaves is sealed to a key that the joiner's pinned identity signed for this key, or nothing does.
    """
    joiner, wanted = asked.joiner, asked.sealing
    if joiner == silo:
        raise FaultyCoordinator("this silo is asked for its own key")
    request = request_digest(roster, asked.key, joiner, wanted.nonce)
    blame(joiner, sealing_fault(roster, request, joiner, wanted))
    held = keyring.held(asked.key, scheme=None, now=now)
    document = held.document
    refuse_share(document.scheme)
    own = AgreementKey.generate(random)
    sealing = sign_sealing_key(identity, request, silo, own, random(32))
    content_key, sealed = seal_secret(document, held.content, random)
    box = seal_box(own, wanted.key, document, content_key, way=Way(request, silo, joiner))
    record = KeyPassedOn(document.key, document.digest, joiner)
    return Step((record,), KeyForwarded(request, encode_document(document), sealing, sealed, box))


def refuse_share(scheme: KeyScheme) -> None:
    """Refuse to forward what is one silo's alone.

    Raises:
        PolicyRefused: ``key``.
    """
    if scheme == "threshold-paillier":
        raise PolicyRefused(
            "key", "a share of a threshold key cannot be forwarded: make a new key that replaces it"
        )


@dataclass(frozen=True)
class _Start:
    pass


@dataclass(frozen=True, repr=False)
class _Asking:
    request: bytes
    own: AgreementKey


@dataclass(frozen=True)
class _Done:
    held: HeldKey


@dataclass(frozen=True)
class _Left:
    """The request is over; nothing of it is kept."""


_State: TypeAlias = _Start | _Asking | _Done | _Left


class KeyJoiner:
    """A silo that asks for one key; single use.

    Args:
        silo: its name in ``roster``.
        key: id of the key, as terms name it.
        scheme: that it is for.
        identity: its long-lived signing key.
        roster: the pinned roster.
        policy: its own floors.
        now: seconds since 1970.
        random: fresh uniform bytes.

    Raises:
        PolicyRefused: ``key``: it is a share of a threshold key. Or the policy does not allow the scheme.

    Guarantees:
        What it takes is the secret of the key that it asked for, with a document that the maker signed.
    """

    def __init__(
        self,
        silo: SiloId,
        *,
        key: bytes,
        scheme: KeyScheme,
        identity: IdentityKey,
        roster: Roster,
        policy: Policy,
        now: int,
        random: RandomSource = os.urandom,
    ) -> None:
        refuse_share(scheme)
        policy.check_key(scheme, roster=roster, threshold=None)
        self._silo = silo
        self._key = key
        self._scheme = scheme
        self._identity = identity
        self._roster = roster
        self._now = now
        self._random = random
        self._state: _State = _Start()

    @property
    def held(self) -> HeldKey | None:
        """The key, once it came: on disk before the reply of that step is sent."""
        return self._state.held if isinstance(self._state, _Done) else None

    def open(self) -> SiloStep:
        """Ask for the key; call once."""
        if not isinstance(self._state, _Start):
            raise UsageError("a request for a key is opened once")
        own, nonce = AgreementKey.generate(self._random), self._random(32)
        request = request_digest(self._roster, self._key, self._silo, nonce)
        self._state = _Asking(request, own)
        sealing = sign_sealing_key(self._identity, request, self._silo, own, nonce)
        return Step((), KeyWanted(self._key, sealing))

    def receive(self, message: FromCoordinator) -> SiloStep:
        """Take one message of the coordinator; errors as of ``CeremonySilo.receive``."""
        match self._state, message:
            case _Asking() as state, KeyPassed():
                self._state = _Left()  # But for success: a second answer finds no key to open it with.
                return self._take(state, message)
            case state, _:
                raise UnexpectedMessage(
                    f"{type(message).__name__} is not accepted in {type(state).__name__[1:]}"
                )

    def _take(self, state: _Asking, passed: KeyPassed) -> SiloStep:
        holder = passed.holder
        if passed.request != state.request or holder == self._silo:
            raise FaultyCoordinator("a key is passed for another request than this silo's")
        blame(holder, sealing_fault(self._roster, state.request, holder, passed.sealing))
        try:
            document = decode_document(passed.document)
        except MalformedMessage as error:
            raise FaultySiloOrCoordinator(holder, str(error)) from error
        blame(holder, document_fault(document, self._roster))
        if (document.key, document.scheme) != (self._key, self._scheme):
            raise FaultySiloOrCoordinator(holder, "forwards another key than was asked for")
        check_age(document, self._now)
        way = Way(state.request, holder, self._silo)
        try:
            content = open_box(
                state.own, passed.sealing.key, document, sealed=passed.sealed, box=passed.box, way=way
            )
            held = HeldKey(document, content, slot=self._roster.slot(self._silo))
        except MalformedMessage as error:
            raise FaultySiloOrCoordinator(holder, f"the key does not come out of its box: {error}") from error
        self._state = _Done(held)
        record = KeyAccepted(state.request, document.key, document.digest, holder)
        return Step((record,), KeyTaken(state.request, document.key, sign_taken(self._identity, document)))
