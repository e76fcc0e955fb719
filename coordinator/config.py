"""``coordinator.toml`` and ``client.toml``: what the coordinator and those who call it run with.

Paths are taken from the file's own folder. Whether certificates fit is ``tls``'s matter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from secagg.errors import MissingExtra

try:
    from pydantic import AfterValidator, BaseModel, ConfigDict, Field
except ModuleNotFoundError as missing:
    raise MissingExtra("coordinator", "pydantic") from missing

from secagg.address import split_address
from secagg.certificates import check_name, parse_fingerprint
from secagg.configuration import parse, rebased
from secagg.operator_files import read_private, read_text
from secagg.roster import Roster
from secagg.roster_file import parse_roster


def _dialled(text: str) -> str:
    split_address(text)
    return text


def _listened(text: str) -> str:
    split_address(text, least_port=0)
    return text


def _name(text: str) -> str:
    check_name(text)
    return text


FilePath = Annotated[Path, Field(strict=False)]  # TOML has no paths, so a text must be taken for one.


class Table(BaseModel):
    """A table of the coordinator's files: no unknown key, no conversion of types, no change afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Tls(Table):
    """``[tls]``: files in PEM.

    Attributes:
        authority: the certificate that the other side's must be signed by.
        certificate: this party's own.
        key: its private key, 0600.
    """

    authority: FilePath
    certificate: FilePath
    key: FilePath


class ServerTls(Tls):
    """``[tls]`` of the coordinator.

    Attributes:
        revoked: SHA-256 fingerprints of certificates that are no longer accepted, as 64 lower-case hex
            digits; the file may group them.
    """

    revoked: Annotated[frozenset[Annotated[str, AfterValidator(parse_fingerprint)]], Field(strict=False)] = (
        frozenset()
    )


class _File(Table):
    """A whole file; its paths are relative to its folder."""

    tls: Tls

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read ``path``.

        Raises:
            ParameterError: naming every problem with its line.
            EnvironmentFault: a file cannot be read, or the private key is not its owner's alone.
        """
        config = rebased(parse(read_text(path), cls, source=str(path)), path.absolute().parent)
        read_private(config.tls.key)
        return config


class CoordinatorConfig(_File):
    """The whole file.

    Attributes:
        federation: its name, as in the coordinator's certificate.
        listen: ``host:port``; port 0 takes a free one.
        state: the only folder that is written to.
        roster: ``roster.toml``.
        tls: certificates.
    """

    federation: Annotated[str, AfterValidator(_name)]
    listen: Annotated[str, AfterValidator(_listened)] = "127.0.0.1:7443"
    state: FilePath
    roster: FilePath
    tls: ServerTls

    def members(self) -> Roster:
        """Return the roster.

        Raises:
            ParameterError: the file holds none.
            EnvironmentFault: it cannot be read.
        """
        return parse_roster(read_text(self.roster), str(self.roster))


class ClientConfig(_File):
    """``client.toml``: how a scientist or an operator reaches a coordinator.

    Attributes:
        coordinator: ``host:port`` that is dialled.
        roster: ``roster.toml``, to compare with what the coordinator says.
        tls: certificates.
    """

    coordinator: Annotated[str, AfterValidator(_dialled)]
    roster: FilePath
