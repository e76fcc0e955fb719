"""``coordinator.toml`` and ``client.toml``: what the coordinator and those who call it run with.

Paths are taken from the file's own folder. Whether certificates fit is ``tls``'s matter.
"""

from __future__ import annotations

from typing import Annotated

from secagg.errors import MissingExtra

try:
    from pydantic import AfterValidator, Field
except ModuleNotFoundError as missing:
    raise MissingExtra("coordinator", "pydantic") from missing

from secagg.address import split_address
from secagg.certificates import check_name, parse_fingerprint
from secagg.operator_tables import Dialled, FilePath, PartyFile, Tls


def _listened(text: str) -> str:
    split_address(text, least_port=0)
    return text


def _name(text: str) -> str:
    check_name(text)
    return text


class ServerTls(Tls):
    """``[tls]`` of the coordinator.

    Attributes:
        revoked: SHA-256 fingerprints of certificates that are no longer accepted, as 64 lower-case hex
            digits; the file may group them.
    """

    revoked: Annotated[frozenset[Annotated[str, AfterValidator(parse_fingerprint)]], Field(strict=False)] = (
        frozenset()
    )


class CoordinatorConfig(PartyFile):
    """The whole file.

    Attributes:
        federation: its name, as in the coordinator's certificate.
        listen: ``host:port``; port 0 takes a free one.
        state: the only folder that is written to.
        memory_limit: bytes that the process may hold; None for what the machine has.
        roster: ``roster.toml``.
        tls: certificates.
    """

    federation: Annotated[str, AfterValidator(_name)]
    listen: Annotated[str, AfterValidator(_listened)] = "127.0.0.1:7443"
    state: FilePath
    memory_limit: int | None = Field(default=None, ge=1)
    tls: ServerTls


class ClientConfig(PartyFile):
    """``client.toml``: how a scientist or an operator reaches a coordinator.

    Attributes:
        coordinator: ``host:port`` that is dialled.
        roster: ``roster.toml``, to compare with what the coordinator says.
        tls: certificates.
    """

    coordinator: Dialled
