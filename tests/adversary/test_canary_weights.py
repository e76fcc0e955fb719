"""Attack ``canary_weights``: look for one silo's update at the coordinator.

While a round is at each of its phases the coordinator's memory is read out, and in the end its disk and all
logs. One silo's update carries numbers that are known to the test; neither they nor the words that encode
them may be there. A scientist who asks for a run without protection is refused before anything is sent. Under
Plain, where the coordinator has each update, the same search finds them. Under CKKS the opened sum and the
model may not be there either, nor the silos' secret keys: the words of a CKKS key, as SEAL and key files hold
them, and the primes of a Paillier key, in each order in which a program holds numbers. They are looked for
after the ceremonies in which they passed through the coordinator, and in the runs under both.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator.client import Coordinator
from secagg.ckks.parameters import SEED_SIZE
from secagg.hazmat.content import ContentHash
from secagg.learning.model import begin_digest
from secagg.learning.progress import Silent, State
from secagg.paillier.params import LEAST_BITS
from secagg.payload import Payload
from secagg.policy import Policy
from tests.adversary import marks
from tests.adversary.marks import LEAST, Mark, found, found_in_memory
from tests.adversary.mutants import NoCipher
from tests.adversary.watching import FLOORS, SECONDS, SILOS, Federation, Mutants

pytestmark = pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="reads the memory of a process")

CANARY, *OTHERS = SILOS
FEW = 300
"""Weights of a model that is soon summed under Paillier."""
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
        if scheme == "ckks":
            hits = after_ceremonies(federation)
            if hits:
                return hits
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
            if hits:
                # Asked to stop once, it waits for the round; two signals that are alike could come as one.
                federation.running["coordinator"].send_signal(signal.SIGINT)
                return hits
        verdict = verdicts.get(timeout=SECONDS)
        assert verdict == 0, f"the run ended with {verdict}"
        if scheme == "ckks":
            done = federation.start_run(JOB.format(scheme="paillier"), "--wait", weights=FEW)
            assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        hits += [f"{what} is in memory afterwards" for what in in_memory(federation)]
        federation.stop()
    if scheme == "ckks":
        assert federation.marks("sum"), "nothing was opened"
        assert federation.marks("model"), "nothing was opened"
    return hits + found(canary(federation), federation.left())


def after_ceremonies(federation: Federation) -> list[str]:
    """Let the silos make their keys, and return where one of them was found."""
    hits, seen = [], set[bytes]()
    for scheme, size in (("ckks", 4096), ("paillier", LEAST_BITS)):
        federation.make_key(scheme, size=size)
        new = [mark for mark in federation.marks("held-key") if mark.value not in seen]
        assert new, f"no key of {scheme} was made"
        seen |= {mark.value for mark in new}
        coordinator = federation.running["coordinator"].pid
        hits += [f"{what} of {scheme} is in memory" for what in found_in_memory(new, coordinator)]
    return hits


def in_memory(federation: Federation) -> list[str]:
    return found_in_memory(canary(federation), federation.running["coordinator"].pid)


def canary(federation: Federation) -> list[Mark]:
    kinds = ("trained", "update", "encoded", "sum", "model")
    its_own = [mark for mark in federation.marks(*kinds) if mark.what.startswith(CANARY)]
    assert len(its_own) > 20, "the canary was not trained yet"
    return its_own + federation.marks("held-key")


MASKED = {"MaskedInput": "input", "ConsistencyCheck": "check", "Unmasking": "unmask"}


def test_canary_weights(tmp_path: Path) -> None:
    hits = searched(tmp_path / "masked", "masking", MASKED, mutants=MUTANTS)
    assert not hits, "\n".join(["the canary was found:", *hits])
    with Federation(tmp_path / "plain", mutants=MUTANTS) as federation:
        done = federation.start_run(JOB.format(scheme="plain"), "--wait")
        assert done.returncode == 6, f"a run without protection was not refused:\n{done.stdout}"
        assert not federation.marks("trained", "update", "encoded")


ENCRYPTED = {"EncryptedInput": "input", "ConsistencyCheck": "check", "Opened": "open"}
AT_SILOS = Policy(schemes=frozenset({"ckks", "paillier"}), min_weight_cap=100.0)


@pytest.mark.full
def test_canary_weights_under_ciphertexts(tmp_path: Path) -> None:
    hits = searched(tmp_path, "ckks", ENCRYPTED, policy=AT_SILOS, mutants=MUTANTS)
    assert not hits, "\n".join(["the canary or a key was found:", *hits])


@pytest.mark.parametrize("before", range(8))
def test_the_search_finds_what_it_looks_for_wherever_it_lies(
    monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    for value in (bytes(range(9, 41)), bytes(15) + b"x", b"x" * LEAST):
        for content, hits in ((value, ["planted"]), (value[:-1] + b"y", [])):
            piece = b"y" * before + content + b"y" * (8 - (before + len(value)) % 8)
            monkeypatch.setattr(marks, "memory", lambda _, piece=piece: [piece])
            assert found_in_memory([Mark("planted", value)], 0) == hits


def test_the_search_finds_the_canary_where_nothing_protects_it(tmp_path: Path) -> None:
    allowed = Policy(schemes=frozenset({"masking", "plain"}), min_weight_cap=100.0)
    hits = searched(tmp_path, "plain", {"PlainInput": "input"}, policy=allowed)
    assert f"{CANARY}: encoded is in memory at PlainInput" in hits


@pytest.mark.parametrize(
    ("attack", "defence", "leak"),
    [
        (test_canary_weights, "secagg.masking.silo.add_streams", "encoded is in memory at MaskedInput"),
        pytest.param(
            test_canary_weights,
            "secagg.policy.Policy._check_scheme",
            "a run without protection was not refused",
            marks=pytest.mark.full,  # It waits for a whole round.
        ),
        (
            test_canary_weights_under_ciphertexts,
            "secagg.hazmat.agreement.AESGCM",
            "(?s)of ckks is in memory.*of paillier is in memory",
        ),
        pytest.param(
            test_canary_weights_under_ciphertexts,
            "secagg.ckks.silo.CKKSCipher.encrypt",
            "encoded is in memory at EncryptedInput",
            marks=pytest.mark.full,
        ),
        pytest.param(
            test_canary_weights_under_ciphertexts,
            "secagg.learning.model.begin_digest",
            "model is in memory at Opened",
            marks=pytest.mark.full,
        ),
    ],
)
def test_canary_weights_mutant(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, attack: Callable[[Path], None], defence: str, leak: str
) -> None:
    monkeypatch.setattr(defence, MUTANTS[defence])
    with pytest.raises(AssertionError, match=leak):
        attack(tmp_path)


def no_masks(*_: Any, **__: Any) -> None:
    """``add_streams`` that adds none."""


def any_scheme(_policy: Policy, _name: str) -> None:
    """``Policy._check_scheme`` that allows all."""


def seeds_in_clear(self: Any, vector: Any, *, silo: str, round_id: bytes) -> Payload:
    """``CKKSCipher.encrypt`` with a part of the vector where each chunk has its seed."""
    ciphertexts, ring = bytearray(self.upload.size), self.limbs.parameters.ring
    for start in range(0, len(ciphertexts), ring.fresh_size):
        ciphertexts[start : start + SEED_SIZE] = vector.tobytes()[:SEED_SIZE]
    return Payload.over("u8", self.upload.length, memoryview(bytes(ciphertexts)))


class FirstWords:
    """What was hashed first, as it is, but for a base of zeros, which the coordinator names itself."""

    def __init__(self, real: ContentHash) -> None:
        self._real = real
        self._first = b""

    def update(self, data: Any) -> None:
        self._first = self._first or bytes(data[:32])
        self._real.update(data)

    def digest(self) -> bytes:
        return self._first if any(self._first) else self._real.digest()


def named_by_its_weights(length: int, slots: int) -> FirstWords:
    """``begin_digest`` of a name that is the first weights."""
    return FirstWords(begin_digest(length, slots))


MUTANTS: dict[str, Callable[..., Any]] = {
    "secagg.ckks.silo.CKKSCipher.encrypt": seeds_in_clear,
    "secagg.hazmat.agreement.AESGCM": NoCipher,
    "secagg.learning.model.begin_digest": named_by_its_weights,
    "secagg.masking.silo.add_streams": no_masks,
    "secagg.policy.Policy._check_scheme": any_scheme,
}
