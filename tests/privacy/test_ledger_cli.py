"""``silo ledger``: what an operator and an auditor see; a changed export does not pass."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from secagg.hazmat.identity import IdentityKey
from secagg.privacy.entries import LedgerDamaged
from secagg.privacy.events import Release
from secagg.privacy.heads import LedgerHead, sign_head
from secagg.privacy.ledger import Ledger
from secagg.roster import Roster
from secagg.roster_file import write_roster
from silo.checks import findings
from silo.cli import app
from silo.config import SiloConfig
from silo.journal import Journal
from silo.ledger_export import EXPORT, export_text, read_export
from silo.ledger_file import LedgerFile
from silo.ledger_view import read_ledger
from tests.privacy.ledgers import BARE, SILO, START, Clock, charge
from tests.test_silo_config import folder  # noqa: F401 - a fixture


def silo(*words: object) -> Result:
    return CliRunner().invoke(app, ["ledger", *map(str, words)], prog_name="silo")


@pytest.fixture
def toml(folder: Path) -> Path:  # noqa: F811 - the fixture
    return folder / "silo.toml"


@pytest.fixture
def charged(toml: Path) -> Path:
    """A silo whose data was in four runs."""
    config, clock = SiloConfig.load(toml), Clock()
    _, roster = config.member()
    name = config.data.name
    with (
        Journal(config.state, roster=roster.digest) as journal,
        LedgerFile(
            config.ledger_folder,
            name,
            pin=journal.head(name),
            keep_pin=lambda entries, chain: journal.keep_head(name, entries, chain),
            budget=config.policy.budget(),
            clock=clock,
        ) as file,
    ):
        for job, rounds, event in (
            ("ct-1", range(1, 51), Release("record", 30.0)),
            ("ct-2", (1, 2, 3, 5, 6), SILO),
            ("pilot", (1,), BARE),
            ("ct-3", (1,), Release("record", 30.0)),
        ):
            for number in rounds:
                charge(file.ledger, number, event, job=job)
            clock.pass_days(10)
    return toml


def changed(toml: Path, old: str, new: str) -> Path:
    text = toml.read_text(encoding="utf-8")
    assert old in text
    toml.write_text(text.replace(old, new), encoding="utf-8")
    return toml


# --- show ---------------------------------------------------------------------------------------------------


def test_a_ledger_is_shown_by_unit_with_a_line_for_each_run(charged: Path) -> None:
    changed(charged, "min_silos = 5", "min_silos = 5\nperiod_days = 36500")
    result = silo("show", "--config", charged)
    assert (result.exit_code, result.stderr) == (0, "")
    assert (
        result.stdout
        == """\
data set brain: 57 entries, budget 8 at delta 1e-05 in any 36500 days

unit record
  date        run            rounds          epsilon      total       left
  2027-01-15  clinics/ct-1   1-50             0.8684     0.8684     7.1316
  2027-02-14  clinics/ct-3   1                0.1027     1.2428     6.7572
  Today 1.2428 is spent, and 6.7572 is left.
  epsilon is of the run alone, total of all in its period, and not the sum of the lines.
  Releases of unit silo hide a record too, and are in its total with half their noise.

unit silo
  date        run            rounds          epsilon      total       left
  2027-01-25  clinics/ct-2   1-6 (5)          0.3847     0.3847     7.6153
  Today 0.3847 is spent, and 7.6153 is left.
  epsilon is of the run alone, total of all in its period, and not the sum of the lines.
  Releases of unit record hide no silo; no epsilon of a silo covers them.

no differential privacy
  date        run            rounds             sums
  2027-02-04  clinics/pilot  1                     1
  No epsilon covers 1 sum: each may reveal what is in it.
