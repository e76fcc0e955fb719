"""What ``silo psi`` checks before it meets anybody, and what it writes and says at the end."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from typer.testing import CliRunner

from coordinator.development import write_development_federation
from secagg.errors import EnvironmentFault, InputRefused, ParameterError, PolicyRefused
from secagg.psi.identifiers import Rule
from secagg.psi.many.terms import ManyTerms
from secagg.psi.outcome import Outcome
from secagg.psi.terms import IntersectionTerms
from silo.checks import findings
from silo.cli import app
from silo.config import Intersections, SiloConfig
from silo.psi import run
from silo.psi.queries import QueryFile
from silo.psi.rows import write_rows
from silo.psi.run import Found, Request, prepared, read, refused, told
from silo.psi.session import folder_of

duckdb = pytest.importorskip("duckdb")

SILOS = ("bank", "insurer", "shop")
ROWS = np.array([7, 0, 3], np.int64)
NOW = datetime(2024, 2, 1, tzinfo=UTC)
SECTION = '\n[intersections]\npartners = ["insurer", "shop"]\n'


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("silos") / "federation"
    write_development_federation(folder, SILOS)
    return folder


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    """A command configures the logs of its process, which here has other tests."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def bank(written: Path) -> Any:
    path = written / "silos" / "bank" / "silo.toml"
    text = path.read_text()
    path.write_text(text + SECTION)
    yield path
    path.write_text(text)


def request(folder: Path, **changes: Any) -> Request:
    data = folder / "customers.csv"
    data.write_text("branch,customer\n1,07\n1,\n2,7\n2,07\n")
    given: dict[str, Any] = {
        "name": "march",
        "partners": ("insurer",),
        "data": data,
        "columns": ("customer",),
        "rule": Rule(),
        "out": folder / "rows.npy",
    }
    return Request(**given | changes)


def test_partners_are_told_what_it_was_started_with(bank: Path, tmp_path: Path) -> None:
    config = SiloConfig.load(bank)
    found = prepared(
        config,
        request(
            tmp_path,
            partners=("shop", "insurer"),
            columns=("branch", "customer"),
            first=False,
            reveal="receiver",
            rule=Rule(case="keep", spaces="remove"),
        ),
    )
    assert found.parties == SILOS
    assert (found.first, found.reveal, found.parts) == (False, "receiver", 2)
    assert (found.case, found.spaces, found.smallest_intersection) == ("keep", "remove", 10)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"name": "a/b"}, ParameterError, "name"),
        ({"name": ".."}, ParameterError, "a session's name"),
        ({"partners": ("insurer", "insurer")}, ParameterError, "each partner once"),
        ({"partners": ("bank",)}, ParameterError, "not this silo itself"),
        ({"partners": ("north",)}, ParameterError, "north: not in the roster"),
        ({"partners": ("insurer", "shop"), "reveal": "count"}, ParameterError, "for two parties"),
        ({"out": Path("rows.txt")}, ParameterError, r"\.npy, \.csv, \.parquet"),
        ({"out": Path("/nowhere/rows.npy")}, EnvironmentFault, "is no folder"),
    ],
)
def test_what_cannot_be_is_refused_before_data_is_read(
    bank: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        prepared(SiloConfig.load(bank), request(tmp_path, **changes))


def test_what_is_there_is_not_written_over(bank: Path, tmp_path: Path) -> None:
    config, asked = SiloConfig.load(bank), request(tmp_path)
    asked.out.touch()
    with pytest.raises(EnvironmentFault, match="is there already"):
        prepared(config, asked)
    session = folder_of(config.state, asked.name)
    session.mkdir(parents=True)
    try:
        prepared(config, asked)  # It may have been written before the process was killed.
        with pytest.raises(ParameterError, match="is what --data names"):
            prepared(config, request(tmp_path, out=asked.data))
    finally:
        session.rmdir()


def test_who_is_not_listed_is_refused(written: Path, tmp_path: Path) -> None:
    """Nobody is, unless an operator lists somebody."""
    config = SiloConfig.load(written / "silos" / "bank" / "silo.toml")
    with pytest.raises(PolicyRefused, match=r"partners: insurer may not.*partners = \[insurer\]"):
        prepared(config, request(tmp_path))


def test_identifiers_are_read_by_the_rule_and_counted(tmp_path: Path) -> None:
    found = read(request(tmp_path, duplicates="first"))
    assert found.rows.tolist() == [0, 2]
    assert (found.counts.given, found.counts.missing, found.counts.repeated) == (4, 1, 1)
    assert len(read(request(tmp_path, columns=("branch", "customer")))) == 3


def test_what_the_operator_can_do_about_identifiers_is_said_in_words_of_the_command(tmp_path: Path) -> None:
    with pytest.raises(InputRefused) as caught:
        read(request(tmp_path))
    (note,) = caught.value.__notes__
    words = " ".join(note.split())
    assert "SA-2200 the identifiers cannot be taken as they are" in words
    assert "nothing left this silo" in words
    assert "--duplicates" in words
    assert "trainer" not in words
    assert "round" not in words


def test_a_refusal_says_how_to_give_up_the_session() -> None:
    words = refused(PolicyRefused("queries", "too many"), "march").text()
    assert "silo psi march --abandon" in " ".join(words.split())


# --- policy -------------------------------------------------------------------------------------------------


def test_what_is_not_said_protects() -> None:
    own = Intersections()
    assert not own.partners
    assert own.limits().queries == own.largest_set == own.policy().largest_set
    assert own.policy().smallest_intersection > 0
    assert Intersections(queries=5).limits().queries == 5


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("largest_set = 0", "largest_set is 0"),
        ("queries = 0", "queries is 0"),
        ("period_days = 0", "period_days is 0"),
        ("smallest_intersection = -1", "smallest_intersection is -1"),
        ('partners = ["a b"]', "partners"),
        ("partner = []", "did you mean partners"),
    ],
)
def test_a_limit_that_is_none_is_named_by_its_line(bank: Path, line: str, text: str) -> None:
    kept = bank.read_text()
    bank.write_text(kept.replace('partners = ["insurer", "shop"]', line))
    try:
        with pytest.raises(ParameterError, match=text):
            SiloConfig.load(bank)
    finally:
        bank.write_text(kept)


