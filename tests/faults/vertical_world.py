"""Two silos with other columns of the same records, and a coordinator, as processes."""

from __future__ import annotations

import csv
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import Signals
from typing import Any, Self

import numpy as np

from coordinator.development import write_development_federation
from examples.processes import free_port
from secagg.names import SiloId
from secagg.vertical import Party
from tests.faults.orders import Kill, Orders
from tests.faults.world import ROOT, Process

NAMES: tuple[SiloId, ...] = ("bank", "insurer")
LABEL_PARTY = "insurer"
JOB = 'kind = "vertical"\nname = "churn"\nparties = ["bank", "insurer"]\nlabel_party = "insurer"\n'
TREES = "[trees]\ntrees = 3\ndepth = 2\nmin_child_rows = 5\nbins = 8\n"
LOGISTIC = '[logistic]\nlink = "open"\n'
HIDDEN = "[logistic]\n"
FLOOR = '[vertical]\nlinks = ["open", "poly"]\nmin_child_rows = 5\n'
"""What lets ``TREES`` grow from so few records, and ``LOGISTIC`` show sums, in both silos' own files."""


def parties(rows: int = 160, *, seed: int = 5) -> dict[SiloId, Party]:
    """Return what both hold: three columns each, and labels that follow from all of them."""
    random = np.random.default_rng(seed)
    columns = {name: random.normal(size=(rows, 3)) for name in NAMES}
    odds = columns["bank"] @ [1.0, -2.0, 0.5] + columns["insurer"] @ [1.5, 0.5, -1.0]
    labels = (odds + random.logistic(size=rows) > 0).astype(float)
    ids = [f"person-{seed}-{number:04d}" for number in random.permutation(rows)]
    held: dict[SiloId, Party] = {}
    for name in NAMES:
        own = random.permutation(rows)[: rows * 7 // 8]
        held[name] = Party(
            name,
            columns[name][own],
            [ids[row] for row in own],
            labels[own] if name == LABEL_PARTY else None,
            columns=[f"{name}_{at}" for at in range(3)],
        )
    return held


class Columns:
    """A coordinator, and what both silos type; all end with the block.

    Args:
        folder: empty; everything is in it.

    Attributes:
        mutants: what silos that are started have in the place of product symbols; see ``standing``.
    """

    def __init__(self, folder: Path) -> None:
        self.mutants = ""
        self.folder = folder
        self.files = folder / "federation"
        self.running: dict[str, Process] = {}
        for name in ("home", "tmp", "cwd", "coordinator", *NAMES):
            (folder / name).mkdir()
        write_development_federation(self.files, NAMES, listen=f"127.0.0.1:{free_port()}")
        for name, other in zip(NAMES, reversed(NAMES), strict=True):
            toml = self.config(name)
            text = toml.read_text(encoding="utf-8")
            listed = f'[intersections]\npartners = ["{other}"]\n\n{FLOOR}\n[data]\n'
            toml.write_text(text.replace("[data]\n", listed, 1), encoding="utf-8")

    def __enter__(self) -> Self:
        self.start_coordinator()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.running.values():
            if process.alive:
                process.signal(Signals.SIGKILL)
        for process in self.running.values():
            process.end()

    # --- processes -----------------------------------------------------------------------------------------

    def start_coordinator(self) -> None:
        config = self.files / "coordinator" / "coordinator.toml"
        self.running["coordinator"] = self._start("coordinator", "coordinator", "up", "--config", config)
        self.running["coordinator"].saw("ready in")

    def type(self, name: SiloId, verb: str, *words: str | Path, wait: float = 60.0) -> Process:
        """Let a silo type ``silo vertical VERB`` with its own table and, where it has them, labels."""
        typed: list[str | Path] = ["vertical", verb, self.folder / "cwd" / "job.toml"]
        typed += ["--data", self.table(name, verb), "--id", "id", "--config", self.config(name)]
        if name == LABEL_PARTY:
            typed += ["--label", "label"] if verb == "fit" else ["--out", self.scores]
        process = self._start(name, "silo", *typed, "--wait", str(wait), *words)
        self.running[name] = process
        return process

    def both(self, verb: str, *words: str | Path) -> None:
        """Let both type it, to a good end."""
        for process in [self.type(name, verb, *words) for name in NAMES]:
            assert process.end() == 0, process.log

    def order(self, name: SiloId, at: str, what: str) -> None:
        """Let the next process of a silo kill itself at a moment."""
        Orders(self.folder / name / "order").give(Kill(at, what, None))

    def killed(self, name: SiloId) -> None:
        """Wait until it did."""
        process = self.running.pop(name)
        assert process.end() == -Signals.SIGKILL, process.log
        assert Orders(self.folder / name / "order").obeyed

    def _start(self, name: str, command: str, *words: str | Path) -> Process:
        launcher: list[str | Path] = [sys.executable, "-m", "tests.faults.vertical_launcher"]
        launcher += [self.folder / name, command]
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            "WATCHED_MUTANTS": self.mutants,
        }
        return Process([*launcher, *words], cwd=self.folder / "cwd", env=environment)

    # --- files ---------------------------------------------------------------------------------------------

    def config(self, name: SiloId) -> Path:
        return self.files / "silos" / name / "silo.toml"

    def table(self, name: SiloId, verb: str) -> Path:
        return self.folder / "cwd" / f"{name}-{verb}.csv"

    @property
    def scores(self) -> Path:
        return self.folder / "cwd" / "scores.csv"

    def state(self, name: SiloId) -> Path:
        return self.files / "silos" / name / "state" / "vertical" / "churn"

    def begin(self, method: str, fit: Mapping[SiloId, Party], new: Mapping[SiloId, Party]) -> None:
        """Write the job and the tables; nothing of a job before is left."""
        (self.folder / "cwd" / "job.toml").write_text(JOB + method, encoding="utf-8")
        self.scores.unlink(missing_ok=True)
        for name in NAMES:
            shutil.rmtree(self.state(name), ignore_errors=True)
            for noted in ("heard", "order"):
                (self.folder / name / noted).unlink(missing_ok=True)
            for verb, held in (("fit", fit), ("predict", new)):
                self.write(name, verb, held[name])
        (self.folder / "coordinator" / "forwarded").unlink(missing_ok=True)

    def keep(self) -> None:
        """Keep a copy of the state, which ``put_back`` puts in its place."""
        for name in NAMES:
            shutil.copytree(self.state(name), self.folder / name / "state")

    def put_back(self) -> None:
        """Let the state be as it was when it was kept."""
        for name in NAMES:
            shutil.rmtree(self.state(name), ignore_errors=True)
            shutil.copytree(self.folder / name / "state", self.state(name))

    def write(self, name: SiloId, verb: str, held: Party) -> None:
        """Write a table."""
        with self.table(name, verb).open("w", encoding="utf-8", newline="") as file:
            lines = csv.writer(file)
            labels = [] if held.y is None or verb == "predict" else held.y.tolist()
            lines.writerow(["id", *held.columns, *(["label"] if labels else [])])
            for at, key in enumerate(held.ids):
                lines.writerow([key, *held.X[at].tolist(), *([labels[at]] if labels else [])])

    def kept(self) -> dict[str, bytes]:
        """Return all files of the job but what differs with each beginning and folder, and the scores."""
        found = {
            f"{name}/{path.relative_to(self.state(name))}": path.read_bytes()
            for name in NAMES
            for path in sorted(self.state(name).rglob("*"))
            if path.is_file() and path.name not in {"lock", "begun", "out"}
        }
        return found | ({"scores": self.scores.read_bytes()} if self.scores.exists() else {})

    def noted(self, name: str, what: str) -> bytes:
        """Return what a process noted."""
        return (self.folder / name / what).read_bytes()


def shared(held: Mapping[SiloId, Party]) -> Sequence[Any]:
    """Return identifiers that both have."""
    return sorted(set(held["bank"].ids) & set(held["insurer"].ids))
