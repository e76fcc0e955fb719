"""What is wrong with an operator's file, in words with the command that mends it.

It opens no file: the processes do, and hand in what the system said.
"""

from __future__ import annotations

import os
import stat
from pathlib import PurePath
from shlex import quote

from secagg.errors import EnvironmentFault


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
