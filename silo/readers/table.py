"""What is read of a table, whoever reads the file: keys of records, and columns of numbers.

Values are taken as the file has them: text stays text, so that leading zeros survive. Errors name the file,
the column and the row, counted from 0, and never a value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from secagg.errors import InputRefused, ParameterError
from secagg.psi.identifiers import Key

ROWS = 2048
"""Of a chunk."""
SHOWN = 20
"""Names of columns that an error gives."""


class Table(Protocol):
    """A table that is read by chunks, each time from its beginning.

    Attributes:
        path: of its file, for errors.
        columns: their names, in order.
    """

    @property
    def path(self) -> Path: ...  # noqa: D102 - see above
    @property
    def columns(self) -> tuple[str, ...]: ...  # noqa: D102 - see above

    def chunks(self, columns: Sequence[str], *, numbers: bool = False) -> Iterator[Sequence[Sequence[Any]]]:
        """Yield ``ROWS`` rows at a time, in the order of the file: the values of each of ``columns``.

        Args:
            columns: some of ``self.columns``.
            numbers: only numbers are asked for; None may stand for what is none.

        Raises:
            EnvironmentFault: the file is not what its name says.
        """
        ...


def read_keys(table: Table, columns: Sequence[str]) -> Iterator[Key]:
    """Yield the key of each row: the value of one column, or a tuple of several.

    Args:
        table: where from.
        columns: names, at least one.

    Raises:
        EnvironmentFault: the file is not what its name says.
        ParameterError: no column, or one that there is not.

    Guarantees:
        One key for each row, in the order of the file.
        Text comes as it is written there.
    """
    _check(table, columns)
    for chunk in table.chunks(columns):
        plain = [_plain(values) for values in chunk]
        yield from plain[0] if len(plain) == 1 else zip(*plain, strict=True)


def read_numbers(table: Table, columns: Sequence[str]) -> NDArray[np.float64]:
    """Return columns of finite numbers: float64, shape (rows, len(columns)).

    Args:
        table: where from.
        columns: names, at least one.

    Raises:
        EnvironmentFault: the file is not what its name says.
        InputRefused: a value is no finite number; the first such row is named.
        ParameterError: no column, or one that there is not.

    Guarantees:
        Row i is row i of the file.
        No more than one chunk is held beside what is returned.
    """
    _check(table, columns)
    read = np.empty((0, len(columns)))
    size = 0
    for chunk in table.chunks(columns, numbers=True):
        rows = len(chunk[0])
        if size + rows > len(read):
            # In place: no second copy of what was read so far is held by this process.
            read.resize((max(size + rows, len(read) * 5 // 4), len(columns)), refcheck=False)
        for at, (name, values) in enumerate(zip(columns, chunk, strict=True)):
            read[size : size + rows, at] = _numbers(table.path, name, values, first=size)
        size += rows
    read.resize((size, len(columns)), refcheck=False)
    return read


def check_names(path: Path, columns: Sequence[str]) -> None:
    """Refuse columns that cannot be told apart.

    Raises:
        ParameterError: two have one name, or one has none.
    """
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice or not all(columns):
        what = f"two columns {twice[0]}" if twice else "a column without a name"
        raise ParameterError(f"{path} has {what}; give each column a name of its own")


def _check(table: Table, columns: Sequence[str]) -> None:
    if not columns:
        raise ParameterError(f"name a column of {table.path}; it has {_names(table.columns)}")
    for name in columns:
        if name not in table.columns:
            raise ParameterError(f"{table.path} has no column {name}; it has {_names(table.columns)}")


def _names(columns: Sequence[str]) -> str:
    more = f" and {len(columns) - SHOWN} more" if len(columns) > SHOWN else ""
    return ", ".join(columns[:SHOWN]) + more


def _plain(values: Sequence[Any]) -> Sequence[Any]:
    """Return values as identifiers are made of; what is no identifier is refused where they are read."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    return [str(value) if isinstance(value, UUID | date | Decimal) else value for value in values]


def _numbers(path: Path, name: str, values: Sequence[Any], *, first: int) -> NDArray[np.float64]:
    try:
        read = np.asarray(values, dtype=np.float64)
        if np.isfinite(read).all():
            return read
    except (TypeError, ValueError):  # Its text quotes the value.
        pass
    row = next(at for at, value in enumerate(values) if not _is_number(value))
    raise InputRefused(
        "nan", f"{path}: column {name}, row {first + row} (counted from 0) has no finite number"
    ) from None


def _is_number(value: Any) -> bool:
    try:
        return bool(np.isfinite(np.float64(value)))
    except (TypeError, ValueError):
        return False
