"""``silo psi`` between real processes: what all have, whoever is killed; and who leaves it is named."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from signal import Signals

import numpy as np
import pytest
from numpy.typing import NDArray

from secagg.conversation import together
from secagg.hazmat.identity import grouped
from secagg.names import SiloId
from secagg.psi.agreement import Settings
from secagg.psi.identifiers import read_identifiers
from secagg.psi.outcome import Outcome
from secagg.psi.powers import Powers
from silo.config import SiloConfig
from silo.psi.run import one_side
from silo.psi.session import Session
from tests.faults.psi_party import seed_of
from tests.faults.world import Process, World

duckdb = pytest.importorskip("duckdb")

SILOS: tuple[SiloId, ...] = ("bank", "insurer", "shop")
SETS: Mapping[SiloId, list[str]] = {
    "bank": [f"C{number:05}" for number in range(100)],
    "insurer": [f"c{number:05} " for number in range(149, 49, -1)],
    "shop": [f"C{number:05}" for number in range(60, 90)],
}
POLICY = """
[intersections]
partners = ["bank", "insurer", "shop"]
queries = 1_000_000
"""


class Parties:
    """Processes of silos that intersect, and what they must learn.

    Args:
        world: whose coordinator runs.
        name: of the session, which no other test has.
        silos: who takes part.
    """

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.folder = world.folder / name
        self.folder.mkdir()
        self.running: dict[SiloId, Process] = {}

    def data(self, silo: SiloId) -> Path:
        """Return a file of its identifiers: Parquet at the insurer, CSV elsewhere."""
        path = self.folder / f"{silo}.{'parquet' if silo == 'insurer' else 'csv'}"
        if not path.exists():
            self.write(path, SETS[silo])
        return path

    def write(self, path: Path, ids: Iterable[str]) -> None:
        lines = [("customer", "spent"), *((each, "1.5") for each in ids)]
        with path.with_suffix(".csv").open("w", newline="") as file:
            csv.writer(file).writerows(lines)
        if path.suffix == ".parquet":
            with duckdb.connect() as database:
                table = f"read_csv('{path.with_suffix('.csv')}', header = true, all_varchar = true)"
                database.execute(f"COPY (SELECT * FROM {table}) TO '{path}'")  # noqa: S608 - of this test

    def start(
        self, silo: SiloId, silos: Iterable[SiloId] = SILOS, *words: str, driver: Iterable[str] = ()
    ) -> Process:
        partners = [word for other in silos if other != silo for word in ("--with", other)]
        self.running[silo] = Process(
            [
                *(sys.executable, "-m", "tests.faults.psi_party", *driver, "psi", self.name, *partners),
                *("--data", str(self.data(silo)), "--column", "customer", "--out", str(self.out(silo))),
                *("--config", str(self.world.config(silo)), *words),
            ],
            cwd=self.world.folder / "cwd",
            env=self.world.surroundings(),
        )
        return self.running[silo]

    def out(self, silo: SiloId) -> Path:
        return self.folder / f"{silo}-rows.npy"

    def check(self, silos: tuple[SiloId, ...] = SILOS) -> None:
        """Wait for all, and compare what they wrote and said with an undisturbed session in one process."""
        expected, digest = undisturbed(self.folder / "undisturbed", self.world, self.name, silos)
        for silo in silos:
            process = self.running[silo]
            assert process.end() == 0, process.log
            np.testing.assert_array_equal(np.load(self.out(silo)), expected[silo])
            assert f"{digest}, the same at every party" in process.saw("order")
            assert f"shared    {len(expected[silo])} records" in process.log
            assert not (self.world.state(silo) / "psi" / self.name).exists()

    def stop(self) -> None:
        for process in self.running.values():
            process.end(Signals.SIGKILL)


def undisturbed(
    folder: Path, world: World, name: str, silos: tuple[SiloId, ...]
) -> tuple[dict[SiloId, NDArray[np.int64]], str]:
    """Return what each must write, and how the order's digest begins."""
    sides = {}
    learned: dict[SiloId, Outcome | None] = {}
    for silo in silos:
        config = SiloConfig.load(world.config(silo)).model_copy(
            update={"state": folder / silo / "state", "ledger": None}
        )
        settings = Settings(parties=silos, smallest_intersection=config.intersections.smallest_intersection)
        identifiers = read_identifiers(SETS[silo])
        session = Session(
            config.state,
            name,
            settings=settings,
            identifiers=identifiers,
            source=folder,
            random=seed_of(config.state),
        )
        sides[silo] = one_side(
            config,
            session,
            settings,
            identifiers,
            powers=Powers(cores=1),
            keep=partial(learned.__setitem__, silo),
        )
    together(sides)
    outcomes = {silo: outcome for silo, outcome in learned.items() if outcome is not None}
    (digest,) = {outcome.digest for outcome in outcomes.values()}
    assert digest is not None
    rows = {silo: outcome.rows for silo, outcome in outcomes.items() if outcome.rows is not None}
    assert set(rows) == set(silos)
    return rows, grouped(digest[:16])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("psi") / "w", silos=SILOS, ordered=False, diaries=False)
    for silo in SILOS:
        with world.config(silo).open("a") as file:
            file.write(POLICY)
    world.start("coordinator")
    try:
        yield world
    finally:
        world.stop()


