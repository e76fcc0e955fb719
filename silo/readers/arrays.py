"""NumPy's files: ``.npy`` with a column, a matrix or records, ``.npz`` with a column under each name.

No file of theirs runs code here: arrays of Python objects are refused. An ``.npy`` is mapped and not loaded.
Dates are refused too: NumPy counts them in units that the file chooses, so they would be other numbers
elsewhere.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.errors import EnvironmentFault, InputRefused, ParameterError
from silo.readers.table import ROWS

_KINDS = "biufUS"
"""Of NumPy's types: truth, numbers, text and bytes."""
_UNREADABLE = (
    *(
        OSError,
        ValueError,
        EOFError,
        MemoryError,
        RuntimeError,
    ),  # The last: encrypted, or an odd compression.
    *(zipfile.BadZipFile, zlib.error),
)


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
        for name, values in zip(columns, wanted, strict=True):
            if values.dtype.kind not in _KINDS:
                raise InputRefused(
                    "dtype", f"{self.path}: column {name} is {values.dtype.name}; write it as text or numbers"
                )
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
    except _UNREADABLE:
        raise EnvironmentFault(
            f"{path} is no {path.suffix} of text or numbers; arrays of Python objects are not read"
        ) from None
    arrays = loaded if isinstance(loaded, dict) else _split(path, loaded)
    if not arrays or any(np.ndim(each) != 1 for each in arrays.values()):
        raise ParameterError(f"{path}: every array must be one column")
    if len({len(each) for each in arrays.values()}) > 1:
        raise ParameterError(f"{path}: its columns have different lengths")
    return ArrayTable(path, arrays)


def _split(path: Path, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
    if array.dtype.names is not None:
        return {name: array[name] for name in array.dtype.names}
    if array.ndim not in {1, 2}:
        raise ParameterError(f"{path} has {array.ndim} dimensions; a table has rows and columns")
    matrix = array[:, None] if array.ndim == 1 else array
    return {str(at): matrix[:, at] for at in range(matrix.shape[1])}
