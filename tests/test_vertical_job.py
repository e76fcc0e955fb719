"""``job.toml`` of a vertical job: what is taken, what is refused with its line, and what is the same job."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from coordinator.job_file import JobFile
from secagg.errors import ParameterError
from secagg.vertical.linear.regression import LinearRegression, LogisticRegression
from secagg.vertical.split.settings import SplitSettings
from secagg.vertical.trees.boosting import GradientBoosting
from silo.split_torch import TorchNetworks
from silo.vertical.job_file import (
    NETWORKS,
    LinearTable,
    LogisticTable,
    SplitTable,
    TreesTable,
    VerticalJob,
)

JOB = """\
kind = "vertical"
name = "churn"
parties = ["bank", "insurer"]
label_party = "insurer"

[alignment]
duplicates = "first"

[trees]
trees = 7

[prediction]
to = "bank"
"""


def load(folder: Path, text: str) -> VerticalJob:
    (folder / "job.toml").write_text(text, encoding="utf-8")
    return VerticalJob.load(folder / "job.toml")


def test_a_right_file_loads(tmp_path: Path) -> None:
    job = load(tmp_path, JOB)
    assert (job.name, job.parties, job.label_party) == ("churn", ("bank", "insurer"), "insurer")
    assert job.scores_to == "bank"
    assert job.alignment.duplicates == "first"
    assert job.trees is not None
    assert job.trees.settings().trees == 7


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"vertical"', '"horizontal"', "line 1: kind must be one of vertical"),
        ('"churn"', '"../churn"', "line 2: name: silo name '../churn': 1 to 64 of letters"),
        ('"churn"', '".churn"', "line 2: name: a vertical job's name has at most 48 characters"),
        ('"churn"', f'"{"c" * 49}"', "line 2: name: a vertical job's name has at most 48 characters"),
        (', "insurer"]', "]", "line 3: parties has 1 entries, must have at least 2"),
        ('["bank", "insurer"]', '["bank", "bank", "insurer"]', "line 1: parties names one twice"),
        ('["bank", "insurer"]', '["bank", "in surer"]', "line 3: parties 2: silo name 'in surer'"),
        ('label_party = "insurer"', 'label_party = "shop"', "label_party is none of the parties"),
        ('label_party = "insurer"', "", "line 1: label_party is missing"),
        ('label_party = "insurer"', 'labelparty = "insurer"', "did you mean label_party?"),
        ('to = "bank"', 'to = "shop"', r"\[prediction\] to is none of the parties: bank, insurer"),
        ('duplicates = "first"', 'duplicates = "last"', "line 7: alignment.duplicates must be one of refuse"),
        ('duplicates = "first"', "smallest = -1", "line 7: alignment.smallest is -1, must be at least 0"),
        ('["bank", "insurer"]', '["bank", "insurer", "c", "d", "e", "f"]', "line 3: parties has 6 entries"),
        ("trees = 7", "trees = 0", "line 9: trees: trees is 0, must be at least 1"),
        ("trees = 7", "dept = 3", r"line 10: dept is no key of \[trees\]; did you mean depth?"),
        ("trees = 7", "data = 'customers.parquet'", r"line 10: data is no key of \[trees\]; known are"),
        ("[trees]\ntrees = 7\n", "", r"one of .*\[trees\].* says how the parties learn; here is none"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in JOB
    with pytest.raises(ParameterError, match=expected):
        load(tmp_path, JOB.replace(old, new, 1))


def test_what_three_parties_cannot_compute_is_said_before_they_meet(tmp_path: Path) -> None:
    three = JOB.replace('"insurer"]', '"insurer", "shop"]').replace(
        "[trees]\ntrees = 7", '[logistic]\ndegree = 3\nlink = "open"'
    )
    assert load(tmp_path, three).logistic is not None  # The open link needs no polynomial.
    with pytest.raises(ParameterError, match="degree 3 multiplies sums of 3 parties"):
        load(tmp_path, three.replace('link = "open"', ""))


def test_a_job_of_many_silos_is_sent_to_the_coordinator(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="is started by: coordinator run start"):
        load(tmp_path, JOB.replace('kind = "vertical"\n', ""))


def test_the_coordinator_sends_a_vertical_job_to_the_silos(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(JOB, encoding="utf-8")
    with pytest.raises(ParameterError, match=r"Every party types: silo vertical fit job.toml --data"):
        JobFile.load(tmp_path / "job.toml")


def test_the_digest_is_of_what_the_file_says_and_not_of_how(tmp_path: Path) -> None:
    digest = load(tmp_path, JOB).digest
    assert len(digest) == 32
    alike = (
        JOB + "# a remark\n",
        JOB.replace("trees = 7", "depth = 4\ntrees = 7"),  # The default.
        JOB.replace('duplicates = "first"', 'case = "fold"\nduplicates = "first"'),
    )
    for text in alike:
        assert load(tmp_path, text).digest == digest
    for old, new in (
        ('"churn"', '"churn2"'),
        ('["bank", "insurer"]', '["insurer", "bank"]'),
        ('label_party = "insurer"', 'label_party = "bank"'),
        ('"first"', '"drop"'),
        ("trees = 7", "trees = 8"),
        ('to = "bank"', 'to = "insurer"'),
    ):
        assert load(tmp_path, JOB.replace(old, new, 1)).digest != digest


def test_scores_go_to_the_label_party_where_nobody_is_named(tmp_path: Path) -> None:
    unnamed = load(tmp_path, JOB.replace('to = "bank"', ""))
    assert unnamed.scores_to == "insurer"
    assert unnamed.digest == load(tmp_path, JOB.replace('to = "bank"', 'to = "insurer"')).digest


def defaults(table: type[BaseModel]) -> dict[str, Any]:
    return {name: field.default for name, field in table.model_fields.items()}


def parameters(of: Any) -> dict[str, Any]:
    return {name: each.default for name, each in inspect.signature(of).parameters.items()}


def test_tables_have_the_parameters_of_python_and_their_defaults() -> None:
    # But for the link: what shows a partner's columns is asked for by name.
    assert defaults(LogisticTable) == parameters(LogisticRegression) | {"link": "poly"}
    assert defaults(LinearTable) == parameters(LinearRegression)
    assert defaults(TreesTable) == parameters(GradientBoosting)
    networks = {name: default for name, default in parameters(TorchNetworks).items() if name in NETWORKS}
    assert defaults(SplitTable) == parameters(SplitSettings) | networks
