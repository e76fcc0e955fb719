"""What the journal and the ledger share: who has a file to itself, and in words why a write failed."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from pathlib import Path

from secagg.errors import EnvironmentFault

_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_SPACE = 64 * 1024
"""Bytes; with fewer left, a write that failed is put down to the disk, whatever SQLite calls it."""


class StateFault(EnvironmentFault):
    """The state folder cannot be trusted to keep what it is given: the silo must stop."""


class InUse(StateFault):
    """Another process has it.

    Attributes:
        pid: its number, as far as it could be read.
    """

    def __init__(self, what: Path, pid: str) -> None:
        super().__init__(f"{what} is in use by process {pid}; one `silo run` has a state folder to itself")
        self.pid = pid


def lock(what: Path, path: Path) -> int:
    """Lock ``what`` for this process and return the open file, which keeps it until it is closed.

    A POSIX record lock: worker processes that a trainer forks do not inherit it.

    Args:
        what: is locked, for the text.
        path: of the lock file; it holds the number of the process.

    Raises:
        InUse: another process has it.
        OSError: the file cannot be made.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            pid = os.read(file, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(file)
            raise InUse(what, pid) from None
        if _is_at(file, path):
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
            return file
        os.close(file)  # Whoever had it took it away meanwhile: what is locked is nowhere.


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def not_written(folder: Path, error: sqlite3.Error | OSError) -> StateFault:
    """Return the fault to raise where a write to ``folder`` failed with ``error``."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or getattr(error, "errno", 0) in _FULL or _is_full(folder):
        return StateFault(f"the disk of {folder} is full; free space and start again, nothing was sent")
    why = error.strerror if isinstance(error, OSError) else str(error)
    return StateFault(
        f"{folder} cannot be written ({why}); make it writable and start again, nothing was sent"
    )


def replace_file(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` for this user alone: after a crash the old file is there, or the new one.

    Raises:
        OSError: it cannot be written; the old file is still there.
    """
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)  # Of a crash; or of somebody who would have it written elsewhere, or read it.
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)
    new.replace(path)
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make ``folder``, and those above it, for this user alone where they are not there; on disk at the end.

    Raises:
        OSError: it cannot be made.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(new):
        path.mkdir(mode=0o700, exist_ok=True)
        sync_folder(path.parent)
    folder.mkdir(exist_ok=True)  # Says so where a file is in its place.


def sync_folder(folder: Path) -> None:
    """Wait until the names in ``folder`` are on disk.

    Raises:
        OSError: they may not be.
    """
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _is_full(folder: Path) -> bool:
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < _NO_SPACE
