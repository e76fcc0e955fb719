"""One party of vertical learning: its columns, its identifiers and, at one of them, the labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from secagg.errors import InputRefused, ParameterError
from secagg.names import RealVector, SiloId
from secagg.psi.identifiers import Key
from secagg.roster import check_silo


class Party:
    """What one party holds. Its repr shows sizes only.

    Args:
        name: of the party; as a silo's.
        X: its columns, finite numbers, shape (rows, columns). A data frame's column names are taken.
        ids: an identifier for each row; see ``secagg.psi.identifiers.read_identifiers``.
        y: a label for each row, finite, at the one party that has them; None elsewhere, and at all parties
            where scores are all that is wanted.
        columns: names of the columns; by default those of ``X``, or ``x0``, ``x1``, ...

    Raises:
        InputRefused: a value is not finite, or shapes do not fit.
        ParameterError: a name that no party can have, or names of other columns than there are.

    Attributes:
        name, X, y, columns: as given; ``X`` is float64, C-contiguous and read-only, ``y`` float64.
        ids: as given, a tuple.
    """

    def __init__(
        self,
        name: SiloId,
        X: ArrayLike,  # noqa: N803 - the field's name for a matrix of features.
        ids: Iterable[Key],
        y: ArrayLike | None = None,
        *,
        columns: Iterable[str] | None = None,
    ) -> None:
        check_silo(name)
        self.name = name
        self.X = _numbers(name, "X", X)
        if self.X.ndim != 2 or not self.X.size:
            raise InputRefused("shape", f"{name}: X has shape {self.X.shape}, must be (rows, columns)")
        self.ids: tuple[Key, ...] = tuple(ids)
        if len(self.ids) != len(self.X):
            raise InputRefused(
                "shape", f"{name}: {len(self.ids)} identifiers for {len(self.X)} rows of X; one each"
            )
        self.y: RealVector | None = None if y is None else _numbers(name, "y", y)
        if self.y is not None and self.y.shape != (len(self.X),):
            raise InputRefused("shape", f"{name}: y has shape {self.y.shape}, must be ({len(self.X)},)")
        named: Any = getattr(X, "columns", None) if columns is None else columns
        width = self.X.shape[1]
        self.columns = tuple(f"x{at}" for at in range(width)) if named is None else tuple(map(str, named))
        if len(self.columns) != width or len(set(self.columns)) != width:
            raise ParameterError(f"{name}: {width} columns need as many names, each once")

    def __repr__(self) -> str:
        rows, columns = self.X.shape
        return f"Party({self.name!r}, rows={rows}, columns={columns}, labels={self.y is not None})"


def _numbers(name: SiloId, what: str, given: ArrayLike) -> NDArray[np.float64]:
    try:
        # No text of what came: it may quote a value.
        array = np.array(given, dtype=np.float64, order="C")
    except (TypeError, ValueError):
        raise InputRefused("dtype", f"{name}: {what} must be numbers") from None
    if not np.isfinite(array).all():
        raise InputRefused("nan", f"{name}: {what} has a value that is not a finite number")
    array.flags.writeable = False
    return array
