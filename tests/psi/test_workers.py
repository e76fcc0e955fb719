"""Processes that compute powers, and what becomes of them."""

from __future__ import annotations

import io
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import MalformedMessage, ParameterError
from secagg.hazmat.curve import POINT_SIZE, Exponent, hash_to_points
from secagg.psi import workers
from secagg.psi.powers import SUITE, Powers
from secagg.psi.workers import Workers, framed, powers_of

TAG = b"tag"
MESSAGES = [str(number).encode() for number in range(100)]
POINTS = hash_to_points(MESSAGES, TAG)
EXPONENT = Exponent.generate()
EXPECTED = EXPONENT.powers(POINTS)
PATIENCE = 60.0
"""Seconds after which a process that should have ended is one that does not."""


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be computed in this process."""

    def here(*_: object) -> bytes:
        raise AssertionError("computed by the process that asks")

    monkeypatch.setattr(workers, "powers_of", here)


@pytest.fixture
def two() -> Iterator[Workers]:
    found = Workers(2)
    yield found
    found.close()


def pids(found: Workers) -> list[int]:
    return [worker.process.pid for worker in found._started]


def ends(process: int) -> bool:
    """Wait until the process of a ``pidfd`` has ended."""
    try:
        return bool(select.select([process], [], [], PATIENCE)[0])
    finally:
        os.close(process)


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_messages_in_a_row_are_told_apart_again(messages: list[bytes]) -> None:
    assert workers._messages(framed(messages)) == messages


def test_points_and_messages_have_their_powers() -> None:
    assert powers_of(POINTS, b"", EXPONENT) == powers_of(framed(MESSAGES), TAG, EXPONENT) == EXPECTED


@pytest.mark.usefixtures("elsewhere")
def test_workers_compute_what_is_computed_here(two: Workers) -> None:
    """Guarantee of ``Workers``."""
    for _ in range(3):
        assert two.powers_of(POINTS, b"", EXPONENT) == EXPECTED
        assert two.powers_of(memoryview(POINTS), b"", EXPONENT) == EXPECTED
        assert two.powers_of(framed(MESSAGES), TAG, EXPONENT) == EXPECTED
        assert two.powers_of(EXPECTED, b"", EXPONENT.inverse) == EXPONENT.inverse.powers(EXPECTED)


@pytest.mark.usefixtures("elsewhere")
def test_many_points_are_computed_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guarantee of ``Powers``: what it gives does not depend on ``cores``."""
    for name, value in (("SPAN", 8), ("MANY", 64)):
        monkeypatch.setattr(f"secagg.psi.powers.{name}", value)
    powers = Powers(cores=2)
    expected = EXPONENT.powers(hash_to_points(MESSAGES, SUITE + TAG))
    assert powers.of_messages(MESSAGES, TAG, EXPONENT) == expected
    assert powers.of_points(POINTS, EXPONENT) == EXPECTED
    assert powers._workers is not None
    processes = [os.pidfd_open(pid) for pid in pids(powers._workers)]
    powers.close()
    assert all(map(ends, processes))
    assert powers.of_points(POINTS, EXPONENT) == EXPECTED, "new ones start when they must"
    powers.close()


@pytest.mark.parametrize("at", [0, 50, 99])
def test_a_wrong_point_is_refused_wherever_it_stands(two: Workers, at: int) -> None:
    points = bytearray(POINTS)
    points[at * POINT_SIZE : (at + 1) * POINT_SIZE] = bytes(POINT_SIZE)
    with pytest.raises(MalformedMessage, match="low order"):
        two.powers_of(bytes(points), b"", EXPONENT)
    assert two.there


def test_a_worker_that_was_killed_is_made_up_for(two: Workers) -> None:
    """Guarantee of ``Workers``: whatever becomes of the processes."""
    first, second = pids(two)
    assert two.powers_of(POINTS, b"", EXPONENT) == EXPECTED
    gone = os.pidfd_open(first)
    os.kill(first, signal.SIGKILL)
    assert ends(gone)
    assert [two.powers_of(POINTS, b"", EXPONENT) for _ in range(4)] == [EXPECTED] * 4
    assert not two.there
    # The other one is stopped, so that it is killed with a question that it did not answer.
    os.kill(second, signal.SIGSTOP)
    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(two.powers_of, POINTS, b"", EXPONENT) for _ in range(2)]
        os.kill(second, signal.SIGKILL)
        assert [each.result() for each in asked] == [EXPECTED] * 2


@pytest.mark.parametrize("python", ["", "/nowhere/python"])
def test_where_no_process_can_be_started_it_is_computed_here(
    monkeypatch: pytest.MonkeyPatch, python: str
) -> None:
    monkeypatch.setattr(sys, "executable", python)
    found = Workers(2)
    assert pids(found) == []
    assert found.powers_of(POINTS, b"", EXPONENT) == EXPECTED


