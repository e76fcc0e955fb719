"""All that one silo does with keys: it takes part in ceremonies, asks for a key that it lacks, passes one on.

One ceremony and one request at a time; a new one takes the place of one that the coordinator gave up. Only
silos import this.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from secagg.encrypted.cipher import Progress, SiloCipher
from secagg.errors import PolicyRefused, UnexpectedMessage
from secagg.hazmat.identity import IdentityKey
from secagg.keys.ciphers import cipher_of
from secagg.keys.joiner import KeyJoiner, forward_key
from secagg.keys.keyring import HeldKey, Keyring
from secagg.keys.secret import KeyMaker, make_key
from secagg.keys.silo import CeremonySilo
from secagg.messages import (
    KeyAsked,
    KeyDelivered,
    KeyPassed,
    KeyRequested,
    SealingKeysAnnounced,
    ToKeyHolder,
)
from secagg.names import RandomSource, SiloId
from secagg.policy import Policy
from secagg.roster import Roster
from secagg.session import SiloStep
from secagg.terms import Terms, is_encrypted, key_scheme


class KeyHolder:
    """The keys of one silo; see ``encrypted.cipher.Keys``.

    Args:
        silo: its name in ``roster``.
        identity: its long-lived signing key.
        roster: the pinned roster.
        policy: its own floors.
        clock: seconds since 1970.
        held: keys that it has.
        keep: puts a new key where it survives; called before anybody is told that it is held.
        random: fresh uniform bytes.
        make: makes a key, if this silo is asked to.
        opened: told how far an opening is, where it takes long.
    """

    def __init__(
        self,
        silo: SiloId,
        *,
        identity: IdentityKey,
        roster: Roster,
        policy: Policy,
        clock: Callable[[], int],
        held: Iterable[HeldKey] = (),
        keep: Callable[[HeldKey], None] | None = None,
        random: RandomSource = os.urandom,
        make: KeyMaker = make_key,
        opened: Progress | None = None,
    ) -> None:
        self._silo = silo
        self._identity = identity
        self._roster = roster
        self._policy = policy
        self._clock = clock
        self._keyring = Keyring(silo, roster, held)
        self._keep = keep
        self._random = random
        self._make = make
        self._opened = opened
        self._ceremony: CeremonySilo | None = None
        self._joiner: KeyJoiner | None = None

    @property
    def held(self) -> tuple[HeldKey, ...]:
        """The keys, in the order in which they came."""
        return tuple(self._keyring)

    def cipher(self, terms: Terms) -> SiloCipher:
        """Return the cipher of the key and the encoding of ``terms``; see ``Keys.cipher``."""
        if not is_encrypted(terms.scheme):
            raise PolicyRefused("key", "these terms need no key")
        scheme, t = key_scheme(terms.scheme), terms.scheme.cohort.t
        held = self._keyring.held(terms.scheme.key, scheme=scheme, now=self._clock())
        threshold = held.document.threshold
        # The floors are of today, the key of another day; and who opens is decided by the key alone.
        self._policy.check_key(scheme, roster=self._roster, threshold=threshold)
        if threshold is not None and threshold != t:
            raise PolicyRefused(
                "threshold", f"{threshold} silos open with the key that the round names, and its t is {t}"
            )
        return cipher_of(held, terms.encoding, random=self._random, opened=self._opened)

    def want(self, terms: Terms) -> SiloStep | None:
        """Return how this silo asks its peers for the key of ``terms``; None if it does not.

        Raises:
            PolicyRefused: the policy does not allow the scheme.
        """
        if not is_encrypted(terms.scheme) or terms.scheme.key in self._keyring:
            return None
        scheme = key_scheme(terms.scheme)
        if scheme == "threshold-paillier":
            return None  # A share is its silo's alone: ``cipher`` says what to do.
        self._joiner = KeyJoiner(
            self._silo,
            key=terms.scheme.key,
            scheme=scheme,
            identity=self._identity,
            roster=self._roster,
            policy=self._policy,
            now=self._clock(),
            random=self._random,
        )
        return self._joiner.open()

    def receive(self, message: ToKeyHolder) -> SiloStep:
        """Take one message of the coordinator about keys.

        Raises:
            UnexpectedMessage: nothing of that kind is under way here.
            SecaggError: as ``CeremonySilo.receive``, ``KeyJoiner.receive`` and ``forward_key``.
        """
        match message:
            case KeyRequested():
                self._ceremony = CeremonySilo(
                    self._silo,
                    identity=self._identity,
                    roster=self._roster,
                    policy=self._policy,
                    now=self._clock(),
                    random=self._random,
                    make=self._make,
                )
                return self._advance(self._ceremony, message)
            case SealingKeysAnnounced() | KeyDelivered():
                return self._advance(self._ceremony, message)
            case KeyPassed():
                return self._advance(self._joiner, message)
            case KeyAsked() if message.key not in self._keyring:
                raise UnexpectedMessage("a key is asked for that this silo does not hold")
            case KeyAsked():
                return forward_key(
                    message,
                    self._keyring,
                    silo=self._silo,
                    identity=self._identity,
                    roster=self._roster,
                    now=self._clock(),
                    random=self._random,
                )

    def _advance(self, session: CeremonySilo | KeyJoiner | None, message: ToKeyHolder) -> SiloStep:
        if session is None:
            raise UnexpectedMessage(f"{type(message).__name__} is not accepted outside a ceremony")
        step = session.receive(message)
        held = session.held
        if held is not None and held.document.key not in self._keyring:
            if self._keep is not None:
                self._keep(held)
            self._keyring.add(held)
        return step
