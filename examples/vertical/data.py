"""Records of which two or three parties hold different columns: Caravan, breast cancer, digits, your own.

What it is: tables that ship inside packages, cut by columns, and your own Parquet files. Every record gets a
made-up identifier; every party lacks some records that others have and keeps the rest in an order of its own,
so that parties have to find what they share. Each standardises its columns by itself. Which records are
held out depends on a seed and the identifier, so that parties agree on it without a word.

What it does not do: it downloads nothing, and fills in no value that lacks. Who lacks which records is drawn;
what the records say is not.

Source: van der Putten and van Someren 2000, "CoIL Challenge 2000: The Insurance Company Case" (Caravan, as
ISLP ships it); Wolberg, Street and Mangasarian 1995 (breast cancer); Alpaydin and Kaynak 1998 (digits).
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from secagg.errors import EnvironmentFault, InputRefused, MissingExtra, ParameterError
from secagg.names import SiloId
from secagg.psi.identifiers import Key, read_identifiers
from secagg.ranges import whole
from secagg.vertical import Party

Parties = Literal[2, 3]
NAMES: tuple[SiloId, ...] = ("hospital", "laboratory", "registry")
"""Of two or three parties among which a table is shared out; the first has the labels."""

DEMOGRAPHIC = 43
"""Columns of Caravan that say who lives in a customer's postcode; the 42 others, which policies one holds."""


@dataclass(frozen=True, eq=False)
class Task:
    """What parties learn from and what they are measured on.

    Attributes:
        title: of the table.
        train: what each party holds of the records to learn from.
        test: what the same parties, in the same order and with the same columns, hold of the others.
    """

    title: str
    train: tuple[Party, ...]
    test: tuple[Party, ...]


