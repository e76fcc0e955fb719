"""The tables that every operator's file is made of, and how one is loaded.

Paths are taken from the file's own folder. Loading checks that private keys are their owner's alone; whether
certificates fit together is seen when ``Tls.read`` is called. The processes name what their files hold.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from secagg.address import split_address
from secagg.certificates import Caller, Pem, check_own
from secagg.configuration import parse, rebased
from secagg.errors import ParameterError
from secagg.names import APP_PATTERN
from secagg.operator_files import read_private, read_text, unreadable
from secagg.roster import Roster
from secagg.roster_file import parse_roster

_APP = re.compile(APP_PATTERN)


def _dialled(text: str) -> str:
    split_address(text)
    return text


def _app(path: str) -> str:
    if not _APP.fullmatch(path):
        raise ParameterError('an app is "package.module:function"')
    return path


FilePath = Annotated[Path, Field(strict=False)]
"""TOML has no paths, so a text must be taken for one."""
Dialled = Annotated[str, AfterValidator(_dialled)]
"""``host:port`` that can be dialled."""
AppPath = Annotated[str, AfterValidator(_app)]
"""``package.module:function``."""


class Table(BaseModel):
    """A table of a file: no unknown key, no conversion of types, no change afterwards."""

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

    def read(self, *, now: datetime) -> tuple[Caller, Pem, Pem, Pem]:
        """Return who this party is by its certificate, then authority, certificate and key.

        Args:
            now: with a time zone, for the dates of certificates.

        Raises:
            EnvironmentFault: a file cannot be read or is not what it should be; others may use the key.
            TrustError: the files do not fit together, or are outside their dates.
        """
        authority, certificate = (_pem(path) for path in (self.authority, self.certificate))
        key = Pem(self.key, read_private(self.key))
        return check_own(authority, certificate, key, now=now), authority, certificate, key


class OperatorFile(Table):
    """A whole file."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read ``path``.

        Raises:
            ParameterError: naming every problem with its line.
            EnvironmentFault: a file cannot be read, or a private key is not its owner's alone.
        """
        config = rebased(parse(read_text(path), cls, source=str(path)), path.absolute().parent)
        for key in config.private_keys():
            read_private(key)
        return config

    def private_keys(self) -> Sequence[Path]:
        """Return the files that must be their owner's alone."""
        return ()


class PartyFile(OperatorFile):
    """The file of a party that has a certificate and pins the roster.

    Attributes:
        roster: ``roster.toml``, pinned here.
        tls: certificates.
    """

    roster: FilePath
    tls: Tls

    def private_keys(self) -> Sequence[Path]:
        """Return the files that must be their owner's alone."""
        return (self.tls.key,)

    def members(self) -> Roster:
        """Return the roster.

        Raises:
            ParameterError: the file holds none.
            EnvironmentFault: it cannot be read.
        """
        return parse_roster(read_text(self.roster), str(self.roster))


def _pem(path: Path) -> Pem:
    try:
        return Pem(path, path.read_bytes())
    except OSError as error:
        raise unreadable(path, error) from None
