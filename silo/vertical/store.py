"""What a silo keeps of a vertical job: files for this user alone, whole or not at all, known if damaged.

    state/vertical/<job>/fit/       how far training is, and this party's part of the model
    state/vertical/<job>/predict/   how far the last prediction is

All of it is this party's own: rows of its table, its part of a model, its seeds. None of it leaves the silo.
"""

from __future__ import annotations

import hashlib
import hmac
import shutil
from collections.abc import Mapping
from pathlib import Path

from secagg.vertical.checkpoints import Checkpoints
from silo.storage import StateFault, make_folder, not_written, replace_file, sync_folder

_SUM = 32


class Files:
    """Files of one folder.

    Args:
        folder: made when the first file is kept.

    Guarantees:
        A file is there as it was kept, or as it was kept before, whenever the process ends.
        Nobody else may read it.
        What is damaged is not taken.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, name: str, content: bytes) -> None:
        """Write a file in the place of the one before; it is on disk when this returns.

        Raises:
            StateFault: it cannot be written.
        """
        try:
            make_folder(self.folder)
            replace_file(self.folder / name, hashlib.sha256(content).digest() + content)
        except OSError as error:
            raise not_written(self.folder, error) from error

    def read(self, name: str) -> bytes | None:
        """Return what was kept under ``name``; None if nothing was.

        Raises:
            StateFault: it cannot be read, or is damaged.
        """
        path = self.folder / name
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateFault(f"{path} cannot be read: {error.strerror}") from error
        if not hmac.compare_digest(hashlib.sha256(content[_SUM:]).digest(), content[:_SUM]):
            raise StateFault(f"{path} is damaged: put a copy in its place, or begin anew with --again")
        return content[_SUM:]

    def forget(self) -> None:
        """Take the folder away, with all that is in it.

        Raises:
            StateFault: it cannot be taken away.
        """
        try:
            if self.folder.exists():
                shutil.rmtree(self.folder)
                sync_folder(self.folder.parent)
        except OSError as error:
            raise StateFault(f"{self.folder} cannot be taken away: {error.strerror}") from error


class FileCheckpoints(Checkpoints):
    """Checkpoints as files of a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._files = Files(folder)

    def save(self, step: int, state: bytes) -> None:
        """See ``Checkpoints``."""
        self._files.keep(str(step), state)
        for old in self._steps() - {step - 1, step}:
            (self._files.folder / str(old)).unlink()

    def load(self) -> Mapping[int, bytes]:
        """See ``Checkpoints``."""
        steps = self._steps()
        last = max(steps, default=0)
        # A crash may have come before older ones were taken away.
        kept = {step: self._files.read(str(step)) for step in (last - 1, last) if step in steps}
        return {step: state for step, state in kept.items() if state is not None}

    def _steps(self) -> set[int]:
        if not self._files.folder.exists():
            return set()
        return {int(path.name) for path in self._files.folder.iterdir() if path.name.isdecimal()}
