"""Readers of tables: values as written, rows in the order of the file, and errors that say what to do."""

from __future__ import annotations

import sqlite3
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.errors import EnvironmentFault, InputRefused, MissingExtra, ParameterError
from silo.readers import open_table, read_keys, read_numbers
from silo.readers.table import ROWS
from tests.counts import count

duckdb = pytest.importorskip("duckdb")

KEYS = ["007", "a, b", " spaced ", 'q"uote', "Ünï", "8"]
INCOMES = [1.5, -2.0, 0.0, 1e300, 3.0, 4.25]
CELLS = ["007", '"a, b"', " spaced ", '"q""uote"', "Ünï", "8"]
AS_CSV = "id,income\n" + "\n".join(f"{cell},{value}" for cell, value in zip(CELLS, INCOMES, strict=True))


def as_csv(folder: Path) -> Path:
    path = folder / "it's [one] * of.csv"
    path.write_text(AS_CSV, encoding="utf-8-sig")
    return path


def as_semicolons(folder: Path) -> Path:
    path = folder / "a.csv"
    path.write_text(AS_CSV.replace("a, b", "a| b").replace(",", ";").replace("a| b", "a, b"), "utf-8")
    return path


def as_tabs(folder: Path) -> Path:
    path = folder / "a.TSV"
    lines = [f"{cell}\t{value}" for cell, value in zip(CELLS, INCOMES, strict=True)]
    path.write_text("\r\n".join(["id\tincome", *lines]) + "\r\n", encoding="utf-8", newline="")
    return path


def as_parquet(folder: Path) -> Path:
    path = folder / "a.parquet"
    with closing(duckdb.connect()) as database:
        database.execute("CREATE TABLE t (id VARCHAR, income DOUBLE)")
        database.executemany("INSERT INTO t VALUES (?, ?)", list(zip(KEYS, INCOMES, strict=True)))
        database.execute(f"COPY t TO '{path}'")
    return path


def as_npz(folder: Path) -> Path:
    path = folder / "a.npz"
    np.savez(path, id=np.array(KEYS), income=np.array(INCOMES))
    return path


def as_records(folder: Path) -> Path:
    path = folder / "a.npy"
    kind = [("id", "U20"), ("income", "f8")]
    np.save(path, np.array(list(zip(KEYS, INCOMES, strict=True)), dtype=kind))
    return path


FILES = [as_csv, as_semicolons, as_tabs, as_parquet, as_npz, as_records]


