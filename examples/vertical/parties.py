"""The parties of the demo as processes: a coordinator that relays, and silos that type commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from examples.processes import Processes
from secagg.errors import EnvironmentFault, MissingExtra
from secagg.names import SiloId
from secagg.vertical import Party

LABEL, ID = "label", "id"
SECONDS = 600.0
STAGES = ("waiting", "finding", "shared", "training", "kept", "scores")


class Parties:
    """A coordinator, and what each silo types; all end with the block.

    Args:
        folder: for keys, certificates, tables, state and logs; what was there is removed.
        label_party: which of them has the labels.
        names: of all, in order.
        said: told of a silo's name and a line that it printed.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[SiloId],
        label_party: SiloId,
        said: Callable[[SiloId, str], None],
    ) -> None:
        self.names = tuple(names)
        self.label_party = label_party
        self.folder = folder
        self._said = said
        self._processes = Processes(folder, names, app=None, federation="columns")
        self._running: dict[SiloId, subprocess.Popen[str]] = {}
        for name in names:
            _allow(self._home(name) / "silo.toml", [other for other in names if other != name])

    def __enter__(self) -> Self:
        try:
            self._processes.start_coordinator()
        except BaseException:
            self._processes.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()
        self._processes.stop()

    def write(self, stem: str, parties: Sequence[Party]) -> None:
        """Write each party's own table, CSV at the first and Parquet at the others."""
        for party in parties:
            write_table(self._table(party.name, stem), party)

    def job(self, name: str, method: str) -> None:
        """Write the file that all parties have: ``method`` is the table that says how they learn."""
        listed = ", ".join(f'"{party}"' for party in self.names)
        text = (
            f'kind = "vertical"\nname = "{name}"\nparties = [{listed}]\n'
            f'label_party = "{self.label_party}"\n\n[alignment]\nsmallest = 50\n\n{method}'
        )
        (self.folder / f"{name}.toml").write_text(text, encoding="utf-8")

    def fit(self, job: str, *, killed: tuple[SiloId, int] | None = None) -> None:
        """Let all parties train.

        Args:
            job: its name.
            killed: who is killed when it has so many steps on disk; it is started again at once.
        """
        for name in self.names:
            self._type(name, job, "fit", "train")
        if killed is not None:
            victim, step = killed
            self._wait_for(self._home(victim) / "state" / "vertical" / job / "fit" / "steps" / str(step))
            self._running[victim].kill()
            self._running.pop(victim).wait()
            self._said(victim, f"killed by SIGKILL at step {step}; started again")
            self._type(victim, job, "fit", "train")
        self._end()

    def predict(self, job: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Let all parties score their held-out tables; return rows of the label party, and scores."""
        for name in self.names:
            self._type(name, job, "predict", "test")
        self._end()
        rows = np.loadtxt(self.scores(job), delimiter=",", skiprows=1, ndmin=2)
        return rows[:, 0].astype(np.int64), rows[:, 1]

    def scores(self, job: str) -> Path:
        """Return where the label party wrote scores."""
        return self._home(self.label_party) / f"{job}-scores.csv"

    def report(self, name: SiloId, job: str) -> dict[str, Any]:
        """Return what a party's own report says: its part of the model, and what it saw."""
        command: list[str | Path] = ["vertical", "report", self.folder / f"{job}.toml", "--json"]
        done = subprocess.run(  # noqa: S603 - our own command
            [_silo(), *command, "--config", self._home(name) / "silo.toml"],
            capture_output=True,
            check=True,
            env=_environment(),
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    # --- processes -----------------------------------------------------------------------------------------

    def _type(self, name: SiloId, job: str, verb: str, stem: str) -> None:
        words: list[str | Path] = ["vertical", verb, self.folder / f"{job}.toml", "--id", ID]
        words += ["--data", self._table(name, stem)]
        if name == self.label_party:
            words += ["--label", LABEL] if verb == "fit" else ["--out", self.scores(job)]
        process = subprocess.Popen(  # noqa: S603 - our own command
            [_silo(), *words, "--config", self._home(name) / "silo.toml", "--wait", str(SECONDS)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=_environment(),
        )
        self._running[name] = process
        threading.Thread(target=self._tell, args=(name, process), daemon=True).start()

    def _tell(self, name: SiloId, process: subprocess.Popen[str]) -> None:
        with (self.folder / f"{name}.log").open("a", encoding="utf-8") as log:
            for line in process.stdout or ():
                log.write(line)
                log.flush()
                if line.split(" ", 1)[0] in STAGES:
                    self._said(name, line.rstrip())

    def _end(self) -> None:
        for name, process in self._running.items():
            if process.wait(SECONDS):
                raise EnvironmentFault(
                    f"{name} ended with {process.returncode}; see {self.folder}/{name}.log"
                )
        self._running.clear()

    def _wait_for(self, path: Path) -> None:
        until = time.monotonic() + SECONDS
        while not path.exists():
            if time.monotonic() > until or any(p.poll() is not None for p in self._running.values()):
                raise EnvironmentFault(f"no training was under way; see the logs in {self.folder}")
            time.sleep(0.02)  # Between two looks at a process that tells nobody.

    # --- files ---------------------------------------------------------------------------------------------

    def _home(self, name: SiloId) -> Path:
        return self.folder / "silos" / name

    def _table(self, name: SiloId, stem: str) -> Path:
        return self._home(name) / f"{stem}{'.csv' if name == self.names[0] else '.parquet'}"


def write_table(path: Path, party: Party) -> None:
    """Write what a party holds as CSV, and as Parquet beside it if ``path`` is one.

    Raises:
        MissingExtra: DuckDB is not installed.
    """
    names = [ID, *party.columns, *([] if party.y is None else [LABEL])]
    numbers = party.X if party.y is None else np.column_stack([party.X, party.y])
    lines = [
        ",".join(f'"{name}"' for name in names),
        *(f"{key},{','.join(map(repr, row))}" for key, row in zip(party.ids, numbers.tolist(), strict=True)),
    ]
    path.with_suffix(".csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if path.suffix == ".parquet":
        duckdb = import_duckdb()
        source, target = (str(each).replace("'", "''") for each in (path.with_suffix(".csv"), path))
        with duckdb.connect() as database:
            database.execute(f"COPY (SELECT * FROM read_csv('{source}')) TO '{target}' (FORMAT parquet)")  # noqa: S608 - our own paths
        path.with_suffix(".csv").unlink()


def import_duckdb() -> Any:
    """Return the package that reads and writes tables.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return import_module("duckdb")
    except ModuleNotFoundError as missing:
        raise MissingExtra("data", "duckdb") from missing


def _allow(toml: Path, partners: Sequence[SiloId]) -> None:
    """Write into a silo's own file what it would refuse: partners that find shared records, an open link."""
    listed = ", ".join(f'"{partner}"' for partner in partners)
    text = toml.read_text(encoding="utf-8")
    table = (
        "[intersections]  # who may look for records that it shares with this silo\n"
        f"partners = [{listed}]\n\n"
        "# Coefficients are compared with those of pooled training, which the open link alone finds. In\n"
        "# every step it shows the label party a sum of this silo's columns in each row.\n"
        '[vertical]\nlinks = ["open", "poly"]\n'
    )
    toml.write_text(text.replace("[data]\n", f"{table}\n[data]\n", 1), encoding="utf-8")


def _silo() -> Path:
    return Path(sys.executable).parent / "silo"


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
