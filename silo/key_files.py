"""The keys that a silo holds, each in a file of its own in the state folder, for this user alone.

A key is on disk before anybody is told that it is held. Nothing here opens anything.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from secagg.errors import MalformedMessage
from secagg.keys.keyring import HeldKey
from silo.storage import StateFault


@dataclass(frozen=True)
class KeyFiles:
    """The folder ``keys``.

    Args:
        folder: made when the first key is kept.

    Guarantees:
        A file is there whole, or not at all; nobody else may read it.
    """

    folder: Path

    def tidy(self) -> None:
        """Take away what a crash left of a key that was not kept, which has the secret in it.

        For the process that keeps keys alone: beside another one it would take away what that one writes.

        Raises:
            StateFault: it cannot be taken away.
        """
        for path in self.folder.glob("*.new"):
            try:
                path.unlink()
            except OSError as error:
                raise StateFault(f"{path} cannot be taken away: {error.strerror}") from error

    def read(self) -> tuple[HeldKey, ...]:
        """Return the keys, the oldest first.

        Raises:
            StateFault: a file cannot be read, or is damaged.
            MissingExtra: what one encrypts with is not installed.
        """
        found = []
        for path in sorted(self.folder.glob("*.key")):
            try:
                found.append(HeldKey.from_bytes(path.read_bytes()))
            except OSError as error:
                raise StateFault(f"{path} cannot be read: {error.strerror}") from error
            except MalformedMessage as error:
                raise StateFault(
                    f"{path} is damaged: take it away; a peer sends the key again, unless it is a share"
                ) from error
        return tuple(sorted(found, key=lambda key: key.document.made))

    def keep(self, key: HeldKey) -> None:
        """Write a key; it is on disk when this returns.

        Raises:
            StateFault: it cannot be written.
        """
        path = self.folder / f"{key.document.key.hex()[:32]}.key"
        new = path.with_suffix(".new")
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.fchmod(file, 0o600)
                rest = memoryview(key.to_bytes())
                while rest:
                    rest = rest[os.write(file, rest) :]
                os.fsync(file)
            finally:
                os.close(file)
            new.replace(path)
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            with suppress(OSError):  # Why it could not be written says more.
                new.unlink()
            raise StateFault(f"{path} cannot be written: {error.strerror}; the key was not taken") from error
