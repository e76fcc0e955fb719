"""The file that a command is to write what it found to: seen before anything is computed for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from secagg.errors import EnvironmentFault, MissingExtra, ParameterError


def check_target(path: Path, *, what: str, kinds: Sequence[str], data: Path, new: bool) -> None:
    """See that ``what`` can be written to ``path``.

    Args:
        path: its ending says in which form.
        what: is written, for errors.
        kinds: endings that there are.
        data: the file that the command reads, which it never writes to.
        new: nothing may be there yet.

    Raises:
        EnvironmentFault: its folder is not there, or something is in its place.
        MissingExtra: what writes it is not installed.
        ParameterError: another ending, or it is ``data``.
    """
    if path.suffix.lower() not in kinds:
        raise ParameterError(f"{path}: {what} are written as {', '.join(kinds)}")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise EnvironmentFault(f"{folder} is no folder: create it, or correct the path")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise EnvironmentFault(f"{folder} may not be written by this user: correct the path")
    if path.exists() and data.exists() and path.samefile(data):
        raise ParameterError(f"{path} is what --data names, and is not written over: name another with --out")
    if new and path.exists():
        raise EnvironmentFault(f"{path} is there already: take it away, or name another file")
    if path.suffix.lower() == ".parquet":
        try:
            import duckdb  # noqa: F401 - used when there is something to write
        except ModuleNotFoundError as missing:
            raise MissingExtra("data", "duckdb") from missing
