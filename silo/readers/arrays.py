"""NumPy's files: ``.npy`` with a column, a matrix or records, ``.npz`` with a column under each name.

No file of theirs runs code here: arrays of Python objects are refused. An ``.npy`` is mapped and not loaded.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.errors import EnvironmentFault, ParameterError
from silo.readers.table import ROWS


@dataclass(frozen=True, eq=False)
class ArrayTable:
    """Columns side by side; see ``Table``."""

    path: Path
    named: Mapping[str, NDArray[Any]] = field(repr=False)

    @property
    def columns(self) -> tuple[str, ...]:
        """See ``Table``."""
        return tuple(self.named)

    def chunks(
        self,
        columns: Sequence[str],
        *,
        numbers: bool = False,
    ) -> Iterator[Sequence[Sequence[Any]]]:
        """See ``Table``."""
        wanted: list[Any] = [self.named[name] for name in columns]
        for start in range(0, len(wanted[0]), ROWS):
            yield [values[start : start + ROWS] for values in wanted]


def array_table(path: Path) -> ArrayTable:
    """Return the table in ``path``. Columns without names are 0, 1, ...

    Raises:
        EnvironmentFault: it is none of NumPy's files, or holds Python objects.
        ParameterError: arrays that are no columns of one length.
    """
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        loaded = dict(found) if isinstance(found, np.lib.npyio.NpzFile) else found
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        raise EnvironmentFault(
            f"{path} is no {path.suffix} of text or numbers; arrays of Python objects are not read"
        ) from None
    arrays = loaded if isinstance(loaded, dict) else _split(path, loaded)
    if not arrays or any(each.ndim != 1 for each in arrays.values()):
        raise ParameterError(f"{path}: every array must be one column")
    if len({len(each) for each in arrays.values()}) > 1:
        raise ParameterError(f"{path}: its columns have different lengths")
    return ArrayTable(path, arrays)


def _split(path: Path, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
    if array.dtype.names is not None:
        return {name: array[name] for name in array.dtype.names}
    if array.ndim not in {1, 2}:
        raise ParameterError(f"{path} has {array.ndim} dimensions; a table has rows and columns")
    matrix = array.reshape(len(array), -1)
    return {str(at): matrix[:, at] for at in range(matrix.shape[1])}