@pytest.mark.parametrize("write", FILES)
def test_text_comes_as_written_and_numbers_as_numbers(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    """Guarantees of ``read_keys`` and ``read_numbers``."""
    table = open_table(write(tmp_path))
    assert table.columns == ("id", "income")
    assert list(read_keys(table, ["id"])) == KEYS
    numbers = read_numbers(table, ["income"])
    assert numbers.dtype == np.float64
    np.testing.assert_array_equal(numbers, np.array(INCOMES)[:, None])


def as_sqlite(folder: Path) -> Path:
    path = folder / "a.sqlite"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE t (id TEXT, income REAL)")
        database.executemany("INSERT INTO t VALUES (?, ?)", list(zip(KEYS, INCOMES, strict=True)))
    return path


def as_duckdb(folder: Path) -> Path:
    path = folder / "a.duckdb"
    with closing(duckdb.connect(str(path))) as database:
        database.execute("CREATE TABLE t (id VARCHAR, income DOUBLE)")
        database.executemany("INSERT INTO t VALUES (?, ?)", list(zip(KEYS, INCOMES, strict=True)))
    return path


DATABASES = [(as_sqlite, "t"), (as_duckdb, "t"), (as_csv, "data"), (as_parquet, "data")]


@pytest.mark.parametrize(("write", "name"), DATABASES)
def test_a_query_says_which_rows_in_which_order(
    tmp_path: Path, write: Callable[[Path], Path], name: str
) -> None:
    # Of what is not ASCII each database has an order of its own.
    query = "SELECT income, id FROM NAME WHERE id < 'r' ORDER BY id DESC".replace("NAME", name)
    table = open_table(write(tmp_path), query=query)
    expected = sorted((key for key in KEYS if key < "r"), reverse=True)
    assert list(read_keys(table, ["id"])) == expected
    assert read_numbers(table, ["income"])[:, 0].tolist() == [INCOMES[KEYS.index(key)] for key in expected]


@pytest.mark.parametrize(("write", "name"), DATABASES)
@pytest.mark.parametrize(
    "query",
    [
        "DROP TABLE t",
        "INSERT INTO t VALUES ('9', 1.0)",
        "CREATE TABLE u AS SELECT 1",
        "SELECT 1 AS a; SELECT 2 AS a",
        "SELECT nothing FROM nowhere",
        "no query",
        "",
        "COPY (SELECT 1) TO 'FOLDER/written.csv'",
        "ATTACH 'FOLDER/other.db'",
        "PRAGMA writable_schema = 1",
        "SELECT id, id FROM NAME",
    ],
)
def test_a_query_reads_and_does_nothing_else(
    tmp_path: Path, write: Callable[[Path], Path], name: str, query: str
) -> None:
    path = write(tmp_path)
    before = path.read_bytes(), sorted(tmp_path.iterdir())
    with pytest.raises(ParameterError, match=r"query|two columns"):
        open_table(path, query=query.replace("NAME", name).replace("FOLDER", str(tmp_path)))
    assert (path.read_bytes(), sorted(tmp_path.iterdir())) == before


@pytest.mark.parametrize("write", [as_csv, as_duckdb])
@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_text('FOLDER/other.txt')",
        "SELECT * FROM read_csv('https://example.org/a.csv')",
        "SELECT * FROM 'FOLDER/other.csv'",
        "SELECT * FROM glob('FOLDER/*')",
        "SELECT * FROM secret",
    ],
)
def test_a_query_sees_one_file_and_nothing_else(
    tmp_path: Path, write: Callable[[Path], Path], query: str
) -> None:
    secret = duckdb.connect().execute("SELECT 1 AS a")  # A variable, which DuckDB would find by its name.
    assert secret is not None
    (tmp_path / "other.txt").write_text("not to be seen")
    (tmp_path / "other.csv").write_text("a\nnot to be seen\n")
    path = write(tmp_path)
    with pytest.raises(ParameterError, match="the query of"):
        open_table(path, query=query.replace("FOLDER", str(tmp_path)))