def check_of(path: Path) -> Any:
    return next(each for each in findings(path) if each.name == "intersections")


def test_silo_check_says_whether_intersections_are_possible(bank: Path, written: Path) -> None:
    assert check_of(bank).error is None
    assert "insurer 1,015,808, shop 1,015,808" in check_of(bank).text
    config = SiloConfig.load(bank)
    QueryFile(config.ledger_folder, config.intersections.limits()).count(bytes(32), "shop", 1024)
    assert "insurer 1,015,808, shop 1,014,784" in check_of(bank).text
    assert "nobody may look" in check_of(written / "silos" / "shop" / "silo.toml").text
    bank.write_text(bank.read_text().replace('"shop"]', '"north"]'))
    assert "lists north, not in the roster" in check_of(bank).text


# --- what is written and said -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["npy", "csv", "parquet"])
def test_rows_are_written_whole_and_for_this_user_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"rows.{kind}"
    readable = tmp_path / "readable-by-all"
    (tmp_path / f"rows.{kind}.new").symlink_to(readable)  # By somebody who may write into the folder.
    for rows in (ROWS, ROWS):  # As a session that goes on does.
        write_rows(path, rows)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not readable.exists()
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    if kind == "npy":
        found = np.load(path).tolist()
    else:
        with closing(duckdb.connect()) as database:
            found = [
                row for (row,) in database.execute("SELECT row FROM '?'".replace("?", str(path))).fetchall()
            ]
    assert found == ROWS.tolist()
    with pytest.raises(EnvironmentFault, match="has something else"):
        write_rows(path, ROWS[:2])


TERMS = IntersectionTerms(session=bytes(32), receiver="bank", sender="insurer")


def test_the_operator_is_told_what_was_learned(tmp_path: Path) -> None:
    whole = Outcome(count=3, rows=ROWS, digest=bytes(32))
    assert told(Found(TERMS, whole), tmp_path) == [
        "bank and insurer learn which records they share",
        "shared    3 records",
        "order     0000 0000 0000 0000 0000 0000 0000 0000, the same at every party that has rows",
        f"rows      {tmp_path}",
    ]
    assert (
        told(Found(TERMS, Outcome(count=3)), tmp_path)[-1] == "rows      none: this party learns the number"
    )
    many = ManyTerms(session=bytes(32), leader="bank", followers=("insurer", "shop"), reveal="leader")
    assert told(Found(many, None), tmp_path) == ["bank alone learns which records all have"]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--with", "insurer"],
        ["--with", "insurer", "--data", "a.csv"],
        ["--with", "insurer", "--data", "a.csv", "--column", "a", "--role", "leader"],
        ["--with", "a", "--with", "b", "--data", "a.csv", "--column", "a", "--role", "sender"],
    ],
)
def test_a_command_that_is_not_whole_is_refused(bank: Path, words: list[str]) -> None:
    done = CliRunner().invoke(app, ["psi", "march", *words, "--config", str(bank)])
    assert done.exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        ["--with", "bank", "--data", "own.csv", "--column", "customer"],
        ["--with", "insurer", "--data", "own.csv", "--column", "customer", "--out", "rows.txt"],
        ["--abandon"],
    ],
)
def test_a_typing_mistake_is_explained_as_one(bank: Path, words: list[str]) -> None:
    done = CliRunner().invoke(app, ["psi", "mistaken", *words, "--config", str(bank)])
    assert done.exit_code == 2
    assert "x SA-2009  what was typed does not fit" in done.output


def test_a_column_that_is_not_there_is_explained_as_a_typing_mistake(bank: Path, tmp_path: Path) -> None:
    asked = request(tmp_path)
    words = ["psi", "mistaken", "--with", "insurer", "--data", asked.data, "--column", "name"]
    words += ["--out", asked.out, "--config", bank]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert "has no column name" in done.output
    assert "x SA-2009  what was typed does not fit" in done.output


def test_who_stops_it_is_told_how_to_go_on(
    bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped_by_hand(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "meet_now", stopped_by_hand)
    asked = request(tmp_path, duplicates="first")
    words = ["psi", "stopped", "--with", "insurer", "--data", asked.data, "--column", "customer"]
    words += ["--duplicates", "first", "--out", asked.out, "--config", bank]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 130
    last = done.output.splitlines()[-1]
    assert last.startswith("stopped   what was done is kept: type the same command to go on")
    assert last.endswith("silo psi stopped --abandon")


def test_a_session_is_abandoned_by_its_name(bank: Path) -> None:
    done = CliRunner().invoke(app, ["psi", "march", "--abandon", "--config", str(bank)])
    assert done.exit_code == 2
    (SiloConfig.load(bank).state / "psi" / "march").mkdir(parents=True)
    done = CliRunner().invoke(app, ["psi", "--abandon", "march", "--config", str(bank)])
    assert done.exit_code == 0
    assert "march is abandoned here" in done.output
