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
from secagg.ranges import whole

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
        for _ in range(whole("count", count, least=1)):
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
        worker, found = self._free.get(), None
        try:
            if worker is not None:
                found = worker.ask(inputs, tag, exponent)
        except (OSError, ValueError):  # It is gone; or its pipes are closed.
            pass
        finally:
            if worker is not None and found is None:
                worker.end()  # Or the rest of this answer would be taken for the next one.
                worker = None
            self._free.put(worker)
        return found or powers_of(inputs, tag, exponent)


class _Worker:
    def __init__(self, idle: float) -> None:
        if not sys.executable or getattr(sys, "frozen", False):
            raise OSError("this program is not run by a Python that could run another")
        # Not its standard output, into which what a Python imports at its start may print.
        answers, end = os.pipe()
        try:
            self.process = subprocess.Popen(  # noqa: S603 - this Python and this module
                # -P: a file beside the user's own is not taken for a module.
                [sys.executable, "-P", "-m", __name__, str(end), str(idle)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=(end,),
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(each or str(Path.cwd()) for each in sys.path),
                },
                process_group=0,  # An interrupt from the terminal is for whoever asks, who decides.
            )
        except OSError:
            os.close(answers)
            raise
        finally:
            os.close(end)
        self.answers = os.fdopen(answers, "rb")

    def ask(self, inputs: bytes | memoryview, tag: bytes, exponent: Exponent) -> bytes:
        """Return the powers; nothing if the worker has no answer.

        Raises:
            OSError: it is gone.
        """
        asked = self.process.stdin
        if asked is None:  # For the type checker: it is a pipe.
            raise OSError
        asked.write(_QUESTION.pack(exponent.to_bytes(), len(tag), len(inputs)) + tag + inputs)
        asked.flush()
        (size,) = _ANSWER.unpack(self._read(_ANSWER.size))
        return self._read(size)

    def _read(self, size: int) -> bytes:
        if len(found := self.answers.read(size)) < size:
            raise OSError("it is gone")
        return found

    def end(self) -> None:
        """Kill it, which has nothing to lose, and wait until it is gone."""
        self.process.kill()
        self.answers.close()
        with suppress(OSError), self.process:
            pass


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.end()


def _answer(end: int, idle: float) -> None:
    """Be a worker."""
    asked = sys.stdin.buffer
    with os.fdopen(end, "wb") as told:
        # Whoever asks waits for the answer, so nothing is read ahead of a question.
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
        _answer(int(sys.argv[1]), float(sys.argv[2]))
    except BrokenPipeError:
        os._exit(1)  # Nobody is left to tell, not even that.
