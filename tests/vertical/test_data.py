"""The tables of the vertical example: who has what, what is held out, and what no loader takes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from examples.vertical.data import NAMES, Task, breast_cancer, caravan, digits, read_parquet, split
from secagg.errors import EnvironmentFault, InputRefused, MissingExtra, ParameterError
from secagg.vertical import Party, align

LOADERS: list[Callable[..., Task]] = [breast_cancer, digits]


def aucs(task: Task, *choices: Sequence[str]) -> list[float]:
    """Of a pooled model of the columns of each choice of parties, on the records held out."""
    train, test = align(task.train), align(task.test)
    found = []
    for names in choices:
        own, other = (np.hstack([part.features(name) for name in names]) for part in (train, test))
        model = LogisticRegression(max_iter=1000).fit(own, train.labels())
        found.append(float(roc_auc_score(test.labels(), model.decision_function(other))))
    return found


@pytest.mark.parametrize("parties", [2, 3])
@pytest.mark.parametrize("load", LOADERS)
def test_each_party_lacks_records_that_another_has(load: Callable[..., Task], parties: int) -> None:
    task = load(parties)
    for part in (task.train, task.test):
        assert tuple(party.name for party in part) == NAMES[:parties]
        assert [party.y is not None for party in part] == [True] + [False] * (parties - 1)
        shared = set.intersection(*(set(party.ids) for party in part))
        orders = []
        for party in part:
            assert len(set(party.ids)) == len(party.ids)
            assert 0.6 < len(shared) / len(party.ids) < 1
            orders.append([each for each in party.ids if each in shared])
        assert len({tuple(order) for order in orders}) == parties
    for train, test in zip(task.train, task.test, strict=True):
        assert train.columns == test.columns
        assert 0.15 < len(test.ids) / len(test.ids + train.ids) < 0.35
    columns = [column for party in task.train for column in party.columns]
    assert len(set(columns)) == len(columns)


def test_rows_of_all_parties_and_labels_are_of_one_record() -> None:
    """A pooled model is as good as on the table that was cut up."""
    assert aucs(breast_cancer(3), NAMES)[0] > 0.97
    together, alone = aucs(digits(), NAMES[:2], NAMES[:1])
    assert together > 0.93
    assert together > alone + 0.01


def test_the_same_seed_gives_the_same_task_and_another_does_not() -> None:
    one, same, other = (breast_cancer(seed=seed).train[1] for seed in (1, 1, 2))
    assert one.ids == same.ids
    np.testing.assert_array_equal(one.X, same.X)
    assert not set(one.ids) & set(other.ids)


def party(name: str, ids: Sequence[Any], seed: int = 0) -> Party:
    random = np.random.default_rng(seed)
    return Party(name, random.normal(3, 5, (len(ids), 2)), ids)


def test_a_record_is_held_out_at_all_parties_however_they_spell_it() -> None:
    bank = party("bank", [f"Kunde {at}" for at in range(400)])
    shop = party("shop", [f" kunde  {at}" for at in reversed(range(100, 500))])
    task = split("mine", [bank, shop], held_out=0.4)
    spelled = [{str(each).split()[-1] for each in part.ids} for part in (*task.train, *task.test)]
    assert not spelled[0] & spelled[3]
    assert not spelled[1] & spelled[2]
    assert 0.3 < len(task.test[0].ids) / 400 < 0.5


def test_columns_are_standardised_by_what_is_learned_from_alone() -> None:
    given = party("bank", list(range(300)))
    task = split("mine", [given])
    (train,), (test,) = task.train, task.test
    np.testing.assert_allclose(train.X.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(train.X.std(axis=0), 1)
    own = given.X[list(train.ids)]  # type: ignore[index]  # Identifiers are numbers of rows here.
    held = given.X[list(test.ids)]  # type: ignore[index]  # As above.
    np.testing.assert_allclose(test.X, (held - own.mean(axis=0)) / own.std(axis=0))


def test_what_never_changes_is_no_column_and_who_is_nobody_no_row() -> None:
    ids = [None, *range(1, 100)]
    given = Party("bank", np.column_stack([np.arange(100.0), np.full(100, 0.1)]), ids, columns=["a", "b"])
    task = split("mine", [given])
    assert task.train[0].columns == task.test[0].columns == ("a",)
    assert sorted(task.train[0].ids + task.test[0].ids) == list(range(1, 100))  # type: ignore[type-var]  # Numbers all.


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: breast_cancer(absent=1.0), "absent is 1.0"),
        (lambda: breast_cancer(held_out=0.0), "held_out is 0.0"),
        (lambda: breast_cancer(parties=4), "parties is 4"),  # type: ignore[arg-type]  # That is refused.
        (lambda: breast_cancer(seed=-1), "seed is -1"),
        (lambda: split("mine", [party("bank", ["a"])], seed=-1), "seed is -1"),
        (lambda: split("mine", [party("bank", ["a"])]), "bank: . records to learn from"),
    ],
)
def test_what_makes_no_task_is_refused(call: Callable[[], Task], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        call()


HEADER = [f"M{at}" for at in range(43)] + [f"P{at}" for at in range(42)] + ["Purchase"]


def caravan_of(folder: Path, rows: list[list[Any]]) -> None:
    """An ISLP whose file is small and that must not be imported."""
    (folder / "ISLP" / "data").mkdir(parents=True)
    (folder / "ISLP" / "__init__.py").write_text("raise ImportError('torch is not installed')")
    lines = [",".join(map(str, row)) for row in [HEADER, *rows]]
    (folder / "ISLP" / "data" / "Caravan.csv").write_text("\n".join(lines) + "\n")


def test_caravan_is_cut_into_people_and_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    caravan_of(tmp_path, [[*random.integers(0, 9, 85), "Yes" if at % 4 == 0 else "No"] for at in range(200)])
    monkeypatch.syspath_prepend(str(tmp_path))
    task = caravan()
    bank, insurer = task.train
    assert (bank.name, bank.columns) == ("bank", tuple(HEADER[:43]))
    assert (insurer.name, insurer.columns) == ("insurer", tuple(HEADER[43:-1]))
    assert bank.y is None
    assert insurer.y is not None
    assert set(insurer.y) == {0.0, 1.0}
    assert "ISLP" not in sys.modules
    (tmp_path / "ISLP" / "data" / "Caravan.csv").write_text("a,b\nx,y\n")
    with pytest.raises(EnvironmentFault, match=r"Caravan\.csv cannot be read"):
        caravan()


def test_caravan_names_the_command_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("examples.vertical.data.find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault, match="Type: pip install --no-deps ISLP"):
        caravan()


@pytest.mark.skipif(find_spec("ISLP") is None, reason="ISLP is not installed")
def test_the_caravan_that_ships() -> None:
    task = caravan(absent=0)
    labels = [each.y for each in (task.train[1], task.test[1]) if each.y is not None]
    assert sum(len(each) for each in labels) == 5822
    assert sum(each.sum() for each in labels) == 348
    together, alone = aucs(task, ["bank", "insurer"], ["bank"])
    assert together > 0.7
    assert together > alone


def test_parquet_names_the_command_when_duckdb_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(MissingExtra, match=r"secagg\[data\]"):
        read_parquet("bank", "bank.parquet", ids="customer")


def parquet(path: Path, query: str) -> Path:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as connection:
        connection.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
    return path


def test_a_file_of_your_own_is_a_party(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "bank.parquet",
        "SELECT * FROM (VALUES ('a', 1, 2.5, true), ('b', 2, 3.5, false), (NULL, 3, 4.5, true)) "
        "AS bank(customer, branch, balance, churned)",
    )
    bank = read_parquet("bank", path, ids="customer", y="churned")
    assert bank.ids == ("a", "b", None)
    assert bank.columns == ("branch", "balance")
    np.testing.assert_array_equal(bank.X, [[1, 2.5], [2, 3.5], [3, 4.5]])
    assert bank.y is not None
    assert bank.y.tolist() == [1, 0, 1]
    assert read_parquet("bank", path, ids=["branch", "customer"]).ids[0] == (1, "a")


@pytest.mark.parametrize(
    ("values", "error", "text"),
    [
        ("('a', 'x')", InputRefused, "column 'balance' does not hold numbers"),
        ("('a', NULL::INTEGER)", InputRefused, "not a finite number"),
    ],
)
def test_a_column_that_is_not_of_numbers_is_refused(
    tmp_path: Path, values: str, error: type[Exception], text: str
) -> None:
    path = parquet(tmp_path / "bank.parquet", f"FROM (VALUES {values}) AS bank(customer, balance)")
    with pytest.raises(error, match=text):
        read_parquet("bank", path, ids="customer")
    with pytest.raises(ParameterError, match=r"no column 'client'.*: customer, balance"):
        read_parquet("bank", path, ids="client")
    (tmp_path / "other.parquet").write_text("customer,balance\na,1\n")
    with pytest.raises(EnvironmentFault, match=r"other\.parquet cannot be read as Parquet$"):
        read_parquet("bank", tmp_path / "other.parquet", ids="customer")