def caravan(*, absent: float = 0.1, held_out: float = 0.25, seed: int = 0) -> Task:
    """Return Caravan: 5,822 customers of an insurer, 348 of whom insured a caravan; that is the label.

    A bank has the 43 socio-demographic columns, an insurer the 42 columns of policies and the label.

    Args:
        absent: of all customers, the part that each party lacks, from 0 to below 1.
        held_out: of all customers, the part that is not learned from, between 0 and 1.
        seed: from 0; of both, and of identifiers and orders.

    Raises:
        EnvironmentFault: ISLP is not installed; the text has the command to type.
        ParameterError: out of range.
    """
    # Asking where a package lies does not import it: ISLP would bring torch and lightning.
    spec = find_spec("ISLP")
    if spec is None or not spec.submodule_search_locations:
        raise EnvironmentFault(
            "Caravan ships inside ISLP, which is not installed. Type: pip install --no-deps ISLP "
            "(one file of it is read; what else it would install is not needed)"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / "data" / "Caravan.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        numbers = np.array([row[:-1] for row in rows], np.float64)
    except (OSError, ValueError) as error:
        raise EnvironmentFault(f"{path} cannot be read: {error}") from error
    bought = np.array([row[-1] == "Yes" for row in rows], np.float64)
    cut = {"bank": slice(0, DEMOGRAPHIC), "insurer": slice(DEMOGRAPHIC, len(header) - 1)}
    parties = _scattered(cut, numbers, header[:-1], bought, "insurer", absent, seed)
    return split("Caravan", parties, held_out=held_out, seed=seed)


def breast_cancer(
    parties: Parties = 2, *, absent: float = 0.1, held_out: float = 0.25, seed: int = 0
) -> Task:
    """Return scikit-learn's breast cancer: 569 tumours, 30 columns, label 1 for a benign one.

    Args:
        parties: 2 with 15 columns each, or 3 with 10.
        absent: see ``caravan``.
        held_out: see ``caravan``.
        seed: see ``caravan``.

    Raises:
        MissingExtra: scikit-learn is not installed.
        ParameterError: out of range.
    """
    table = _sklearn().load_breast_cancer()
    return _shared_out("breast cancer", table, table.target, parties, absent, held_out, seed)


def digits(parties: Parties = 2, *, absent: float = 0.1, held_out: float = 0.25, seed: int = 0) -> Task:
    """Return scikit-learn's digits: 1,797 images of 8 x 8 pixels, label 1 for an odd digit.

    Every party has strips of all images, from the left to the right. Pixels that never change are left out.

    Args:
        parties: 2 or 3.
        absent: see ``caravan``.
        held_out: see ``caravan``.
        seed: see ``caravan``.

    Raises:
        MissingExtra: scikit-learn is not installed.
        ParameterError: out of range.
    """
    table = _sklearn().load_digits()
    strips = np.arange(64).reshape(8, 8).T.ravel()
    table.data = table.data[:, strips]
    table.feature_names = [table.feature_names[pixel] for pixel in strips]
    return _shared_out("digits", table, table.target % 2, parties, absent, held_out, seed)


def read_parquet(
    name: SiloId, path: str | os.PathLike[str], *, ids: str | Sequence[str], y: str | None = None
) -> Party:
    """Read what one party holds from a Parquet file of its own; put the parties into ``split``.

    Args:
        name: of the party.
        path: the file.
        ids: the column of identifiers; several for a composite key.
        y: the column of labels, at the one party that has them. All others are what it learns from.

    Raises:
        EnvironmentFault: the file cannot be read.
        InputRefused: a column is not of numbers, or lacks a value.
        MissingExtra: DuckDB is not installed.
        ParameterError: the file has no such column.
    """
    try:
        duckdb: Any = import_module("duckdb")
    except ModuleNotFoundError as missing:
        raise MissingExtra("data", "duckdb") from missing
    try:
        with duckdb.connect() as connection:
            table: dict[str, NDArray[Any]] = connection.read_parquet(os.fspath(path)).fetchnumpy()
    except duckdb.Error:
        # No text of DuckDB's: it may quote a value.
        raise EnvironmentFault(f"{os.fspath(path)} cannot be read as Parquet") from None
    keys = (ids,) if isinstance(ids, str) else tuple(ids)
    for wanted in (*keys, *([] if y is None else [y])):
        if wanted not in table:
            raise ParameterError(f"{name}: no column {wanted!r} in {os.fspath(path)}: {', '.join(table)}")
    columns = [column for column in table if column not in keys and column != y]
    for column in [*columns, *([] if y is None else [y])]:
        if table[column].dtype.kind not in "biuf":
            raise InputRefused("dtype", f"{name}: column {column!r} does not hold numbers; encode or drop it")
        # A masked array's values under the mask are anything.
        table[column] = np.ma.filled(table[column].astype(np.float64), np.nan)
    found: list[list[Any]] = [table[key].tolist() for key in keys]
    return Party(
        name,
        np.column_stack([table[column] for column in columns]) if columns else np.empty((len(found[0]), 0)),
        found[0] if len(found) == 1 else zip(*found, strict=True),
        y=None if y is None else table[y],
        columns=columns,
    )


def split(title: str, parties: Iterable[Party], *, held_out: float = 0.25, seed: int = 0) -> Task:
    """Hold records out and standardise columns, as each party can by itself.

    Args:
        title: of the table.
        parties: each with all that it holds. Rows without an identifier are left out.
        held_out: see ``caravan``.
        seed: from 0; all parties use the same.

    Raises:
        InputRefused: an identifier is none, or comes twice.
        ParameterError: out of range, or a party has nothing to learn from or nothing held out.

    Guarantees:
        A record is held out at all parties or at none, however they spell its identifier.
        Of what a party learns from, every column has mean 0 and variance 1; those held out are shifted and
        scaled as these. A column that is the same in all of it is left out.
    """
    if not 0 < held_out < 1:
        raise ParameterError(f"held_out is {held_out}, must be between 0 and 1")
    whole("seed", seed, least=0)
    pairs = [_split(party, held_out, seed) for party in parties]
    return Task(title, tuple(train for train, _ in pairs), tuple(test for _, test in pairs))


def _split(party: Party, held_out: float, seed: int) -> tuple[Party, Party]:
    known = read_identifiers(party.ids, name=party.name)
    salt = b"held out" + seed.to_bytes(8, "big")
    hashes = (hashlib.sha256(salt + encoded).digest() for encoded in known.encoded)
    out = np.array([int.from_bytes(each[:6], "big") < held_out * 2**48 for each in hashes], bool)
    learned, kept = known.rows[~out], known.rows[out]
    if not len(learned) or not len(kept):
        raise ParameterError(f"{party.name}: {len(learned)} records to learn from, {len(kept)} held out")
    mean, scale = party.X[learned].mean(axis=0), party.X[learned].std(axis=0)
    varies = np.flatnonzero(np.ptp(party.X[learned], axis=0))
    columns = (party.X[:, varies] - mean[varies]) / scale[varies]

    def part(rows: NDArray[np.int64]) -> Party:
        return Party(
            party.name,
            columns[rows],
            [party.ids[row] for row in rows],
            None if party.y is None else party.y[rows],
            columns=[party.columns[at] for at in varies],
        )

    return part(learned), part(kept)


def _shared_out(
    title: str, table: Any, labels: ArrayLike, parties: Parties, absent: float, held_out: float, seed: int
) -> Task:
    """Cut a table of scikit-learn's into blocks of neighbouring columns, one for each party."""
    if parties not in (2, 3):
        raise ParameterError(f"parties is {parties}, must be 2 or 3")
    names = [str(name) for name in table.feature_names]
    ends = [len(names) * at // parties for at in range(parties + 1)]
    cut = {NAMES[at]: slice(ends[at], ends[at + 1]) for at in range(parties)}
    scattered = _scattered(cut, table.data, names, labels, NAMES[0], absent, seed)
    return split(title, scattered, held_out=held_out, seed=seed)


def _scattered(
    cut: dict[SiloId, slice],
    numbers: NDArray[np.float64],
    names: Sequence[str],
    labels: ArrayLike,
    label_party: SiloId,
    absent: float,
    seed: int,
) -> list[Party]:
    """Give each party its columns of the records that it does not lack, in an order of its own."""
    if not 0 <= absent < 1:
        raise ParameterError(f"absent is {absent}, must be from 0 to below 1")
    random = np.random.default_rng(whole("seed", seed, least=0))  # Who lacks what, and made-up identifiers.
    ids: list[Key] = [f"C-{number:08d}" for number in random.choice(10**8, len(numbers), replace=False)]
    parties = []
    for party, columns in cut.items():
        rows = random.permutation(len(numbers))[: round(len(numbers) * (1 - absent))]
        parties.append(
            Party(
                party,
                numbers[rows, columns],
                [ids[row] for row in rows],
                np.asarray(labels)[rows] if party == label_party else None,
                columns=names[columns],
            )
        )
    return parties


def _sklearn() -> Any:
    try:
        return import_module("sklearn.datasets")
    except ModuleNotFoundError as missing:
        raise MissingExtra("examples", "scikit-learn") from missing