"""
    )


def test_without_a_ledger_that_is_said_and_nothing_is_made(toml: Path) -> None:
    before = sorted(toml.parent.rglob("*"))
    result = silo("show", "--config", toml)
    assert result.stdout == "nothing was released of data set brain; its ledger is made by `silo run`\n"
    assert sorted(toml.parent.rglob("*")) == before


def test_showing_leaves_nothing_behind(charged: Path) -> None:
    before = {path: path.read_bytes() for path in charged.parent.rglob("*") if path.is_file()}
    assert silo("show", "--config", charged).exit_code == 0
    assert {path: path.read_bytes() for path in charged.parent.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:9000]), "it was cut, or an older copy"),
        (lambda path: path.unlink(), "is missing, and it had 57"),
        (lambda path: path.write_bytes(b""), "is damaged"),
    ],
)
def test_a_ledger_that_is_not_right_is_refused_everywhere(
    charged: Path, tmp_path: Path, spoil: Callable[[Path], None], text: str
) -> None:
    spoil(charged.parent / "state" / "ledger" / "brain.ledger")
    for words in (("show",), ("export", tmp_path / "export")):
        result = silo(*words, "--config", charged)
        assert result.exit_code == 3
        assert text in " ".join(result.stderr.split())
    assert not (tmp_path / "export").exists()
    (finding,) = [each for each in findings(charged) if each.name == "ledger"]
    assert text in finding.text
    assert finding.error is not None


def test_check_says_what_is_left(charged: Path) -> None:
    changed(charged, "min_silos = 5", "min_silos = 5\nperiod_days = 36500\nepsilon = 2.0")
    (finding,) = [each for each in findings(charged) if each.name == "ledger"]
    assert finding.error is None
    assert finding.text == (
        "57 entries, epsilon left: 0.7572 for a record, 1.6153 for a silo; 1 sum had no differential privacy"
    )


def test_check_of_a_silo_without_a_ledger_makes_none(toml: Path) -> None:
    (finding,) = [each for each in findings(toml) if each.name == "ledger"]
    assert finding.text == (
        f"none of data set brain yet; `silo run` makes it in {toml.parent / 'state' / 'ledger'}"
    )
    assert not (toml.parent / "state").exists()


# --- export and verify --------------------------------------------------------------------------------------


@pytest.fixture
def export(charged: Path, tmp_path: Path) -> Path:
    changed(charged, "min_silos = 5", "min_silos = 5\nperiod_days = 36500")
    path = tmp_path / "brain.jsonl"
    result = silo("export", path, "--config", charged)
    assert (result.exit_code, result.stdout.partition(",")[0]) == (0, f"{path}  57 entries")
    return path


def test_an_export_is_verified_without_the_silo(export: Path, charged: Path, tmp_path: Path) -> None:
    shown = silo("show", "--config", charged).stdout
    roster = shutil.copy(charged.parent / "roster.toml", tmp_path / "r.toml")
    shutil.rmtree(charged.parent / "state")
    assert silo("verify", export).stdout == (
        f"{shown}\nevery line is as it was written; signature not checked: add --roster roster.toml\n"
    )
    result = silo("verify", export, "--roster", roster)
    assert (result.exit_code, result.stdout) == (
        0,
        f"{shown}\nevery line is as it was written; signed by north\n",
    )


def test_an_export_is_lines_of_json_that_anybody_can_chain(export: Path) -> None:
    lines = [json.loads(line) for line in export.read_text(encoding="utf-8").splitlines()]
    assert [line["line"] for line in lines] == ["secagg ledger 1", *["entry"] * 57, "head"]
    assert lines[1]["charged"] == [
        {
            "type": "release",
            "unit": "record",
            "noise_multiplier": 30.0,
            "sampling_rate": 1.0,
            "count": 1,
            "slack": 0.0,
        }
    ]
    assert lines[-1]["chain"] == lines[-2]["chain"]


def test_an_export_never_overwrites_a_file(export: Path, charged: Path) -> None:
    before = export.read_bytes()
    result = silo("export", export, "--config", charged)
    assert result.exit_code == 3
    assert "is there already: name another file" in " ".join(result.stderr.split())
    assert export.read_bytes() == before


def test_an_export_that_another_signed_is_refused(export: Path, charged: Path, tmp_path: Path) -> None:
    _, ledger = read_ledger(SiloConfig.load(charged))
    stranger = IdentityKey.generate()
    forged = tmp_path / "forged"
    forged.write_text(export_text(stranger, "north", bytes(32), ledger), encoding="utf-8")
    assert silo("verify", forged).exit_code == 3  # Another nonce, so no chain fits.
    lines = export.read_text(encoding="utf-8").splitlines()
    head = json.loads(lines[-1]) | {"signature": signed_by(stranger, ledger).signature.hex()}
    forged.write_text(
        "\n".join([*lines[:-1], json.dumps(head, separators=(",", ":"))]) + "\n", encoding="utf-8"
    )
    roster = charged.parent / "roster.toml"
    assert silo("verify", forged).exit_code == 0
    result = silo("verify", forged, "--roster", roster)
    assert (result.exit_code, "not signed by its pinned key" in " ".join(result.stderr.split())) == (5, True)
    roster.write_text(write_roster(Roster.of({"south": stranger.public})), encoding="utf-8")
    result = silo("verify", export, "--roster", roster)
    assert (result.exit_code, "not signed by its pinned key" in " ".join(result.stderr.split())) == (5, True)


def signed_by(identity: IdentityKey, ledger: Ledger) -> LedgerHead:
    entries, chain = ledger.head
    return sign_head(identity, "north", ledger.data_set, entries=entries, chain=chain, context=EXPORT)


def compact(line: object) -> str:
    return json.dumps(line, separators=(",", ":"))


def edited(at: int, **fields: Any) -> Callable[[list[str]], list[str]]:
    def edit(lines: list[str]) -> list[str]:
        return [*lines[:at], compact(json.loads(lines[at]) | fields), *lines[at:][1:]]

    return edit


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [],
        lambda lines: lines[1:],
        lambda lines: lines[:-1],
        lambda lines: [*lines[:-2], lines[-1]],
        lambda lines: [*lines[:3], *lines[4:]],
        lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
        lambda lines: [*lines[:2], lines[0], *lines[2:]],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [*lines[:3], lines[3].replace(":", ": ", 1), *lines[4:]],
        lambda lines: [*lines[:3], "", *lines[3:]],
        lambda lines: [*lines[:3], "not json", *lines[3:]],
        edited(0, data_set="heart"),
        edited(0, silo="south"),
        edited(0, nonce="00" * 32),
        edited(0, delta=2.0),
        edited(0, period_days=0),
        edited(1, job="other"),
        edited(1, time=START + 1),
        edited(1, training="00" * 32),
        edited(1, number=2),
        edited(1, charged=[]),
        edited(1, charged=[{"type": "unprotected", "count": 1}]),
        edited(1, chain="00" * 32),
        edited(1, note=1),
        edited(-1, entries=56),
        edited(-1, chain="00" * 32),
        edited(-1, data_set="00" * 32),
    ],
)
def test_an_export_that_was_changed_is_refused(
    export: Path, change: Callable[[list[str]], list[str]]
) -> None:
    lines = change(export.read_text(encoding="utf-8").splitlines())
    export.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    result = silo("verify", export)
    assert result.exit_code == 3
    assert "is no export as it was written" in " ".join(result.stderr.split())


def test_every_changed_byte_of_an_export_is_found(export: Path, charged: Path) -> None:
    """But for what the budget is, which is the reader's to choose and stands in what is printed."""
    roster = SiloConfig.load(charged).member()[1]
    data = export.read_bytes()
    first, last = data.index(b'"nonce"'), data.index(b'"epsilon"')
    body = data.index(b"\n")
    for at in [*range(first, last, 7), *range(body, len(data), 211), *range(len(data) - 300, len(data), 13)]:
        export.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(Exception) as caught:  # noqa: PT011 - one of two, below
            read_export(export).check_signed(roster)
        assert isinstance(caught.value, LedgerDamaged) or "not signed" in str(caught.value)


def test_an_export_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = silo("verify", tmp_path / "none")
    assert (result.exit_code, "is not there" in " ".join(result.stderr.split())) == (3, True)
