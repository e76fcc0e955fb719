"""What ``silo vertical`` refuses and says before it meets anybody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import structlog
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from coordinator.development import write_development_federation
from silo.cli import app
from silo.config import SiloConfig
from silo.vertical import running
from silo.vertical.flow import Flow
from silo.vertical.work import ModelPart, Work

JOB = (
    'kind = "vertical"\nname = "churn"\nparties = ["bank", "insurer"]\nlabel_party = "insurer"\n[logistic]\n'
)


@dataclass
class Insurer:
    """The party that has labels and learns scores."""

    folder: Path

    def __post_init__(self) -> None:
        write_development_federation(self.folder / "federation", ("bank", "insurer"))
        text = self.config.read_text()
        self.config.write_text(text + '\n[intersections]\npartners = ["bank"]\n')
        self.job.write_text(JOB)
        self.data.write_text("holder,age,left\na,1,0\nb,2,1\n")

    @property
    def config(self) -> Path:
        return self.folder / "federation" / "silos" / "insurer" / "silo.toml"

    @property
    def job(self) -> Path:
        return self.folder / "job.toml"

    @property
    def data(self) -> Path:
        return self.folder / "own.csv"

    def work(self, verb: str) -> Work:
        return Work(SiloConfig.load(self.config).state / "vertical" / "churn" / verb)

    def types(self, verb: str, *words: str | Path) -> Result:
        typed = ["vertical", verb, self.job, "--data", self.data, "--id", "holder", "--config", self.config]
        return CliRunner().invoke(app, [str(word) for word in (*typed, *words)])


@pytest.fixture
def insurer(tmp_path: Path) -> Iterator[Insurer]:
    yield Insurer(tmp_path)
    structlog.reset_defaults()  # A command configures the logs of its process, which here has other tests.


def test_scores_are_written_over_nothing_but_what_their_own_prediction_wrote(insurer: Insurer) -> None:
    out = insurer.folder / "scores.csv"
    out.write_text("kept")
    for again in ((), ("--again",)):
        refused = insurer.types("predict", "--out", out, *again)
        assert refused.exit_code == 3
        assert "is there already" in refused.output
    insurer.work("predict").writes(out)
    assert "nothing was trained yet" in insurer.types("predict", "--out", out).output  # It comes further.
    assert "is there already" in insurer.types("predict", "--out", out, "--again").output
    other = out.with_name("other.csv")
    other.write_text("kept")
    assert "is there already" in insurer.types("predict", "--out", other).output
    insurer.work("predict").end()
    assert "is there already" in insurer.types("predict", "--out", out).output
    assert {out.read_text(), other.read_text()} == {"kept"}


def test_what_came_there_during_a_prediction_is_not_written_over_and_its_own_scores_are(
    insurer: Insurer, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = insurer.folder / "scores.csv"
    comes: list[str] = ["another's"]

    def predicted(
        _: Flow, part: ModelPart, write: Callable[[NDArray[np.int64], NDArray[np.float64]], None]
    ) -> str:
        if comes:
            out.write_text(comes.pop())
        write(np.array([0]), np.array([0.5]))
        return part.columns[0]

    part = ModelPart(fit=bytes(32), columns=("age",), alignment=bytes(32), count=1, part=b"")
    monkeypatch.setattr(running._Party, "part", lambda _: part)
    monkeypatch.setattr(Flow, "predict", predicted)
    monkeypatch.setattr(running, "meet_now", lambda *given, **_: given[3]())
    insurer.data.write_text("holder,age\na,1\nb,2\n")
    refused = insurer.types("predict", "--out", out)
    assert "is there already" in refused.output
    assert out.read_text() == "another's"
    out.unlink()
    for _ in range(2):  # As when it is killed before all have said that they have what came out.
        assert insurer.types("predict", "--out", out).exit_code == 0
        assert out.read_text().splitlines() == ["row,score", "0,0.5"]


def test_scores_are_never_written_over_the_table_they_are_of(insurer: Insurer) -> None:
    insurer.work("predict").writes(insurer.data)
    refused = insurer.types("predict", "--out", insurer.data)
    assert refused.exit_code == 2
    assert "is what --data names" in refused.output


@pytest.mark.parametrize(("typed", "on"), [((), "the same command to"), (("--again",), "without --again to")])
def test_who_stops_it_is_told_how_to_go_on(
    insurer: Insurer, monkeypatch: pytest.MonkeyPatch, typed: tuple[str, ...], on: str
) -> None:
    monkeypatch.setattr(running, "meet_now", stopped_by_hand)
    stopped = insurer.types("fit", "--label", "left", *typed)
    assert stopped.exit_code == 130
    last = stopped.output.splitlines()[-1]
    assert last.startswith("stopped   what was done is kept: type ")
    assert f"{on} go on; --again at every party begins anew" in last


def stopped_by_hand(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("fit", ("--label", "lost")),
        ("fit", ("--label", "left", "--columns", "wage")),
        ("fit", ()),
        ("predict", ()),
        ("predict", ("--out", "scores.txt")),
    ],
)
def test_a_typing_mistake_is_explained_as_one(insurer: Insurer, verb: str, words: tuple[str, ...]) -> None:
    wrong = insurer.types(verb, *words)
    assert wrong.exit_code == 2
    assert "x SA-2009  what was typed does not fit" in wrong.output


def test_a_mistake_in_a_file_is_explained_as_that(insurer: Insurer) -> None:
    insurer.job.write_text(JOB + "speed = 3\n")
    assert "x SA-2007" in insurer.types("fit", "--label", "left").output
