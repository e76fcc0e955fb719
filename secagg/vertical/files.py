"""Files that a party keeps of a model: its owner's alone, and whole or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from secagg.errors import EnvironmentFault


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file that its owner alone may read.

    Args:
        path: of the file; its folder is there.
        data: all of it.

    Raises:
        EnvironmentFault: it cannot be written; what was there before is as it was.
    """
    target = Path(path)
    try:
        # Made for its owner alone, in the folder that it is moved within.
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise EnvironmentFault(f"{target} cannot be written: {error.strerror}") from error
