"""A federation of watched processes, and the marks that they leave: for tests of what is kept secret.

A test that patched a product symbol finds the same patch in every process: ``mutants`` are compared with what
stands in the test's own process now.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from safetensors.numpy import save_file

from coordinator.development import write_development_federation
from examples.processes import free_port
from secagg.policy import Policy
from silo.app import source_hash
from tests.adversary.marked.app import APP, WEIGHTS, data_of
from tests.adversary.marks import Mark, contents
from tests.test_threat_model import resolve

ROOT = Path(__file__).parents[2]
SILOS = ("north", "south", "east", "west")
SECONDS = 60.0
FLOORS = Policy(min_weight_cap=100.0)

Mutants = Mapping[str, Callable[..., Any]]


def standing(mutants: Mutants) -> str:
    """Return those of ``mutants`` that stand in this process now, as ``watched.put_in`` reads them."""
    return " ".join(
        f"{symbol}={replacement.__module__}:{replacement.__qualname__}"
        for symbol, replacement in mutants.items()
        if resolve(symbol) is replacement
    )


class Federation:
    """A coordinator and four silos as processes; all end with the block.

    Args:
        folder: for everything.
        policy: of every silo.
        mutants: symbol -> what may stand in its place.
        fails: silo -> call of ``train`` that raises.
        dies: silo -> masked input in which it ends.

    Attributes:
        run: logs, events and temporary files of all processes.
        home: configuration, keys and state of each party.
        gates: see ``tests.adversary.watched``; a folder for each silo.
    """

    def __init__(
        self,
        folder: Path,
        *,
        policy: Policy = FLOORS,
        mutants: Mutants | None = None,
        fails: Mapping[str, int] | None = None,
        dies: Mapping[str, int] | None = None,
    ) -> None:
        self.home, self.run, self.gates = folder / "federation", folder / "run", folder / "gates"
        self._secrets = folder / "secrets"
        self.temporary = self.run / "tmp"
        for made in (self.temporary, self._secrets, *(self.gates / silo for silo in SILOS)):
            made.mkdir(parents=True)
        self._mutants = standing(mutants or {})
        self._dies = dies or {}
        self.patients = {silo: f"patient {os.urandom(12).hex()}" for silo in SILOS}
        write_development_federation(
            self.home,
            SILOS,
            listen=f"127.0.0.1:{free_port()}",
            policy=policy,
            apps={APP: source_hash(APP)},
            arguments={
                silo: {"seed": seed, "patient": self.patients[silo], "fails": (fails or {}).get(silo, 0)}
                for seed, silo in enumerate(SILOS)
            },
        )
        self._before = contents(self.home)
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    # --- processes -----------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self._start_coordinator()
            for silo in SILOS:
                config = self.home / "silos" / silo / "silo.toml"
                self._start(silo, "silo", "run", "--config", str(config), "--log-level", "debug")
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.stop()
        self._kill()

    def stop(self) -> None:
        """End every process in order."""
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait(SECONDS)

    def start_run(self, job: str, *options: str, weights: int = WEIGHTS) -> subprocess.CompletedProcess[str]:
        """Start the run that ``job`` describes, as a scientist types it, of a model with so many weights."""
        initial, file = (self.home / "scientist" / name for name in ("initial.safetensors", "job.toml"))
        save_file({"weights": np.zeros(weights)}, initial)
        self._before[initial] = initial.read_bytes()
        file.write_text(f'app = "{APP}"\ninitial = "initial.safetensors"\n{job}', encoding="utf-8")
        self._before[file] = file.read_bytes()
        return self._typed("scientist", "run", "start", str(file), *options)

    def make_key(self, scheme: str = "ckks", *, size: int = 4096) -> None:
        """Let the silos make a key, as an operator types it."""
        done = self._typed("operator", "key", "make", "--scheme", scheme, "--size", str(size))
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"

    def _typed(self, role: str, *command: str) -> subprocess.CompletedProcess[str]:
        credentials = ("--credentials", str(self.home / role))
        done = subprocess.run(
            [sys.executable, "-m", "tests.adversary.watched", "coordinator", *command, *credentials],
            cwd=ROOT,
            env=self._environment(role),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        (self.run / f"{role}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
        return done

    def _start_coordinator(self) -> None:
        config = self.home / "coordinator" / "coordinator.toml"
        command = ("coordinator", "up", "--config", str(config), "--log-level", "debug")
        process = self._start("coordinator", *command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        with (self.run / "coordinator.log").open("ab") as log:
            for line in process.stdout:
                log.write(line)
                if b"ready" in line:
                    return
        raise AssertionError((self.run / "coordinator.log").read_text(encoding="utf-8"))

    def _start(
        self, name: str, *command: str, stdout: int | IO[bytes] | None = None
    ) -> subprocess.Popen[bytes]:
        with (self.run / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "tests.adversary.watched", *command],
                cwd=ROOT,
                env=self._environment(name),
                stdin=subprocess.DEVNULL,
                stdout=stdout or log,
                stderr=log,
            )
        return self.running[name]

    def _kill(self) -> None:
        for process in self.running.values():
            process.kill()
            process.communicate()

    def _environment(self, name: str) -> dict[str, str]:
        return {
            **os.environ,
            "TMPDIR": str(self.temporary),
            "GRPC_VERBOSITY": "NONE",
            "OMP_NUM_THREADS": "1",
            "WATCHED_SECRETS": str(self._secrets / name),
            "WATCHED_MUTANTS": self._mutants,
            "WATCHED_GATES": str(self.gates / name),
            "WATCHED_DIES": str(self._dies.get(name, 0)),
            "WATCHED_EVENTS": str(self.run / "events"),
        }

    # --- what is left --------------------------------------------------------------------------------------

    def left(self) -> dict[Path, bytes]:
        """Return all files that were written since the federation was made."""
        now = contents(self.home, self.run)
        assert self._before.items() <= now.items(), "what the parties were given has changed"
        return {path: content for path, content in now.items() if path not in self._before}

    def marks(self, *kinds: str) -> list[Mark]:
        """Return what was drawn, derived, recovered, trained and encoded; of all kinds if none is given."""
        # Under ciphertexts every silo has the model, and the key; an encoded vector is its silo's alone.
        states = [self.home / "silos" / silo / "state" for silo in SILOS]
        homes: dict[str, tuple[Path, ...]] = {
            "held-key": tuple(path for state in states for path in state.glob("keys/*.key")),
            "model": tuple(
                path for state in states for path in (state / "base", *state.glob("model-*.safetensors"))
            ),
        }
        marks = []
        for file in sorted(self._secrets.iterdir()):
            homes["encoded"] = (self.home / "silos" / file.name / "state" / "vector",)
            for line in sorted(set(file.read_text(encoding="utf-8").splitlines())):
                kind, _, value = line.partition(" ")
                if not kinds or kind in kinds:
                    marks.append(Mark(f"{file.name}: {kind}", bytes.fromhex(value), homes.get(kind, ())))
        return marks

    def long_lived_marks(self) -> list[Mark]:
        """Return each party's private keys, and each silo's data."""
        marks = [Mark(f"{silo}: argument", text.encode()) for silo, text in self.patients.items()]
        for seed, silo in enumerate(SILOS):
            marks += [Mark(f"{silo}: data", repr(entry).encode()) for entry in data_of(seed).tolist()]
            marks.append(Mark(f"{silo}: data", data_of(seed).tobytes()))
        for path in [*self.home.rglob("*.key"), *self.home.rglob("identity.pem")]:
            if path not in self._before:  # A key that opens sums; ``marks`` has it.
                continue
            key = load_pem_private_key(path.read_bytes(), password=None)
            whose = f"{path.relative_to(self.home)}"
            der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
            # Of an EC key the secret stands in the middle, of an Ed25519 key at the end.
            secret = der[-32:] if len(der) == 48 else re.split(rb"\x04\x20", der, maxsplit=1)[1][:32]
            marks.append(Mark(whose, secret))
            marks += [Mark(whose, line) for line in path.read_bytes().splitlines() if b"-" not in line]
        return marks
