"""Keys of silos that live in one process: made in a ceremony as everywhere, and gone with the call or run."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, cast

from secagg import wire
from secagg.ckks.params import CKKS
from secagg.cohort import Cohort
from secagg.encrypted.cipher import Adders, Keys
from secagg.hazmat.identity import IdentityKey
from secagg.keys.adders import adder_of
from secagg.keys.coordinator import EstablishedKey, KeyCeremony
from secagg.keys.desk import KeyDesk
from secagg.keys.holder import KeyHolder
from secagg.masking.params import Masking
from secagg.messages import FromCoordinator, ToKeyHolder
from secagg.names import SiloId
from secagg.paillier.params import Paillier, ThresholdPaillier
from secagg.plain import Plain
from secagg.policy import Policy
from secagg.roster import Roster
from secagg.scheme import EncryptedScheme, Scheme
from secagg.terms import KeyScheme, SchemeParameters, SchemeTag

_Asked: TypeAlias = tuple[KeyScheme, int, int | None]
"""Scheme, size and threshold of a key."""

_NOW = 0
"""Time stands still: such a key does not live long enough to grow old."""


@dataclass(frozen=True)
class LocalKeys:
    """What silos and the coordinator of one process are protected with.

    Attributes:
        parameters: of the scheme.
        keys: of every silo; empty where none are needed.
        key: what the coordinator knows of it; None where there is none.
    """

    parameters: SchemeParameters
    keys: Mapping[SiloId, Keys] = field(default_factory=dict)
    key: EstablishedKey | None = None

    @property
    def adders(self) -> Adders | None:
        """What the coordinator adds with, for an encoding; None where it needs no key."""
        key = self.key
        return None if key is None else lambda encoding: adder_of(key.document, encoding)

    def desk(self, roster: Roster) -> KeyDesk | None:
        """Return what helps silos to the key that they lack, for one round."""
        return None if self.key is None else KeyDesk(roster, self.key)


def make_keys(scheme: Scheme, roster: Roster, identities: Mapping[SiloId, IdentityKey]) -> LocalKeys:
    """Make the key that ``scheme`` needs, if it needs one.

    Args:
        scheme: the protection; the key of ``ThresholdPaillier`` takes some seconds.
        roster: who is to hold it.
        identities: of all of the roster.

    Raises:
        ParameterError: the scheme does not protect so few silos.
        MissingExtra: what it encrypts with is not installed.
    """
    match scheme:
        case Masking() | Plain():
            return LocalKeys(scheme.parameters(roster.n))
        case encrypted:
            return _made(encrypted, _asked(encrypted, roster.n), roster, identities)


def policy_of(scheme: SchemeTag, cohort: Cohort | None) -> Policy:
    """Return the policy of a silo in this process: what the caller chose is what its silos agree to."""
    schemes = frozenset({scheme})
    if cohort is None:
        return Policy(schemes=schemes, min_weight_cap=None)
    return Policy(schemes=schemes, colluders=cohort.c, min_honest=cohort.k_min, min_weight_cap=None)


def _asked(scheme: EncryptedScheme, n: int) -> _Asked:
    match scheme:
        case Paillier():
            return "paillier", scheme.bits, None
        case ThresholdPaillier():
            return "threshold-paillier", scheme.bits, scheme.cohort(n).t
        case CKKS():
            return "ckks", scheme.degree, None


def _made(
    scheme: EncryptedScheme, asked: _Asked, roster: Roster, identities: Mapping[SiloId, IdentityKey]
) -> LocalKeys:
    tag, size, threshold = asked
    policy = policy_of(tag, scheme.cohort(roster.n))
    ceremony = KeyCeremony(
        roster, federation="local", scheme=tag, size=size, threshold=threshold, maker=roster.silos[0]
    )
    holders = {
        silo: KeyHolder(silo, identity=identity, roster=roster, policy=policy, clock=lambda: _NOW)
        for silo, identity in identities.items()
    }
    key = _run(ceremony, holders)
    return LocalKeys(scheme.parameters(roster.n, key=key.document.key), holders, key)


def _run(ceremony: KeyCeremony, holders: Mapping[SiloId, KeyHolder]) -> EstablishedKey:
    """Run a ceremony in which nobody is lost, over real wire bytes."""
    downlink: deque[tuple[SiloId, FromCoordinator]] = deque(ceremony.open(_NOW).output.items())
    while ceremony.outcome is None:
        silo, message = downlink.popleft()
        told = wire.decode_from_coordinator(*wire.encode(message))
        reply = holders[silo].receive(cast(ToKeyHolder, told)).output
        if reply is not None:
            ceremony.receive(silo, wire.decode_from_silo(*wire.encode(reply)))
        downlink += ceremony.advance(_NOW).output.items()
    return ceremony.outcome
