"""Keys of silos that live in one process: made for a call or a run, and gone with it.

Silos in processes of their own make their keys together (``keys``); here one process is all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from secagg.ckks.params import CKKS
from secagg.encrypted.cipher import Adders, Keys, SiloCipher
from secagg.errors import PolicyRefused
from secagg.fixedpoint import Encoding
from secagg.masking.params import Masking
from secagg.names import SiloId
from secagg.paillier.params import Paillier, ThresholdPaillier
from secagg.plain import Plain
from secagg.roster import Roster
from secagg.scheme import Scheme
from secagg.terms import MaskingParameters, PlainParameters, SchemeParameters, Terms


@dataclass(frozen=True)
class HeldKey:
    """One key, as a silo holds it; see ``encrypted.cipher.Keys``.

    Attributes:
        key: its id.
        make: its cipher for an encoding.
    """

    key: bytes
    make: Callable[[Encoding], SiloCipher] = field(repr=False)

    def cipher(self, terms: Terms) -> SiloCipher:
        """Return the cipher of the key for the encoding of ``terms``; see ``Keys.cipher``."""
        match terms.scheme:
            case MaskingParameters() | PlainParameters():
                raise PolicyRefused("key", "these terms need no key")
            case scheme if scheme.key != self.key:
                raise PolicyRefused("key", "the key that the terms name is not held here")
            case _:
                return self.make(terms.encoding)


@dataclass(frozen=True)
class LocalKeys:
    """What a run in one process is protected with.

    Attributes:
        parameters: of the scheme.
        keys: of every silo; empty where none are needed.
        adders: what the coordinator adds with, for an encoding; None where it needs no key.
    """

    parameters: SchemeParameters
    keys: Mapping[SiloId, Keys] = field(default_factory=dict)
    adders: Adders | None = None


def make_keys(scheme: Scheme, roster: Roster) -> LocalKeys:
    """Make the key that ``scheme`` needs, if it needs one.

    Args:
        scheme: the protection; ``ThresholdPaillier`` takes some seconds.
        roster: who is to hold it.

    Raises:
        ParameterError: the scheme does not protect so few silos.
        MissingExtra: what it encrypts with is not installed.
    """
    match scheme:
        case Masking() | Plain():
            return LocalKeys(scheme.parameters(roster.n))
        case Paillier():
            return _paillier(scheme, roster)
        case ThresholdPaillier():
            return _threshold(scheme, roster)
        case CKKS():
            return _ckks(scheme, roster)


def _paillier(scheme: Paillier, roster: Roster) -> LocalKeys:
    from secagg.paillier.coordinator import PaillierAdder
    from secagg.paillier.secret import SecretKey
    from secagg.paillier.silo import PaillierCipher

    secret = SecretKey.generate(scheme.bits)
    public = secret.public
    held = HeldKey(public.id, lambda encoding: PaillierCipher(secret, encoding))
    return LocalKeys(
        scheme.parameters(roster.n, key=public.id),
        dict.fromkeys(roster.silos, held),
        lambda encoding: PaillierAdder(public, encoding),
    )


def _threshold(scheme: ThresholdPaillier, roster: Roster) -> LocalKeys:
    from secagg.paillier.coordinator import PaillierAdder
    from secagg.paillier.shares import KeyShare, deal
    from secagg.paillier.silo import ThresholdPaillierCipher

    key, shares = deal(parties=roster.n, threshold=scheme.cohort(roster.n).t, bits=scheme.bits)

    def held(share: KeyShare) -> HeldKey:
        return HeldKey(key.id, lambda encoding: ThresholdPaillierCipher(share, encoding))

    return LocalKeys(
        scheme.parameters(roster.n, key=key.id),
        {silo: held(share) for silo, share in zip(roster.silos, shares, strict=True)},
        lambda encoding: PaillierAdder(key, encoding),
    )


def _ckks(scheme: CKKS, roster: Roster) -> LocalKeys:
    from secagg.ckks.coordinator import CKKSAdder
    from secagg.ckks.secret import SecretKey
    from secagg.ckks.silo import CKKSCipher

    secret = SecretKey.generate(scheme.degree)
    held = HeldKey(secret.key_id, lambda encoding: CKKSCipher(secret, encoding))
    return LocalKeys(
        scheme.parameters(roster.n, key=secret.key_id),
        dict.fromkeys(roster.silos, held),
        lambda encoding: CKKSAdder(secret.key_id, scheme.degree, encoding),
    )
