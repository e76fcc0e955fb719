"""Reading an operator's files: what is wrong with one, in words with the command that mends it."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePath
from shlex import quote

from secagg.errors import EnvironmentFault


def read_text(path: Path) -> str:
    """Return the UTF-8 text of ``path``.

    Raises:
        EnvironmentFault: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")  # Some editors begin a file with a mark.
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from None


def read_private(path: Path) -> bytes:
    """Return the bytes of a private key's file.

    Raises:
        EnvironmentFault: it cannot be read, or is not its owner's alone.
    """
    try:
        with path.open("rb") as file:
            check_private(path, os.fstat(file.fileno()), user=os.getuid())
            return file.read()
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: PurePath, error: OSError | UnicodeDecodeError) -> EnvironmentFault:
    """Return the fault to raise where reading ``path`` failed with ``error``."""
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return EnvironmentFault(f"{path} is not there: create it, or correct its path")
        case IsADirectoryError():
            return EnvironmentFault(f"{path} is a folder, a file is expected: correct its path")
        case PermissionError():
            return EnvironmentFault(
                f"{path} may not be read by this user. Type: sudo chown $(id -u) {quote(str(path))}"
            )
        case UnicodeDecodeError():
            return EnvironmentFault(f"{path} is no UTF-8 text: save it as UTF-8")
        case _:
            return EnvironmentFault(f"{path} cannot be read: {error.strerror}")


def check_private(path: PurePath, status: os.stat_result, *, user: int) -> None:
    """Check that a private key's file is its owner's alone.

    Args:
        path: for the text.
        status: of the open file, so that what is checked is what is read.
        user: who this process runs as, as ``os.getuid()`` says.

    Raises:
        EnvironmentFault: with the command that mends it.

    Guarantees:
        A key that group or others may read, write or run is refused; so is one of another owner.
    """
    if not stat.S_ISREG(status.st_mode):
        raise EnvironmentFault(f"{path} is no regular file, a private key is expected: correct its path")
    if status.st_uid != user:
        raise EnvironmentFault(
            f"{path} is a private key of user {status.st_uid}, and this process runs as {user}. "
            f"Type: sudo chown {user} {quote(str(path))}"
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise EnvironmentFault(
            f"{path} is a private key, and others may use it (mode {mode:04o}). "
            f"Type: chmod 600 {quote(str(path))}"
        )
