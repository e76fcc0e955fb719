"""Attack ``secret_scan``: read whatever a run leaves behind.

A run of four silos as processes, logged at DEBUG: in one round a silo's trainer raises, in one a silo dies
in the middle. Every key, seed, share and derived key, all data and results are marked, and no mark may stand
in a log, a terminal, an event, a state folder or a temporary file, but for an encoded vector at its silo. The
same after a key ceremony and a run under CKKS: of the key nothing stands anywhere but in the key files of
silos, which nobody else may read.
"""

from __future__ import annotations

import base64
import json
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import structlog

from coordinator.lines import Lines
from coordinator.on_disk import OnDisk
from secagg.policy import Policy
from secagg.rounds.silo import answer
from silo.key_files import KeyFiles
from tests.adversary.marks import Mark, found
from tests.adversary.watching import SILOS, Federation, Mutants

JOB = """
name = "scan"
scheme = "{scheme}"
rounds = {rounds}
metrics = ["loss"]

[numbers]
weight_cap = 100.0
least_total_weight = 100.0

[waits]
training_seconds = 60.0
phase_seconds = 30.0
"""
KINDS = {
    *("private-key", "agreed-key", "derived-key", "shared-secret", "share", "salt", "recovered-secret"),
    *("trained", "update", "encoded"),
}
KINDS_OF_CIPHERTEXTS = {
    *("private-key", "agreed-key", "derived-key", "held-key", "content-key"),
    *("trained", "update", "encoded", "sum", "model"),
}


def scan(folder: Path, mutants: Mutants) -> None:
    """Run, and look for what should not be there."""
    with Federation(folder, mutants=mutants, fails={"west": 2}, dies={"west": 2}) as federation:
        done = federation.start_run(JOB.format(scheme="masking", rounds=3), "--wait")
        assert done.returncode == 8, f"{done.stdout}\n{done.stderr}"  # Degraded: west was lost.
        federation.stop()
    assert "model.safetensors" in {path.name for path in federation.left()}
    check(federation, KINDS)


def scan_ciphertexts(folder: Path, mutants: Mutants) -> None:
    """The same after a key ceremony, in a run whose second round ``west`` leaves."""
    policy = Policy(schemes=frozenset({"ckks"}), min_weight_cap=100.0)
    with Federation(folder, policy=policy, mutants=mutants, fails={"west": 2}) as federation:
        federation.make_key()
        done = federation.start_run(JOB.format(scheme="ckks", rounds=2), "--wait")
        assert done.returncode == 8, f"{done.stdout}\n{done.stderr}"  # Degraded: west was lost in round 2.
        federation.stop()
    check(federation, KINDS_OF_CIPHERTEXTS)
    assert {mark.what for mark in federation.marks("held-key")} == {f"{silo}: held-key" for silo in SILOS}
    keys = [path for path in federation.left() if path.suffix == ".key"]
    assert {path.parent for path in keys} == {federation.home / f"silos/{silo}/state/keys" for silo in SILOS}
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}


def check(federation: Federation, kinds: set[str]) -> None:
    """Look for marks of these kinds where they should not be."""
    marks = federation.marks()
    assert {mark.what.partition(": ")[2] for mark in marks} == kinds, "nothing was marked"
    assert {mark.what.partition(": ")[0] for mark in marks} == {*SILOS, "coordinator"}
    files = federation.left()
    assert {path.name for path in files} >= {"events", "west.log", "journal.sqlite3"}
    hits = found([*marks, *federation.long_lived_marks()], files)
    assert not hits, "\n".join(["secrets were written down:", *hits])
    rest = [*federation.temporary.iterdir(), *(federation.home / "coordinator/state/spool").iterdir()]
    assert not rest, f"temporary files are left: {rest}"


def test_secret_scan(tmp_path: Path) -> None:
    scan(tmp_path, MUTANTS)


@pytest.mark.full
def test_secret_scan_under_ciphertexts(tmp_path: Path) -> None:
    scan_ciphertexts(tmp_path, MUTANTS)


def full(*case: str) -> Any:
    """A whole run takes seconds: of the mutants one is enough in every test run."""
    return pytest.param(*case, marks=pytest.mark.full)