@pytest.fixture
def parties(world: World, request: pytest.FixtureRequest) -> Iterator[Parties]:
    parties = Parties(world, request.node.name[5:60].replace("[", ".").replace("]", ""))
    try:
        yield parties
    finally:
        parties.stop()


TWO = ("bank", "insurer")


def killed_everywhere(parties: Parties, silo: SiloId, silos: tuple[SiloId, ...], *, after: int) -> int:
    """Start ``silo`` again and again until it is not killed, each time after so many things it kept."""
    for times in range(30):
        process = parties.start(silo, silos, driver=["--kill-after", str(after)])
        if process.end() == 0:
            return times
        assert process.end() == -Signals.SIGKILL, process.log
    raise AssertionError("it comes to no end")


def test_a_receiver_that_is_killed_goes_on_to_the_same_rows(parties: Parties) -> None:
    parties.start("insurer", TWO)
    assert killed_everywhere(parties, "bank", TWO, after=4) == 2
    parties.check(TWO)


@pytest.mark.full
@pytest.mark.parametrize(("silo", "silos"), [("bank", TWO), ("insurer", TWO), ("bank", SILOS)])
def test_killed_wherever_something_is_kept(parties: Parties, silo: SiloId, silos: tuple[SiloId, ...]) -> None:
    for other in silos:
        if other != silo:
            parties.start(other, silos)
    assert killed_everywhere(parties, silo, silos, after=1) >= 8
    parties.check(silos)


@pytest.mark.full
def test_all_are_killed_in_turn(parties: Parties) -> None:
    parties.start("shop")
    bank = parties.start("bank", driver=["--kill-after", "5"])
    insurer = parties.start("insurer", driver=["--kill-after", "4"])
    assert insurer.end() == -Signals.SIGKILL
    parties.start("insurer")
    assert bank.end() == -Signals.SIGKILL
    parties.start("bank")
    parties.check()


@pytest.mark.full
def test_ctrl_c_ends_it_and_it_goes_on_later(parties: Parties) -> None:
    bank = parties.start("bank", TWO)
    bank.saw("waiting ", "for insurer")
    assert bank.end(Signals.SIGINT) == 130
    assert (parties.world.state("bank") / "psi" / parties.name / "session").exists()
    for silo in TWO:
        parties.start(silo, TWO)
    parties.check(TWO)


@pytest.mark.full
def test_a_partner_that_changes_its_set_in_between_is_named(parties: Parties) -> None:
    bank = parties.start("bank", TWO)
    insurer = parties.start("insurer", TWO, driver=["--lie", "set", "--kill-after", "6"])
    assert insurer.end() == -Signals.SIGKILL, insurer.log
    parties.write(parties.data("insurer"), [*SETS["insurer"], "c90000"])
    again = parties.start("insurer", TWO, driver=["--lie", "set"])
    assert bank.end() == 4
    assert "insurer: it says something else than before this session was interrupted" in bank.log.replace(
        "\n           ", " "
    )
    assert again.end() == 4
    # Our own program says that before anything else.
    honest = parties.start("insurer", TWO)
    assert honest.end() == 2
    assert "identifiers any more with which" in honest.log.replace("\n           ", " ")


@pytest.mark.full
@pytest.mark.parametrize("liar", TWO)
def test_a_partner_that_says_garbage_is_named(parties: Parties, liar: SiloId) -> None:
    (honest,) = (silo for silo in TWO if silo != liar)
    parties.start(liar, TWO, driver=["--lie", "garbage"])
    assert parties.start(honest, TWO).end() == 4
    assert f"{liar} left what was agreed on" in parties.running[honest].log
    assert parties.running[liar].end() == 4


@pytest.mark.full
def test_a_partner_that_vanishes_is_named(parties: Parties) -> None:
    bank = parties.start("bank", TWO, "--wait", "5")
    insurer = parties.start("insurer", TWO, driver=["--kill-after", "3"])
    assert insurer.end() == -Signals.SIGKILL
    assert bank.end() == 4
    assert "insurer did not come" in bank.log
    parties.start("bank", TWO)
    parties.start("insurer", TWO)
    parties.check(TWO)


@pytest.mark.full
def test_who_is_not_listed_is_refused_and_told_nothing(parties: Parties) -> None:
    config = parties.world.config("bank")
    text = config.read_text()
    config.write_text(text.replace('partners = ["bank", "insurer", "shop"]', 'partners = ["shop"]'))
    try:
        bank = parties.start("bank", TWO)
        assert bank.end() == 6
    finally:
        config.write_text(text)
    assert "partners = [insurer, shop]" in bank.log.replace("\n           ", " ")
    assert not (parties.world.state("bank") / "psi" / parties.name).exists()
