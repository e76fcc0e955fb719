"""Who a certificate stands for, and whether a party's own files fit together before it opens a socket.

A caller's name is the URI ``secagg:<role>:<name>`` of its certificate. The handshake itself checks the
chain, the dates and that a silo's certificate does not serve (extended key usage); this checks the same on
our own side first, because a failed handshake says neither which file nor which date. Keys are on elliptic
curves: with an RSA certificate the one cipher suite that is left on would also serve TLS 1.2.

It reads no clock and no file. Revocation is a list of fingerprints, kept by the coordinator.

Source: RFC 5280, sections 4.1.2.5 (validity), 4.2.1.6 (subject alternative name), 4.2.1.12 (key usage).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import PurePath
from typing import Literal, TypeAlias, get_args

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from secagg.errors import EnvironmentFault, ParameterError, TrustError
from secagg.hazmat.identity import grouped
from secagg.roster import SILO_ID_PATTERN

Role: TypeAlias = Literal["silo", "coordinator", "scientist", "operator"]
ROLES: tuple[Role, ...] = get_args(Role)
SCHEME = "secagg:"

_NAME = re.compile(SILO_ID_PATTERN)
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Caller:
    """Whom a certificate stands for.

    Attributes:
        role: what it may do.
        name: of the silo or person; of the federation, for a coordinator.
        fingerprint: SHA-256 of the certificate, 64 lower-case hex digits.
    """

    role: Role
    name: str
    fingerprint: str

    @property
    def uri(self) -> str:
        """What stands in the certificate."""
        return f"{SCHEME}{self.role}:{self.name}"


def check_name(name: str) -> None:
    """Check that ``name`` can stand in a certificate.

    Raises:
        ParameterError: it has other characters, or too many.
    """
    if not _NAME.match(name):
        raise ParameterError("a name is 1 to 64 of letters, digits, dot, underscore, hyphen")


def parse_fingerprint(text: str) -> str:
    """Return a SHA-256 fingerprint as 64 lower-case hex digits, however it was grouped.

    Raises:
        ParameterError: it is none.
    """
    digits = re.sub(r"[ :]", "", text).lower()
    if not _FINGERPRINT.fullmatch(digits):
        raise ParameterError("a fingerprint is 64 hex digits (SHA-256 of the certificate), grouped or not")
    return digits


def grouped_fingerprint(fingerprint: str) -> str:
    """Return 64 hex digits as people read them out: ``9B41 77F0 ...``."""
    return grouped(bytes.fromhex(fingerprint))


def identify(certificate: x509.Certificate) -> Caller:
    """Return whom ``certificate`` stands for; whether it is to be believed is the handshake's matter.

    Raises:
        TrustError: it has no URI of this library, or more than one, or an unknown role.

    Guarantees:
        A certificate stands for one party alone.
    """
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        uris = []
    ours = [uri for uri in uris if uri.lower().startswith(SCHEME)]
    if len(ours) != 1:
        raise TrustError(
            f"certificate {grouped_fingerprint(fingerprint)[:19]} ... has {len(ours)} names "
            f"{SCHEME}<role>:<name>, exactly one is needed; ask the authority for another"
        )
    role, _, name = ours[0].removeprefix(SCHEME).partition(":")
    for known in ROLES:
        if role == known and _NAME.match(name):
            return Caller(known, name, fingerprint)
    raise TrustError(
        f"certificate {grouped_fingerprint(fingerprint)[:19]} ... has a role or name that there is not; "
        f"roles are {', '.join(ROLES)}"
    )


@dataclass(frozen=True)
class Pem:
    """A file that was read.

    Attributes:
        path: for texts.
        content: its bytes; never shown.
    """

    path: PurePath
    content: bytes

    def __repr__(self) -> str:
        return f"Pem({str(self.path)!r})"


def check_own(authority: Pem, certificate: Pem, key: Pem, *, now: datetime) -> Caller:
    """Check that three files make a party that its peers will accept, and return who that is.

    Args:
        authority: certificates of authorities, in PEM.
        certificate: this party's own, followed by those between it and the authority, if any.
        key: its private key, unencrypted.
        now: with a time zone.

    Raises:
        EnvironmentFault: a file is not what it should be.
        TrustError: outside its dates, not signed by the authority, another key's, or not elliptic curve.
    """
    authorities, chain = _certificates(authority), _certificates(certificate)
    for file, present in ((authority, authorities), (certificate, chain)):
        for one in present:
            _check_dates(file, one, now)
    for issued, issuer in pairwise(chain):
        if not _issued_by(issued, (issuer,)):
            raise TrustError(f"{certificate.path} holds certificates that do not sign each other in order")
    if not _issued_by(chain[-1], authorities):
        raise TrustError(
            f"{certificate.path} is not signed by {authority.path}: take the certificate that this authority "
            "gave, or the authority of this federation"
        )
    public = chain[0].public_key()
    if not isinstance(public, EllipticCurvePublicKey):
        raise TrustError(f"{certificate.path} has no elliptic-curve key; ask the authority for ECDSA, P-256")
    if _private(key).public_key() != public:
        raise TrustError(f"{key.path} is not the key of {certificate.path}: take the two made together")
    return identify(chain[0])


def _certificates(file: Pem) -> Sequence[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(file.content)
    except ValueError:
        raise EnvironmentFault(
            f"{file.path} holds no certificate in PEM (-----BEGIN CERTIFICATE-----)"
        ) from None


def _private(file: Pem) -> EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(file.content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # What it says may quote the file.
        raise EnvironmentFault(f"{file.path} is no unencrypted private key in PEM") from None
    if not isinstance(key, EllipticCurvePrivateKey):
        raise EnvironmentFault(f"{file.path} is no elliptic-curve key; a certificate's key is one, P-256")
    return key


def _check_dates(file: Pem, certificate: x509.Certificate, now: datetime) -> None:
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > last:
        raise TrustError(f"{file.path} expired on {last:%Y-%m-%d %H:%M} UTC: ask the authority for a new one")
    if now < first:
        raise TrustError(
            f"{file.path} is valid from {first:%Y-%m-%d %H:%M} UTC and here it is {now:%Y-%m-%d %H:%M}: "
            "set this machine's clock"
        )


def _issued_by(certificate: x509.Certificate, issuers: Sequence[x509.Certificate]) -> bool:
    for issuer in issuers:
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return True
    return False