@pytest.mark.parametrize("before", [b"", b"x", b"xy", b"xyz"])
@pytest.mark.parametrize("after", [b"", b"x", b"xy"])
def test_the_scan_finds_a_secret_in_every_form(tmp_path: Path, before: bytes, after: bytes) -> None:
    secret = bytes(range(200, 232))
    whole = before + secret + after
    written = [
        whole,
        whole.hex().encode(),
        whole.hex().upper().encode(),
        base64.b64encode(whole),
        base64.urlsafe_b64encode(whole),
        repr([*whole]).encode(),
        json.dumps([*whole], separators=(",", ":")).encode(),
        repr(whole).encode(),
        json.dumps(repr(whole)).encode(),
        str(int.from_bytes(secret, "big")).encode(),
    ]
    for text in written:
        planted = {tmp_path / "log": b"some text " + text + b" more"}
        assert found([Mark("planted", secret)], planted), text
        assert not found([Mark("planted", secret, (tmp_path,))], planted)
        assert not found([Mark("other", bytes(range(100, 132)))], planted)


@pytest.mark.parametrize(
    ("defence", "leak"),
    [
        full("silo.key_files.KeyFiles.keep", r"held-key is in .*/keys/\w+\.copy"),
        ("coordinator.lines.Lines.arrived", r"share is in .*/coordinator\.log"),
        full("coordinator.on_disk.Spooled.__init__", "temporary files are left"),
        full("secagg.rounds.silo.refusal", r"west: argument is in .*/(coordinator\.log|events)"),
        full("silo.agent._described", r"share is in .*/\w+\.log"),
        full("silo.agent._passed", r"west: argument is in .*/west\.log"),
        full("silo.agent.answer", r"shared-secret is in .*/state/session"),
    ],
)
def test_secret_scan_mutant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, defence: str, leak: str) -> None:
    monkeypatch.setattr(defence, MUTANTS[defence])
    attack = scan_ciphertexts if "Key" in defence else scan
    with pytest.raises(AssertionError, match=leak):
        attack(tmp_path, MUTANTS)


# --- mutants ------------------------------------------------------------------------------------------------

_arrived, _answer, _keep = Lines.arrived, answer, KeyFiles.keep


def frame_at_the_coordinator(self: Any, silo: str, frame: Any) -> None:
    """``Lines.arrived`` that logs what arrived."""
    structlog.get_logger("coordinator").debug("arrived", silo=silo, header=frame[0].hex())
    _arrived(self, silo, frame)


def frame_at_the_silo(frame: Any) -> dict[str, str | int]:
    """``_described`` that shows the message."""
    return {"size": len(frame[0]), "message": repr(frame[0])}


def text_of_the_trainer(error: BaseException) -> Iterable[str]:
    """``_passed`` with the text of the error."""
    return traceback.format_exception(error)


def text_in_the_refusal(error: Any, attempt: int = 0) -> Any:
    """``refusal`` that says why."""
    from secagg.messages import Refused

    return Refused(str(getattr(error, "original", error))[:60], (), attempt)


def session_in_the_state_folder(participant: Any, frame: Any, sync: Any) -> Any:
    """``answer`` that keeps the session's secrets, so that a silo could go on after a crash."""
    result = _answer(participant, frame, sync)
    seed = getattr(getattr(participant._session, "_state", None), "seed", b"")
    (participant._cache._file.path.parent / "session").write_bytes(seed)
    return result


def key_with_a_copy(self: KeyFiles, key: Any) -> None:
    """``KeyFiles.keep`` that keeps the secret a second time."""
    _keep(self, key)
    (self.folder / f"{key.document.key.hex()}.copy").write_bytes(key.content)


def named_spool(self: Any, folder: Path, *, otherwise: str = "") -> None:
    """``Spooled.__init__`` of a file that stays."""
    self._folder, self._otherwise, self._size = folder, otherwise, 0
    self._file = (folder / f"{id(self)}").open("w+b", buffering=0)
    self._kept = OnDisk.over(self._file.fileno(), 0, 0)


MUTANTS: dict[str, Callable[..., Any]] = {
    "coordinator.lines.Lines.arrived": frame_at_the_coordinator,
    "coordinator.on_disk.Spooled.__init__": named_spool,
    "secagg.rounds.silo.refusal": text_in_the_refusal,
    "silo.key_files.KeyFiles.keep": key_with_a_copy,
    "silo.agent._described": frame_at_the_silo,
    "silo.agent._passed": text_of_the_trainer,
    "silo.agent.answer": session_in_the_state_folder,
}
