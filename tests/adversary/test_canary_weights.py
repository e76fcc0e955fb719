"""Attack ``canary_weights``: look for one silo's update at the coordinator.

While a round is at each of its phases the coordinator's memory is read out, and in the end its disk and all
logs. One silo's update carries numbers that are known to the test; neither they nor the words that encode
them may be there. A scientist who asks for a run without protection is refused before anything is sent. Under
Plain, where the coordinator has each update, the same search finds them.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator.client import Coordinator
from secagg.learning.progress import Silent, State
from secagg.policy import Policy
from tests.adversary.marks import Mark, found, found_in_memory
from tests.adversary.watching import FLOORS, SECONDS, SILOS, Federation, Mutants

pytestmark = pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="reads the memory of a process")

CANARY, *OTHERS = SILOS
JOB = """
name = "canary"
rounds = 1
metrics = ["loss"]
scheme = "{scheme}"

[numbers]
weight_cap = 100.0
least_total_weight = 100.0

[waits]
training_seconds = 60.0
phase_seconds = 60.0
"""


class Phases(Silent):
    """Tells which phases of the first round the canary's silo has finished."""

    def __init__(self) -> None:
        self._done: queue.Queue[str] = queue.Queue()
        self._round = 0

    def round_started(self, round_number: int, *, attempt: int = 1) -> None:
        self._round = round_number

    def silo_phase(self, silo: str, phase: str, state: State) -> None:
        if (self._round, silo, state) == (1, CANARY, "done"):
            self._done.put(phase)

    def wait(self, phase: str) -> None:
        while self._done.get(timeout=SECONDS) != phase:
            pass


class Gates:
    """Holds the other silos before a step, so that a phase lasts until it was looked at."""

    def __init__(self, federation: Federation, *steps: str) -> None:
        self._pipes: dict[str, list[int]] = {}
        for step in steps:
            paths = [federation.gates / silo / step for silo in OTHERS]
            for path in paths:
                os.mkfifo(path)
            # Read and write: opening waits for nobody, and a silo that comes later finds its byte.
            self._pipes[step] = [os.open(path, os.O_RDWR) for path in paths]

    def open(self, step: str) -> None:
        for pipe in self._pipes[step]:
            os.write(pipe, bytes(8))  # For later rounds too.


def searched(
    folder: Path,
    scheme: str,
    gates: dict[str, str],
    *,
    policy: Policy = FLOORS,
    mutants: Mutants | None = None,
) -> list[str]:
    """Return where the canary was found in a run that is held at each of ``gates``, phase -> step."""
    federation = Federation(folder, policy=policy, mutants=mutants)
    held = Gates(federation, *gates.values())
    with federation:
        started = federation.start_run(JOB.format(scheme=scheme))
        assert started.returncode == 0, started.stderr
        run, phases = started.stdout.split()[1], Phases()
        verdicts: queue.Queue[int] = queue.Queue()

        def watch() -> None:
            with Coordinator(credentials=federation.home / "scientist") as coordinator:
                verdicts.put(coordinator.watch(run, phases).exit)

        threading.Thread(target=watch, daemon=True).start()
        hits = []
        for phase, step in gates.items():
            phases.wait(phase)
            hits += [f"{what} is in memory at {phase}" for what in in_memory(federation)]
            held.open(step)
        verdict = verdicts.get(timeout=SECONDS)
        assert hits or verdict == 0, f"the run ended with {verdict}"
        hits += [f"{what} is in memory afterwards" for what in in_memory(federation)]
        federation.stop()
    return hits + found(canary(federation), federation.left())


def in_memory(federation: Federation) -> list[str]:
    return found_in_memory(canary(federation), federation.running["coordinator"].pid)


def canary(federation: Federation) -> list[Mark]:
    marks = [m for m in federation.marks("trained", "update", "encoded") if m.what.startswith(CANARY)]
    assert len(marks) > 20, "the canary was not trained yet"
    return marks


MASKED = {"MaskedInput": "input", "ConsistencyCheck": "check", "Unmasking": "unmask"}


def test_canary_weights(tmp_path: Path) -> None:
    hits = searched(tmp_path / "masked", "masking", MASKED, mutants=MUTANTS)
    assert not hits, "\n".join(["the canary was found:", *hits])
    with Federation(tmp_path / "plain", mutants=MUTANTS) as federation:
        done = federation.start_run(JOB.format(scheme="plain"), "--wait")
        assert done.returncode == 6, f"a run without protection was not refused:\n{done.stdout}"
        assert not federation.marks("trained", "update", "encoded")


def test_the_search_finds_the_canary_where_nothing_protects_it(tmp_path: Path) -> None:
    allowed = Policy(schemes=frozenset({"masking", "plain"}), min_weight_cap=100.0)
    hits = searched(tmp_path, "plain", {"PlainInput": "input"}, policy=allowed)
    assert f"{CANARY}: encoded is in memory at PlainInput" in hits


@pytest.mark.parametrize(
    ("defence", "leak"),
    [
        ("secagg.masking.silo.add_streams", "encoded is in memory at MaskedInput"),
        ("secagg.policy.Policy._check_scheme", "a run without protection was not refused"),
    ],
)
def test_canary_weights_mutant(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, defence: str, leak: str
) -> None:
    monkeypatch.setattr(defence, MUTANTS[defence])
    with pytest.raises(AssertionError, match=leak):
        test_canary_weights(tmp_path)


def no_masks(*_: Any, **__: Any) -> None:
    """``add_streams`` that adds none."""


def any_scheme(_policy: Policy, _name: str) -> None:
    """``Policy._check_scheme`` that allows all."""


MUTANTS: dict[str, Callable[..., Any]] = {
    "secagg.masking.silo.add_streams": no_masks,
    "secagg.policy.Policy._check_scheme": any_scheme,
}
