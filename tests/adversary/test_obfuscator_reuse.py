"""Attack ``obfuscator_reuse``: find two ciphertexts with one obfuscator, and read how what they hide differs.

Modulo n a ciphertext is its obfuscator alone, so whoever sees two sees whether they share one. Threads, a
forked process, a process that was killed and started again, and whoever finds a file: none may come by one
twice.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import warnings
from collections import deque
from pathlib import Path
from textwrap import dedent
from typing import Any

import gmpy2
import numpy as np
import pytest

from secagg.errors import UsageError
from secagg.paillier.ciphertexts import encrypt
from secagg.paillier.obfuscators import Pool
from secagg.paillier.public import PublicKey
from tests.paillier_keys import secret_key

KEY = secret_key().public
ROOT = Path(__file__).parents[2]
COUNT = 12


def ciphertexts(pool: Pool, count: int = COUNT) -> list[int]:
    """Return what a silo sends: other plaintexts each time."""
    rows = np.frombuffer(os.urandom(8 * count), np.uint8).reshape(count, 8)
    return [int.from_bytes(one, "big") for one in encrypt(rows, pool)]


def differences(sent: list[int]) -> list[int]:
    """Attack: return the differences of plaintexts that share an obfuscator."""
    n, by_residue, found = int(KEY.n), dict[int, int](), []
    for ciphertext in sent:
        other = by_residue.setdefault(ciphertext % n, ciphertext)
        if other is not ciphertext:
            quotient = int(ciphertext * gmpy2.invert(other, n * n) % (n * n))
            assert quotient % n == 1
            found.append((quotient - 1) // n)
    return found


def filled(count: int = 2 * COUNT) -> Pool:
    pool = Pool(KEY)
    pool.fill(count)
    return pool


def from_threads() -> list[int]:
    pool, sent = filled(), list[int]()
    threads = [threading.Thread(target=lambda: sent.extend(ciphertexts(pool))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sent


def from_a_fork() -> list[int]:
    pool = filled()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # The child only counts, writes and ends.
        child = os.fork()
    if not child:
        with os.fdopen(writing, "w") as file:
            file.write(" ".join(map(str, ciphertexts(pool))))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        sent = [int(number) for number in file.read().split()]
    os.waitpid(child, 0)
    assert len(sent) == COUNT
    return sent + ciphertexts(pool)


def from_a_copy() -> list[int]:
    pool = filled()
    try:
        copied = pickle.loads(pickle.dumps(pool))  # noqa: S301 - the attack
    except UsageError:
        return []
    return ciphertexts(pool) + ciphertexts(copied)


def test_obfuscator_reuse() -> None:
    assert differences(from_threads()) == [], "two threads have one obfuscator"
    assert differences(from_a_fork()) == [], "a forked process has its parent's obfuscators"
    assert differences(from_a_copy()) == [], "a pool was copied"


def test_a_process_that_was_killed_leaves_no_obfuscator(tmp_path: Path) -> None:
    script = f"""
    import os, signal, sys
    sys.path.insert(0, {str(ROOT)!r})
    from secagg.paillier.obfuscators import Pool
    from tests.paillier_keys import secret_key
    pool = Pool(secret_key().public)
    pool.fill({COUNT}, threads=1)
    print(*[pool.take() for _ in range({COUNT} // 2)], sep="\\n", flush=True)
    print(*[made for _, made in pool._ready], sep="\\n", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    seen: set[int] = set()
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", dedent(script)],
            cwd=tmp_path,
            env={"TMPDIR": str(tmp_path), "HOME": str(tmp_path), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        made = {int(line) for line in done.stdout.split()}
        assert len(made) == COUNT
        assert not made & seen, "a process that was started again has obfuscators of the one before"
        seen |= made
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def peek(self: Pool) -> Any:
    """``Pool._take`` that leaves what it gives."""
    return self._ready[0] if self._ready else self._make()


def in_turn(self: Pool) -> Any:
    """``Pool._take`` that uses what it gave again, when all is used."""
    taken = self._ready.popleft()
    self._ready.append(taken)
    return taken


def of_any_process(self: Pool) -> deque[Any]:
    """``Pool._of_this_process`` without a look at the process."""
    return self._ready


def reduced(self: Pool) -> Any:
    """``Pool.__reduce__`` as it comes."""
    return _pool, (self.key.to_bytes(), list(self._ready))


def _pool(key: bytes, ready: list[Any]) -> Pool:
    pool = Pool(PublicKey.from_bytes(key))
    pool._ready = deque(ready)
    return pool


@pytest.mark.parametrize(
    ("defence", "mutant", "broken"),
    [
        ("secagg.paillier.obfuscators.Pool._take", peek, "two threads"),
        ("secagg.paillier.obfuscators.Pool._take", in_turn, "two threads"),
        ("secagg.paillier.obfuscators.Pool._of_this_process", of_any_process, "a forked process"),
        ("secagg.paillier.obfuscators.Pool.__reduce__", reduced, "a pool was copied"),
    ],
)
def test_obfuscator_reuse_mutant(
    monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Any, broken: str
) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match=broken):
        test_obfuscator_reuse()
