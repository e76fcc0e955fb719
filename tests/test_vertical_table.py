"""What a party of a vertical job reads and writes by itself: its table, its scores, and what it is told."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from secagg.errors import EnvironmentFault, InputRefused, ParameterError
from secagg.psi.identifiers import Rule
from silo.meeting import Progress, State
from silo.progress import QUIET, Telling
from silo.readers import open_table, read_numbers
from silo.target import check_target
from silo.vertical.scores import KINDS, write_scores
from silo.vertical.table import OwnTable, check_labels, read_own

ROWS = {
    "key": np.array(["a", "B", "c", "d"]),
    "age": np.array([30, 40, 50, 60]),
    "debt": np.array([0.5, 1.5, -1.0, 0.0]),
    "word": np.array(["x", "y", "z", "w"]),
    "gaps": np.array([1.0, np.nan, 2.0, 3.0]),
    "left": np.array([0, 1, 1, 0]),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    np.savez(tmp_path / "own.npz", **ROWS)  # type: ignore[arg-type] # its stubs take named arrays for flags
    return tmp_path / "own.npz"


def own(path: Path, **changed: Any) -> OwnTable:
    given: dict[str, Any] = {"query": None, "ids": ["key"], "label": None, "columns": None}
    return read_own(path, **given | {"rule": Rule(), "duplicates": "refuse"} | changed)


def test_columns_labels_and_identifiers_are_read(path: Path) -> None:
    table = own(path, label="left", columns=["debt", "age"])
    np.testing.assert_array_equal(table.X, np.column_stack([ROWS["debt"], ROWS["age"]]))
    np.testing.assert_array_equal(table.y, ROWS["left"])
    assert table.columns == ("debt", "age")
    assert len(table.identifiers) == 4
    composite = own(path, ids=["key", "age"], columns=["debt"])
    assert composite.y is None
    assert len(composite.identifiers) == 4


@pytest.mark.parametrize(
    ("changed", "kind", "said"),
    [
        ({"columns": ["debts"]}, ParameterError, "no column debts"),
        ({"ids": ["keys"], "columns": ["debt"]}, ParameterError, "no column keys"),
        ({"label": "gone", "columns": ["debt"]}, ParameterError, "no column gone"),
        ({"label": "key", "columns": ["debt"]}, ParameterError, "named twice"),
        ({"label": "left", "columns": ["left"]}, ParameterError, "named twice"),
        ({"columns": ["debt", "key"]}, ParameterError, "named twice"),
        ({"columns": ["debt", "debt"]}, ParameterError, "named twice"),
        ({"columns": ["debt", "gaps"]}, InputRefused, "column gaps, row 1"),
        ({"columns": None}, InputRefused, "name the other columns with --columns"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(
    path: Path, changed: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said) as refused:
        own(path, **changed)
    assert "x" not in str(refused.value).replace(str(path), "").split()  # No value.


def test_another_table_has_another_digest_and_a_secret_hides_it(path: Path) -> None:
    table = own(path, columns=["debt"], label="left")
    secret = bytes(32)
    assert table.digest(secret) == own(path, columns=["debt"], label="left").digest(secret)
    others = [own(path, columns=["age"], label="left"), own(path, columns=["debt"])]
    others.append(own(path, columns=["debt"], label="left", ids=["word"]))
    digests = {table.digest(secret), table.digest(bytes([1]) * 32), *(each.digest(secret) for each in others)}
    assert len(digests) == 5
    assert "0.5" not in repr(table)


def test_labels_are_two_classes_or_differ() -> None:
    check_labels("left", np.array([0.0, 1.0]), binary=True)
    check_labels("sum", np.array([0.5, 7.0]), binary=False)
    for labels, binary in (([0.0, 2.0], True), ([1.0, 1.0], True), ([3.0, 3.0], False), ([], False)):
        with pytest.raises(InputRefused, match="the label left") as refused:
            check_labels("left", np.array(labels), binary=binary)
        assert refused.value.rule == "table"


# --- scores -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_scores_are_read_as_they_were_written(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"it's scores.{ending}"
    rows, scores = np.array([0, 3, 7]), np.array([0.1, 1e-300, 2 / 3])
    for _ in range(2):  # Also in the place of its own, when the process was killed.
        write_scores(path, rows, scores)
    read = read_numbers(open_table(path), ["row", "score"])
    np.testing.assert_array_equal(read[:, 0], rows)
    np.testing.assert_array_equal(read[:, 1], scores)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    if ending == "csv":
        header, *_ = csv.reader(path.read_text(encoding="utf-8").splitlines())
        assert header == ["row", "score"]


def test_scores_that_cannot_be_written_are_refused_before_they_are_computed(tmp_path: Path) -> None:
    data = tmp_path / "own.csv"

    def check(path: Path, *, new: bool = True) -> None:
        check_target(path, what="scores", kinds=KINDS, data=data, new=new)

    check(tmp_path / "scores.csv")
    with pytest.raises(ParameterError, match=r"scores are written as .csv, .parquet"):
        check(tmp_path / "scores.npy")
    with pytest.raises(EnvironmentFault, match="is no folder"):
        check(tmp_path / "gone" / "scores.csv")
    data.touch()
    (tmp_path / "linked.csv").symlink_to(data)
    for path in (data, tmp_path / "linked.csv"):
        with pytest.raises(ParameterError, match="is what --data names"):
            check(path, new=False)
    (tmp_path / "scores.csv").touch()
    check(tmp_path / "scores.csv", new=False)
    with pytest.raises(EnvironmentFault, match="is there already"):
        check(tmp_path / "scores.csv")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        write_scores(tmp_path / "gone" / "scores.csv", np.array([0]), np.array([0.5]))


# --- what is told -------------------------------------------------------------------------------------------


def stand(state: State, *missing: str) -> Progress:
    return Progress(state, datetime.now(UTC), missing, {"bank": 5}, {"bank": 7})


def test_without_a_terminal_lines_are_few_and_plain() -> None:
    now, written = 0.0, StringIO()
    with Telling(Console(file=written, force_terminal=False), stopped="go on", clock=lambda: now) as telling:
        telling.watch(stand("waiting", "bank"))
        telling.watch(stand("waiting", "bank"))
        telling.watch(stand("at work"))
        for step in range(1, 9):
            telling.moved("training", f"step {step}")
            now += QUIET / 4
        telling.watch(stand("waiting"))
        for _ in range(2):
            telling.watch(stand("waiting", "bank"))
        telling.say("kept", "[bold]as it stands[/]")
    assert written.getvalue().splitlines() == [
        "waiting   for bank",
        "training  step 1",
        "training  step 5",
        "waiting   for all to meet again",
        "waiting   for bank",
        "kept      [bold]as it stands[/]",
    ]


def test_on_a_terminal_it_is_one_live_line_below_what_stays() -> None:
    written = StringIO()
    with Telling(Console(file=written, force_terminal=True, width=60), stopped="go on") as telling:
        telling.points(1024)
        telling.watch(stand("at work"))
        telling.say("kept", "a part")
    assert "kept      a part" in written.getvalue()
    assert "\x1b[" in written.getvalue()
