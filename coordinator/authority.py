"""A small certificate authority for development: it makes every key of a federation in one place.

That is good for demonstrations and tests and for nothing else: whoever runs it could have kept the silos'
identity keys, and could then read what masks protect. In a real federation each party makes its own keys
and the authority signs public halves only; enrolment of that kind is not in this module.

Keys are ECDSA on P-256. A silo's, scientist's or operator's certificate may only be a client's, the
coordinator's may only be a server's, so that none can pass for the other.

Source: RFC 5280.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, Self, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from secagg.address import split_address
from secagg.certificates import Caller, Role, check_name, grouped_fingerprint
from secagg.errors import EnvironmentFault, ParameterError
from secagg.names import SiloId
from secagg.operator_files import read_private, unreadable

AUTHORITY_DAYS = 365
CERTIFICATE_DAYS = 90
CLOCK_TOLERANCE = timedelta(hours=1)
"""A certificate is valid from this long before it was made: clocks of parties differ."""

Person: TypeAlias = Literal["scientist", "operator"]


@dataclass(frozen=True)
class Issued:
    """A certificate and its key.

    Attributes:
        caller: whom it stands for, with its fingerprint.
        certificate: PEM.
        key: PEM, PKCS#8, unencrypted; never shown.
    """

    caller: Caller
    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return f"Issued({self.caller.uri}, {grouped_fingerprint(self.caller.fingerprint)})"


class Authority:
    """The authority's key and certificate.

    Guarantees:
        Its repr shows the fingerprint of the certificate and no key.
        A certificate that it issues is never valid longer than its own.
    """

    def __init__(self, certificate: x509.Certificate, key: EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def create(cls, common_name: str, *, now: datetime | None = None) -> Self:
        """Make a new authority, valid for a year.

        Args:
            common_name: shown by tools, 1 to 64 characters.
            now: when it is made; None for the clock's time.

        Raises:
            ParameterError: the name is too short or too long.
        """
        if not 1 <= len(common_name) <= 64:
            raise ParameterError("an authority's common_name has 1 to 64 characters")
        now = now or datetime.now(UTC)
        key = generate_private_key(SECP256R1())
        name = _common_name(common_name)
        certificate = (
            _certificate(
                name, name, key, first=now - CLOCK_TOLERANCE, last=now + timedelta(days=AUTHORITY_DAYS)
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the authority that was saved in ``folder``.

        Raises:
            EnvironmentFault: a file cannot be read, is not what it should be, or the key is not its owner's.
        """
        files = folder / "authority.pem", folder / "authority.key"
        try:
            content = files[0].read_bytes()
        except OSError as error:
            raise unreadable(files[0], error) from None
        secret = read_private(files[1])
        try:
            certificate = x509.load_pem_x509_certificate(content)
            key = load_pem_private_key(secret, password=None)
        except (ValueError, TypeError):  # What it says may quote the file.
            raise EnvironmentFault(
                f"{folder} holds no authority: both files must be PEM, unencrypted"
            ) from None
        if not isinstance(key, EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise EnvironmentFault(f"{files[1]} is not the key of {files[0]}")
        return cls(certificate, key)

    def save(self, folder: Path) -> None:
        """Write ``authority.pem`` and ``authority.key`` (0600) into ``folder``, which is made if need be.

        Raises:
            EnvironmentFault: one is there already, or cannot be written.
        """
        with writing(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_new(folder / "authority.key", private_pem(self._key), private=True)
        write_new(folder / "authority.pem", self.certificate)

    @property
    def certificate(self) -> bytes:
        """The certificate that every party pins, in PEM."""
        return self._certificate.public_bytes(Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate in groups, to be read out over the phone."""
        return grouped_fingerprint(self._certificate.fingerprint(hashes.SHA256()).hex())

    def issue_silo(self, name: SiloId, *, now: datetime | None = None) -> Issued:
        """Make a silo's certificate: a client, ``secagg:silo:<name>``, valid for 90 days.

        Args:
            name: of the silo.
            now: when it is made; None for the clock's time.

        Raises:
            ParameterError: a name that cannot stand in a certificate.
        """
        return self._issue("silo", name, (), now)

    def issue_person(self, role: Person, name: str, *, now: datetime | None = None) -> Issued:
        """Make a scientist's or an operator's certificate: a client, valid for 90 days.

        Raises:
            ParameterError: a name that cannot stand in a certificate.
        """
        return self._issue(role, name, (), now)

    def issue_coordinator(
        self, federation: str, hosts: Sequence[str], *, now: datetime | None = None
    ) -> Issued:
        """Make the coordinator's certificate: a server, ``secagg:coordinator:<federation>``, for 90 days.

        Args:
            federation: its name.
            hosts: names and addresses by which it is dialled, at least one.
            now: when it is made; None for the clock's time.

        Raises:
            ParameterError: a name or host that cannot stand in a certificate.
        """
        if not hosts:
            raise ParameterError("a coordinator's certificate needs a host by which it is dialled")
        return self._issue("coordinator", federation, [_host(host) for host in hosts], now)

    def __repr__(self) -> str:
        return f"Authority({self.fingerprint})"

    def _issue(
        self, role: Role, name: str, hosts: Sequence[x509.GeneralName], now: datetime | None
    ) -> Issued:
        check_name(name)
        now = now or datetime.now(UTC)
        key = generate_private_key(SECP256R1())
        last = min(now + timedelta(days=CERTIFICATE_DAYS), self._certificate.not_valid_after_utc)
        uri = x509.UniformResourceIdentifier(f"secagg:{role}:{name}")
        may = ExtendedKeyUsageOID.SERVER_AUTH if role == "coordinator" else ExtendedKeyUsageOID.CLIENT_AUTH
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            _certificate(
                _common_name(name), self._certificate.subject, key, first=now - CLOCK_TOLERANCE, last=last
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([may]), critical=True)
            .add_extension(x509.SubjectAlternativeName([uri, *hosts]), critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Issued(
            Caller(role, name, certificate.fingerprint(hashes.SHA256()).hex()),
            certificate.public_bytes(Encoding.PEM),
            private_pem(key),
        )


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: EllipticCurvePrivateKey,
    *,
    first: datetime,
    last: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(first)
        .not_valid_after(last)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        pass
    try:
        split_address(f"{host}:1")
        return x509.DNSName(host)
    except ValueError:
        raise ParameterError("a host is an IP address or a name such as silos.example.org") from None


def private_pem(key: EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    """Return a private key as PKCS#8 in PEM, unencrypted, for its owner's file."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


# --- files --------------------------------------------------------------------------------------------------


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say what went wrong in our words where ``path`` cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.EEXIST, errno.ENOTEMPTY}:
            raise EnvironmentFault(
                f"{path} is there already, and nothing is overwritten: choose another place"
            ) from None
        raise EnvironmentFault(f"{path} cannot be written: {error.strerror}") from None


def write_new(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file that is not there yet, whole or not at all.

    Args:
        path: in a folder that exists.
        content: all of it.
        private: for its owner alone (0600) from the first moment.

    Raises:
        EnvironmentFault: it is there already, or cannot be written.
    """
    with writing(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # O_EXCL, 0600.
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                if not private:
                    os.fchmod(file.fileno(), 0o644)
                file.flush()
                os.fsync(file.fileno())
            os.link(name, path)  # Unlike a rename, it takes nobody's place.
        finally:
            Path(name).unlink()