def test_keys_of_several_columns_are_tuples(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("branch,number\n01,7\n1,07\n")
    assert list(read_keys(open_table(path), ["number", "branch"])) == [("7", "01"), ("07", "1")]


def test_what_is_empty_is_no_identifier(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,x\n,1\n"",2\n7,3\n')
    assert list(read_keys(open_table(path), ["id"])) == [None, None, "7"]


def test_whole_numbers_dates_and_decimals_are_keys_in_a_typed_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with closing(duckdb.connect()) as database:
        database.execute(
            "COPY (SELECT 7::BIGINT AS n, DATE '2024-02-01' AS d, 12::DECIMAL(9, 0) AS e, 1.5::DOUBLE AS f) "
            "TO 'FILE'".replace("FILE", str(path))
        )
    table = open_table(path)
    assert list(read_keys(table, ["n", "d", "e", "f"])) == [(7, "2024-02-01", "12", 1.5)]


@pytest.mark.parametrize("kind", ["csv", "parquet", "npy"])
def test_rows_are_those_of_the_file_in_its_order(tmp_path: Path, kind: str) -> None:
    """Guarantees: over several chunks, and over what DuckDB reads on several threads."""
    size, path = 8 * ROWS + 5, tmp_path / f"a.{kind}"
    if kind == "npy":
        np.save(path, np.arange(size)[::-1])
        names = ["0"]
    else:
        names = ["id"]
        with closing(duckdb.connect()) as database:
            copy = "COPY (SELECT SIZE - 1 - i AS id FROM range(SIZE) t(i)) TO 'FILE'"
            database.execute(copy.replace("SIZE", str(size)).replace("FILE", str(path)))
    table = open_table(path)
    expected = range(size - 1, -1, -1)
    assert [int(str(key)) for key in read_keys(table, names)] == list(expected)
    np.testing.assert_array_equal(read_numbers(table, names)[:, 0], np.array(expected))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_nothing_is_taken_from_the_path(tmp_path: Path, kind: str) -> None:
    """DuckDB would read ``id=zzz`` as the value of a column for all rows."""
    path = tmp_path / "id=zzz" / f"a.{kind}"
    path.parent.mkdir()
    with closing(duckdb.connect()) as database:
        database.execute("COPY (SELECT '7' AS id, 2 AS x) TO 'FILE'".replace("FILE", str(path)))
    table = open_table(path)
    assert (table.columns, list(read_keys(table, ["id"]))) == (("id", "x"), ["7"])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(("name", "other"), [("a*", "ab"), ("a?", "ab"), ("a[b]", "ab")])
def test_a_name_that_stands_for_other_files_reads_none_of_them(
    tmp_path: Path, kind: str, name: str, other: str
) -> None:
    for stem in (name, other):
        with closing(duckdb.connect()) as database:
            database.execute("COPY (SELECT 1 AS id) TO 'FILE'".replace("FILE", str(tmp_path / f"x.{kind}")))
        (tmp_path / f"x.{kind}").rename(tmp_path / f"{stem}.{kind}")
    with pytest.raises(EnvironmentFault, match="rename it"):
        list(read_keys(open_table(tmp_path / f"{name}.{kind}"), ["id"]))


def test_blank_lines_are_no_rows_unless_there_is_one_column(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,x\n1,1\n\n2,2\n\n")
    assert list(read_keys(open_table(path), ["id"])) == ["1", "2"]
    path.write_text("id\n1\n\n2\n\n")
    assert list(read_keys(open_table(path), ["id"])) == ["1", None, "2", None]


@pytest.mark.parametrize("inside", ["a\nb", "a\r\nb", "a\rb", "\n"])
def test_a_quoted_line_break_moves_no_row(tmp_path: Path, inside: str) -> None:
    path = tmp_path / "a.csv"
    rows = 2 * ROWS
    lines = [f'"{inside}{row}",{row}' for row in range(rows)]
    path.write_text("\n".join(["id,x", *lines]), newline="")
    assert list(read_keys(open_table(path), ["id", "x"])) == [
        (f"{inside}{row}", str(row)) for row in range(rows)
    ]


def test_an_array_without_rows_is_a_table(tmp_path: Path) -> None:
    for shape in ((0,), (0, 1)):
        np.save(tmp_path / "a.npy", np.zeros(shape))
        assert list(read_keys(open_table(tmp_path / "a.npy"), ["0"])) == []


def test_memory_is_bounded_by_chunks(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3 * ROWS, 2)))
    table = open_table(tmp_path / "a.npy")
    assert [len(chunk[0]) for chunk in table.chunks(["0", "1"])] == [ROWS] * 3
    path = tmp_path / "a.csv"
    path.write_text("id\n" + "7\n" * (2 * ROWS + 1))
    assert [len(chunk[0]) for chunk in open_table(path).chunks(["id"])] == [ROWS, ROWS, 1]


@settings(max_examples=count(20, full=100))
@given(st.lists(st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1), max_size=20))
def test_any_text_survives_csv(tmp_path_factory: Any, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("any") / "a.csv"
    quoted = ['"' + text.replace('"', '""') + '"' for text in texts]
    path.write_text("\n".join(["id,x", *(f"{text},1" for text in quoted)]), encoding="utf-8")
    assert list(read_keys(open_table(path), ["id"])) == texts


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", FILES)
def test_a_column_that_there_is_not_is_named_beside_those_there_are(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    table = open_table(write(tmp_path))
    for read in (lambda names: list(read_keys(table, names)), lambda names: read_numbers(table, names)):
        with pytest.raises(ParameterError, match="has no column ID; it has id, income"):
            read(["ID"])
        with pytest.raises(ParameterError, match="name a column"):
            read([])


@pytest.mark.parametrize("bad", ["abc", "", "nan", "inf"])
def test_what_is_no_number_is_named_by_its_row(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,income\n" + "1,2.5\n" * (ROWS + 2) + f"1,{bad}\n1,2\n")
    with pytest.raises(InputRefused, match=f"column income, row {ROWS + 2} \\(counted from 0\\)") as caught:
        read_numbers(open_table(path), ["id", "income"])
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "error", "text"),
    [
        ("a.xlsx", b"", ParameterError, "none of the files that can be read"),
        ("a.csv", None, EnvironmentFault, "is not there"),
        ("a.npy", None, EnvironmentFault, "is not there"),
        ("a.csv", b"", EnvironmentFault, "is empty"),
        ("a.csv", b"\xff\xfeid\n", EnvironmentFault, "no UTF-8"),
        ("a.csv", b"id,id\n1,2\n", ParameterError, "two columns id"),
        ("a.csv", b"id,\n1,2\n", ParameterError, "without a name"),
        ("a.csv", b"id,ID\n1,2\n", ParameterError, "differ in case only"),
        ("a.csv", b"x" * (1 << 21), EnvironmentFault, "first line cannot be read"),
        ("a.parquet", b"no parquet", EnvironmentFault, "cannot be read as parquet"),
        ("a.npy", b"no array", EnvironmentFault, "is no .npy"),
        ("a.npz", b"no arrays", EnvironmentFault, "is no .npz"),
        ("a.duckdb", b"no database", ParameterError, "is a database"),
        ("a.sqlite", b"no database", ParameterError, "is a database"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    tmp_path: Path, name: str, content: bytes | None, error: type[Exception], text: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=text):
        open_table(path)


@pytest.mark.parametrize(
    "content",
    [b"id,x\n1,2\nMarked\n", b"id,x\n1,2\nMarked,3,4\n", b'id,x\n1,2\n"Marked,3\n', b"id,x\n\xff,Marked\n"],
)
def test_a_line_that_is_none_is_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(EnvironmentFault, match=r"a\.csv(, line \d)?(:| is no UTF-8)") as caught:
        list(read_keys(open_table(path), ["id"]))
    assert "Marked" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("write", "query"),
    [
        (as_sqlite, "SELECT CAST(CAST('Marked' AS BLOB) || x'ff' AS TEXT) AS id"),
        (as_sqlite, "SELECT json_extract('{}', 'Marked' || id) AS id FROM t"),
        (as_duckdb, "SELECT CAST('Marked' || id AS DATE) AS id FROM t"),
        (as_csv, "SELECT error('Marked' || id) AS id FROM data"),
    ],
)
def test_a_value_on_which_a_query_fails_is_not_shown(
    tmp_path: Path, write: Callable[[Path], Path], query: str
) -> None:
    with pytest.raises(EnvironmentFault, match="cannot be read") as caught:
        list(read_keys(open_table(write(tmp_path), query=query), ["id"]))
    assert "Marked" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        np.array(["2024-02-01"], "datetime64[ns]"),
        np.array([5], "timedelta64[s]"),
        np.array([1 + 2j]),
        np.array([((1, 2),)], dtype=[("0", [("a", "i4"), ("b", "i4")])]),
    ],
    ids=lambda values: values.dtype.kind,
)
def test_what_numpy_would_turn_into_other_numbers_is_refused(tmp_path: Path, values: Any) -> None:
    np.save(tmp_path / "a.npy", values)
    table = open_table(tmp_path / "a.npy")
    for read in (lambda: list(read_keys(table, ["0"])), lambda: read_numbers(table, ["0"])):
        with pytest.raises(InputRefused, match=r"column 0 is .* write it as text or numbers"):
            read()


