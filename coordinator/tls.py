"""The coordinator's end of mutual TLS: its credentials, those of its clients, and who is calling.

TLS 1.3 alone. gRPC offers no setting for that, but a list of TLS 1.2 suites: the one left on needs an RSA
certificate, and ours are on elliptic curves. It must be set before gRPC reads it, so this module is imported
before ``grpc`` everywhere in this package. ``caller`` checks again what was negotiated, where grpcio says it.

It decides who is calling and not what they may do: a role is allowed by whoever serves the call.

Source: https://github.com/grpc/grpc, ``doc/environment_variables.md`` (GRPC_SSL_CIPHER_SUITES); RFC 8446.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Protocol

from cryptography import x509

from coordinator.config import ServerTls
from secagg.certificates import Caller, Role, grouped_fingerprint, identify
from secagg.errors import MissingExtra, TrustError, UsageError
from secagg.operator_tables import Tls
from secagg.roster import Roster

_VARIABLE, _CIPHERS = "GRPC_SSL_CIPHER_SUITES", "ECDHE-RSA-AES256-GCM-SHA384"
_LATE = "grpc" in sys.modules and os.environ.get(_VARIABLE) != _CIPHERS
os.environ[_VARIABLE] = _CIPHERS

try:
    import grpc
except ModuleNotFoundError as missing:
    raise MissingExtra("coordinator", "grpcio") from missing

__all__ = ["Caller", "caller", "channel_credentials", "server_credentials"]

TLS_VERSION = b"TLSv1.3"


class Context(Protocol):
    """What is needed of a call's context, of ``grpc`` or ``grpc.aio``."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Return what the handshake established."""
        ...


def server_credentials(
    tls: ServerTls, *, federation: str, now: datetime | None = None
) -> grpc.ServerCredentials:
    """Return what the server listens with: clients without a certificate of the authority are refused.

    Args:
        tls: names the files.
        federation: that the certificate must be for.
        now: for the dates of certificates; None for the clock's.

    Raises:
        EnvironmentFault: a file cannot be read or is not what it should be; others may use the key.
        TrustError: the files do not fit together, are outside their dates, or for another party.
        UsageError: grpc was imported before this module, and would serve TLS 1.2.
    """
    if _LATE:
        raise UsageError("grpc was imported before coordinator.tls and would serve TLS 1.2: import it after")
    who, authority, certificate, key = tls.read(now=now or datetime.now(UTC))
    if (who.role, who.name) != ("coordinator", federation):
        raise TrustError(f"{tls.certificate} is for {who.role} {who.name}, not for coordinator {federation}")
    return grpc.ssl_server_credentials(
        [(key.content, certificate.content)], root_certificates=authority.content, require_client_auth=True
    )


def channel_credentials(tls: Tls, *, now: datetime | None = None) -> grpc.ChannelCredentials:
    """Return what a scientist or an operator dials a coordinator with.

    Args:
        tls: names the files.
        now: for the dates of certificates; None for the clock's.

    Raises:
        EnvironmentFault, TrustError: as ``server_credentials``.
    """
    who, authority, certificate, key = tls.read(now=now or datetime.now(UTC))
    if who.role not in {"scientist", "operator"}:
        raise TrustError(
            f"{tls.certificate} is for {who.role} {who.name}, not for a scientist or an operator"
        )
    return grpc.ssl_channel_credentials(authority.content, key.content, certificate.content)


def caller(
    context: Context,
    *,
    roles: Collection[Role],
    revoked: Collection[str] = (),
    roster: Roster | None = None,
) -> Caller:
    """Return who is calling.

    Args:
        context: of the call.
        roles: that may make it.
        revoked: fingerprints that are no longer accepted, as in ``coordinator.toml``.
        roster: that a silo must be in; None where silos do not call.

    Raises:
        TrustError: not TLS 1.3, no certificate or no single name in it, another role, revoked, or not in
            the roster.

    Guarantees:
        It looks at what the handshake established and at nothing that the caller sent.
    """
    facts = {name: tuple(values) for name, values in context.auth_context().items()}
    if facts.get("ssl_tls_version", (TLS_VERSION,)) != (TLS_VERSION,):  # Given from grpcio 1.85 on.
        raise TrustError("the connection is not TLS 1.3, nothing older is accepted")
    certificates = facts.get("x509_pem_cert", ())
    if len(certificates) != 1:
        raise TrustError("the caller shows no certificate")
    who = identify(x509.load_pem_x509_certificate(certificates[0]))
    shown = f"{who.role} {who.name}"
    if who.fingerprint in revoked:
        raise TrustError(
            f"the certificate of {shown} is revoked ({grouped_fingerprint(who.fingerprint)[:19]} ...)"
        )
    if who.role not in roles:
        raise TrustError(f"{shown} may not make this call; it is for {' or '.join(sorted(roles))}")
    if who.role == "silo" and roster is not None and who.name not in roster:
        raise TrustError(f"{shown} is not in the roster")
    return who
