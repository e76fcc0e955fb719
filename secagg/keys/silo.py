"""One silo in one key ceremony, as its maker or as one whom the key is sealed to.

The maker seals the secret to X25519 keys that the other silos made for this ceremony alone and signed with
their pinned identities, so the coordinator, through which everything goes, opens none of it and can put no
key of its own in a silo's place. A new state drops the agreement key of the last one; that a maker forgets
what it made cannot be proved.

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
    ParameterError,
    PolicyRefused,
    UnexpectedMessage,
)
from secagg.hazmat.agreement import AgreementKey
from secagg.hazmat.identity import IdentityKey
from secagg.keys.boxes import Way, open_box, seal_box, seal_secret
from secagg.keys.document import (
    KeyDocument,
    check_shape,
    decode_document,
    document_fault,
    encode_document,
    request_fault,
    sign_document,
)
from secagg.keys.keyring import HeldKey, check_age
from secagg.keys.secret import KeyMaker, make_key
from secagg.keys.transcript import ceremony_digest, sealing_fault, sign_sealing_key, sign_taken
from secagg.messages import (
    FromCoordinator,
    KeyDealt,
    KeyDelivered,
    KeyRequested,
    KeyTaken,
    SealingKey,
    SealingKeysAnnounced,
    SignedKey,
)
from secagg.names import RandomSource, SiloId
from secagg.policy import Policy
from secagg.records import KeyAccepted, KeyMade
from secagg.roster import Roster
from secagg.session import SiloStep, Step


@dataclass(frozen=True)
class _Start:
    pass


@dataclass(frozen=True, repr=False)
class _Making:
    """The maker, until it is told to whom it seals."""

    requested: KeyRequested
    ceremony: bytes
    own: AgreementKey
    sealing: SignedKey


@dataclass(frozen=True, repr=False)
class _Awaiting:
    """Everybody else, until the key comes."""

    requested: KeyRequested
    ceremony: bytes
    own: AgreementKey


@dataclass(frozen=True)
class _Done:
    held: HeldKey


@dataclass(frozen=True)
class _Left:
    """The ceremony is over for this silo; nothing of it is kept."""


_State: TypeAlias = _Start | _Making | _Awaiting | _Done | _Left


class CeremonySilo:
    """One silo in one ceremony; single use.

    Args:
        silo: its name in ``roster``.
        identity: its long-lived signing key.
        roster: the pinned roster.
        policy: its own floors.
        now: seconds since 1970.
        random: fresh uniform bytes.
        make: makes the key, if this silo is asked to.

    Guarantees:
        A secret leaves sealed to a key that a pinned identity signed for this ceremony, or not at all.
        Under one key id no silo holds another secret than the maker's.
        Nothing is made, signed or taken that the policy refuses.
        After an error that ends the ceremony every further message is refused.
    """

    def __init__(
        self,
        silo: SiloId,
        *,
        identity: IdentityKey,
        roster: Roster,
        policy: Policy,
        now: int,
        random: RandomSource = os.urandom,
        make: KeyMaker = make_key,
    ) -> None:
        self._silo = silo
        self._identity = identity
        self._roster = roster
        self._policy = policy
        self._now = now
        self._random = random
        self._make = make
        self._state: _State = _Start()

    @property
    def held(self) -> HeldKey | None:
        """The key, once it was made or taken: on disk before the reply of that step is sent."""
        return self._state.held if isinstance(self._state, _Done) else None

    def receive(self, message: FromCoordinator) -> SiloStep:
        """Take one message of the coordinator.

        Raises:
            UnexpectedMessage: this state does not accept it; the state is unchanged.
            PolicyRefused: what is asked for is not allowed here.
            FaultyCoordinator, FaultySiloOrCoordinator: somebody left the protocol.
            ParameterError, MissingExtra: the key cannot be made here.
        """
        try:
            match self._state, message:
                case _Start(), KeyRequested():
                    return self._join(message)
                case _Making() as state, SealingKeysAnnounced():
                    return self._deal(state, message)
                case _Awaiting() as state, KeyDelivered():
                    return self._take(state, message)
                case state, _:
                    raise UnexpectedMessage(
                        f"{type(message).__name__} is not accepted in {type(state).__name__[1:]}"
                    )
        except UnexpectedMessage:
            raise
        except Exception:
            self._state = _Left()
            raise

    # --- both --------------------------------------------------------------------------------------------

    def _join(self, requested: KeyRequested) -> SiloStep:
        self._check(requested)
        ceremony = ceremony_digest(requested)
        own = AgreementKey.generate(self._random)
        sealing = sign_sealing_key(self._identity, ceremony, self._silo, own, self._random(32))
        if requested.maker == self._silo:
            self._state = _Making(requested, ceremony, own, sealing)
        else:
            self._state = _Awaiting(requested, ceremony, own)
        return Step((), SealingKey(ceremony, sealing))

    def _check(self, requested: KeyRequested) -> None:
        if requested.roster != self._roster.digest:
            raise PolicyRefused(
                "roster", "the key's roster is not the one pinned here; compare their digests"
            )
        if requested.maker not in self._roster:
            raise PolicyRefused("maker", f"{requested.maker}, who is to make the key, is not in the roster")
        try:
            check_shape(
                requested.scheme, size=requested.size, threshold=requested.threshold, parties=self._roster.n
            )
        except ParameterError as error:
            raise PolicyRefused("key", str(error)) from error
        self._policy.check_key(requested.scheme, roster=self._roster, threshold=requested.threshold)

    # --- the maker ---------------------------------------------------------------------------------------

    def _deal(self, state: _Making, announced: SealingKeysAnnounced) -> SiloStep:
        requested, ceremony = state.requested, state.ceremony
        self._same(ceremony, announced.ceremony)
        keys = dict(announced.keys)
        if tuple(silo for silo, _ in announced.keys) != self._roster.silos:
            raise FaultyCoordinator("the sealing keys are not one of each silo, in the roster's order")
        if keys[self._silo] != state.sealing:
            raise FaultyCoordinator("the announced sealing key of this silo is not the one that it sent")
        for peer, sealing in keys.items():
            blame(peer, sealing_fault(self._roster, ceremony, peer, sealing))
        made = self._make(
            requested.scheme,
            size=requested.size,
            threshold=requested.threshold,
            parties=self._roster.n,
            random=self._random,
        )
        document = sign_document(
            self._identity,
            KeyDocument(
                federation=requested.federation,
                scheme=requested.scheme,
                size=requested.size,
                threshold=requested.threshold,
                roster=requested.roster,
                maker=self._silo,
                made=self._now,
                lifetime=requested.lifetime,
                replaces=requested.replaces,
                ceremony=ceremony,
                key=made.key,
                material=made.material,
                signature=bytes(64),
            ),
        )
        inside, sealed = made.secrets, b""
        if document.threshold is None:
            content_key, sealed = seal_secret(document, made.secrets[0], self._random)
            inside = (content_key,) * self._roster.n
        boxes = tuple(
            (
                peer,
                seal_box(
                    state.own,
                    keys[peer].key,
                    document,
                    inside[self._roster.slot(peer)],
                    way=Way(ceremony, self._silo, peer),
                ),
            )
            for peer in self._roster.silos
            if peer != self._silo
        )
        slot = self._roster.slot(self._silo)
        self._state = _Done(HeldKey(document, made.secrets[slot], slot=slot))
        record = KeyMade(ceremony, document.key, document.digest)
        return Step((record,), KeyDealt(ceremony, encode_document(document), sealed, boxes))

    # --- the others --------------------------------------------------------------------------------------

    def _take(self, state: _Awaiting, delivered: KeyDelivered) -> SiloStep:
        maker = state.requested.maker
        self._same(state.ceremony, delivered.ceremony)
        blame(maker, sealing_fault(self._roster, state.ceremony, maker, delivered.sealing))
        try:
            document = decode_document(delivered.document)
        except MalformedMessage as error:
            raise FaultySiloOrCoordinator(maker, str(error)) from error
        blame(maker, document_fault(document, self._roster))
        blame(maker, request_fault(document, state.requested, state.ceremony))
        check_age(document, self._now)
        way = Way(state.ceremony, maker, self._silo)
        try:
            content = open_box(
                state.own,
                delivered.sealing.key,
                document,
                sealed=delivered.sealed,
                box=delivered.box,
                way=way,
            )
            held = HeldKey(document, content, slot=self._roster.slot(self._silo))
        except MalformedMessage as error:
            raise FaultySiloOrCoordinator(maker, f"the key does not come out of its box: {error}") from error
        self._state = _Done(held)
        record = KeyAccepted(state.ceremony, document.key, document.digest, maker)
        return Step((record,), KeyTaken(state.ceremony, document.key, sign_taken(self._identity, document)))

    def _same(self, mine: bytes, named: bytes) -> None:
        if mine != named:
            raise FaultyCoordinator("a message names another ceremony than the one that this silo is in")


def blame(peer: SiloId, fault: str | None) -> None:
    """Raise FaultySiloOrCoordinator naming ``peer`` if there is a fault: an honest coordinator checks too."""
    if fault is not None:
        raise FaultySiloOrCoordinator(peer, fault)
