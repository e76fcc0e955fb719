"""Processes that compute powers for this one: of many, threads spend a tenth waiting for each other.

A worker is this module, run by the same Python. It is told exponents and points through a pipe, so that
nothing of them stands in its arguments or its environment. It opens no file. It ends, with all that it was
told, once it is asked nothing for some seconds, and when the pipe ends: with the ``Workers`` that started it,
or with this process, however that ends.

What a worker does not answer, because it was killed, could not be started or met a wrong point, is computed
here, where an error of it is raised.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import weakref
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from select import select

from secagg.errors import SecaggError
from secagg.hazmat.curve import Exponent, hash_to_points

IDLE = 10.0
"""Seconds: longer than one party's turn takes to begin where all are in one process."""

_QUESTION = struct.Struct("<64sBI")
"""An exponent; bytes of a tag; bytes of inputs. Both follow."""
_ANSWER = struct.Struct("<I")
"""Bytes of powers, which follow; none where there is no answer."""
_LENGTH = struct.Struct(">I")


def framed(messages: Iterable[bytes]) -> bytes:
    """Return ``messages`` in one row, as ``powers_of`` reads them."""
    return b"".join([_LENGTH.pack(len(each)) + each for each in messages])


def powers_of(inputs: bytes | memoryview, tag: bytes, exponent: Exponent) -> bytes:
    """Return powers, 32 bytes each, in the order of ``inputs``.

    Args:
        inputs: points, or what ``framed`` gave if there is a tag: then it is the points of messages.
        tag: see ``hash_to_points``; empty if inputs are points.
        exponent: a secret.

    Raises:
        MalformedMessage: see ``Exponent.powers``.
    """
    return exponent.powers(hash_to_points(_messages(bytes(inputs)), tag) if tag else inputs)


def _messages(row: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(row):
        start = at + _LENGTH.size
        at = start + _LENGTH.unpack_from(row, at)[0]
        found.append(row[start:at])
    return found


class Workers:
    """Some processes, each of which computes for one thread of this one at a time.

    Args:
        count: of processes, at least 1.
        idle: seconds after which one ends that is asked nothing.

    Guarantees:
        What it gives is what ``powers_of`` gives, whatever becomes of the processes.
        They end with this object, by ``close``, with this process, and once they are idle.
    """

    def __init__(self, count: int, *, idle: float = IDLE) -> None:
        self._free: SimpleQueue[_Worker | None] = SimpleQueue()
        self._started: list[_Worker] = []
        self._end = weakref.finalize(self, _end, self._started)
        for _ in range(count):
            worker = None
            with suppress(OSError):  # No memory, no right, no more processes.
                self._started.append(worker := _Worker(idle))
            self._free.put(worker)

    @property
    def there(self) -> bool:
        """Whether all that were started still are."""
        return all(worker.process.poll() is None for worker in self._started)

    def close(self) -> None:
        """End the processes. What is asked for from now on is computed here."""
        self._end()

    def powers_of(self, inputs: bytes | memoryview, tag: bytes, exponent: Exponent) -> bytes:
        """Do what ``powers_of`` does, elsewhere."""
        worker = self._free.get()
        found = b""
        try:
            if worker is not None:
                found = worker.ask(inputs, tag, exponent)
        except (OSError, ValueError):  # It is gone; or its pipes are closed.
            worker = None
        finally:
            self._free.put(worker)
        return found or powers_of(inputs, tag, exponent)


class _Worker:
    def __init__(self, idle: float) -> None:
        if not sys.executable or getattr(sys, "frozen", False):
            raise OSError("this program is not run by a Python that could run another")
        # -P: a file beside the user's own is not taken for a module.
        self.process = subprocess.Popen(  # noqa: S603 - this Python and this module
            [sys.executable, "-P", "-m", __name__, str(idle)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(each or str(Path.cwd()) for each in sys.path)},
        )

    def ask(self, inputs: bytes | memoryview, tag: bytes, exponent: Exponent) -> bytes:
        """Return the powers; nothing if the worker has no answer.

        Raises:
            OSError: it is gone.
        """
        said, heard = self.process.stdin, self.process.stdout
        if said is None or heard is None:  # For the type checker: both are pipes.
            raise OSError
        said.write(_QUESTION.pack(exponent.to_bytes(), len(tag), len(inputs)) + tag + inputs)
        said.flush()
        head = heard.read(_ANSWER.size)
        if len(head) < _ANSWER.size:
            raise OSError
        (size,) = _ANSWER.unpack(head)
        found = heard.read(size)
        if len(found) < size:
            raise OSError
        return found


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.process.kill()  # It has nothing to lose.
    for worker in workers:
        with suppress(OSError), worker.process:  # Closes the pipes and waits.
            pass


def _answer(idle: float) -> None:
    """Be a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Whoever asks decides, not the terminal both are run from.
    asked, told = sys.stdin.buffer, sys.stdout.buffer
    # Whoever asks waits for the answer, so what is read ahead of a question is nothing.
    while select([asked], [], [], idle)[0] and len(head := asked.read(_QUESTION.size)) == _QUESTION.size:
        secret, tag_size, size = _QUESTION.unpack(head)
        tag, inputs = asked.read(tag_size), asked.read(size)
        try:
            found = powers_of(inputs, tag, Exponent.from_bytes(secret))
        except SecaggError:  # Met again, and raised, where it was asked for.
            found = b""
        told.write(_ANSWER.pack(len(found)) + found)
        told.flush()


if __name__ == "__main__":
    try:
        _answer(float(sys.argv[1]))
    except BrokenPipeError:
        os._exit(1)  # Nobody is left to tell, not even that.
