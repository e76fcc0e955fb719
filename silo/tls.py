"""A silo's end of mutual TLS: what it dials the coordinator with.

TLS 1.3 alone. gRPC offers no setting for that, but a list of TLS 1.2 suites: the one left on needs an RSA
certificate, and this federation's are on elliptic curves. It must be set before gRPC reads it, so this
module is imported before ``grpc`` everywhere in this package. That the other side is the coordinator is
checked by the handshake: its certificate alone may serve, and must have the name that is dialled.

Source: https://github.com/grpc/grpc, ``doc/environment_variables.md`` (GRPC_SSL_CIPHER_SUITES); RFC 8446.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509

from secagg.errors import MissingExtra, TrustError
from secagg.names import SiloId
from secagg.operator_tables import Tls

os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES256-GCM-SHA384"

try:
    import grpc
except ModuleNotFoundError as missing:
    raise MissingExtra("silo", "grpcio") from missing


@dataclass(frozen=True)
class Dialling:
    """What a silo dials the coordinator with.

    Attributes:
        credentials: of mutual TLS.
        until: when its certificate ends.
    """

    credentials: grpc.ChannelCredentials = field(repr=False)
    until: datetime


def dialling(tls: Tls, *, name: SiloId, now: datetime | None = None) -> Dialling:
    """Return what ``name`` dials the coordinator with.

    Args:
        tls: names the files.
        name: that the certificate must be for.
        now: for the dates of certificates; None for the clock's.

    Raises:
        EnvironmentFault: a file cannot be read or is not what it should be; others may use the key.
        TrustError: the files do not fit together, are outside their dates, or for another party.
    """
    who, authority, certificate, key = tls.read(now=now or datetime.now(UTC))
    if (who.role, who.name) != ("silo", name):
        raise TrustError(f"{tls.certificate} is for {who.role} {who.name}, not for silo {name}")
    until = x509.load_pem_x509_certificate(certificate.content).not_valid_after_utc
    credentials = grpc.ssl_channel_credentials(authority.content, key.content, certificate.content)
    return Dialling(credentials, until)