def test_archives_that_are_damaged_or_hold_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, id=np.arange(1000))
    whole = path.read_bytes()
    for at in range(60, len(whole) - 200, 97):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with pytest.raises(EnvironmentFault, match=r"is no \.npz"):
            open_table(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "no array")
    with pytest.raises(ParameterError, match="must be one column"):
        open_table(path)


@pytest.mark.parametrize("name", ["a.duckdb", "a.sqlite"])
def test_a_database_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(EnvironmentFault, match="cannot be read as"):
        open_table(tmp_path / name, query="SELECT 1 AS a")


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros((2, 2, 2)), "3 dimensions"),
        (np.zeros(()), "0 dimensions"),
        (np.array([{"a": 1}]), "Python objects"),
    ],
)
def test_arrays_that_are_no_table_are_refused(tmp_path: Path, array: Any, text: str) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises((ParameterError, EnvironmentFault), match=text):
        open_table(tmp_path / "a.npy")


def test_columns_of_different_lengths_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(2), b=np.zeros(3))
    with pytest.raises(ParameterError, match="different lengths"):
        open_table(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", a=np.zeros((2, 2)))
    with pytest.raises(ParameterError, match="must be one column"):
        open_table(tmp_path / "b.npz")


def test_no_query_is_asked_of_arrays(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="no query"):
        open_table(as_npz(tmp_path), query="SELECT 1")


def test_without_duckdb_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "duckdb", None)
    monkeypatch.delitem(sys.modules, "silo.readers.duck", raising=False)
    with pytest.raises(MissingExtra, match=r"pip install 'secagg\[data\]'"):
        open_table(as_csv(tmp_path))
    assert list(read_keys(open_table(as_npz(tmp_path)), ["id"])) == KEYS