def test_workers_end_with_what_started_them() -> None:
    """Guarantee of ``Workers``."""
    for close in (True, False):
        found = Workers(2)
        processes = [os.pidfd_open(pid) for pid in pids(found)]
        if close:
            found.close()
            assert found.powers_of(POINTS, b"", EXPONENT) == EXPECTED
        else:
            del found
        assert all(map(ends, processes))


def test_workers_end_once_they_are_idle() -> None:
    """Guarantee of ``Workers``."""
    found = Workers(1, idle=0.01)
    (process,) = [os.pidfd_open(pid) for pid in pids(found)]
    assert ends(process)
    assert found.powers_of(POINTS, b"", EXPONENT) == EXPECTED
    assert not found.there


@pytest.mark.usefixtures("elsewhere")
def test_a_copy_that_was_forked_ends_nothing(two: Workers) -> None:
    child = os.fork()
    if child == 0:
        two.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert two.there
    assert two.powers_of(POINTS, b"", EXPONENT) == EXPECTED


PARENT = """
import os, signal
from secagg.hazmat.curve import Exponent
from secagg.psi.workers import Workers
workers = Workers(1)
exponent = Exponent.generate()
workers.powers_of(workers.powers_of((9).to_bytes(32, "little"), b"", exponent), b"", exponent)
print(workers._started[0].process.pid, flush=True)
signal.pause()
"""


def test_workers_end_with_a_process_that_is_killed() -> None:
    """Guarantee of ``Workers``."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        process = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
        assert ends(process)


INTERRUPTED = """
import os, signal
from secagg.psi.workers import Workers
workers = Workers(2)
signal.signal(signal.SIGINT, signal.SIG_IGN)
os.killpg(0, signal.SIGINT)  # What a terminal does, as the workers start.
signal.signal(signal.SIGINT, signal.default_int_handler)
point = (9).to_bytes(32, "little")
from secagg.hazmat.curve import Exponent
for _ in range(4):
    workers.powers_of(point, b"", Exponent.generate())
print(workers.there)
"""


def test_an_interrupt_of_the_terminal_is_not_theirs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        capture_output=True,
        text=True,
        check=True,
        process_group=0,
        timeout=PATIENCE,
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_what_a_python_prints_at_its_start_is_no_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('hello')")
    monkeypatch.syspath_prepend(tmp_path)
    found = Workers(1)
    monkeypatch.setattr(workers, "powers_of", None)
    assert found.powers_of(POINTS, b"", EXPONENT) == EXPECTED
    found.close()
    assert capfd.readouterr().out == ""


class Broken(io.BytesIO):
    """Answers of which half can be read."""

    def __init__(self, error: type[Exception] | None) -> None:
        super().__init__(len(EXPECTED).to_bytes(4, "little") + bytes(POINT_SIZE))
        self.error = error

    def read(self, size: int | None = -1, /) -> bytes:
        if self.error is not None:
            raise self.error
        return super().read(size)


@pytest.mark.parametrize("error", [None, OSError, MemoryError])
def test_an_answer_that_was_half_read_is_not_taken_for_the_next(error: type[Exception] | None) -> None:
    """Guarantee of ``Workers``."""
    found = Workers(1)
    (worker,) = found._started
    worker.answers.close()
    worker.answers = Broken(error)  # type: ignore[assignment]  # What is read of it is the same.
    with pytest.raises(MemoryError) if error is MemoryError else nullcontext():
        assert found.powers_of(POINTS, b"", EXPONENT) == EXPECTED
    assert not found.there
    assert found.powers_of(EXPECTED, b"", EXPONENT.inverse) == EXPONENT.inverse.powers(EXPECTED)


def test_no_worker_is_refused() -> None:
    with pytest.raises(ParameterError, match="count is 0"):
        Workers(0)


@pytest.mark.usefixtures("elsewhere")
def test_a_file_beside_the_users_own_is_not_taken_for_a_module(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("nacl", "rbcl", "secagg", "struct"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    found = Workers(1)
    assert found.powers_of(POINTS, b"", EXPONENT) == EXPECTED
    found.close()


def test_nothing_secret_is_in_arguments_or_environment(two: Workers) -> None:
    assert two.powers_of(POINTS, b"", EXPONENT) == EXPECTED
    for pid in pids(two):
        told = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        assert b"secagg.psi.workers" in told
        for secret in (EXPONENT.to_bytes(), EXPONENT.to_bytes()[:POINT_SIZE], POINTS[:POINT_SIZE]):
            assert secret not in told
            assert secret.hex().encode() not in told
