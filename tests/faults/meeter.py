"""A party of a meeting in a process of its own, which can be told to stop at a step and wait there.

    python -m tests.faults.meeter silo.toml MEETING PARTY,PARTY FOLDER [--patience S] [--stop-at STEP FIFO]

Its side chains digests of what all parties say, and keeps its steps in FOLDER. What it learns is printed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from secagg.conversation import Side, hear, say
from secagg.errors import SecaggError, exit_code
from secagg.messages import Part
from secagg.names import SiloId
from secagg.terms import Digest
from secagg.vertical.checkpoints import Checkpoints, agreed_step

STEPS = 8


class Link(Part, frozen=True, tag=True):
    """To all others, in every step."""

    step: int
    state: Digest


class OnDisk:
    """Checkpoints in files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def save(self, step: int, state: bytes) -> None:
        new = self._folder / "new"
        with new.open("wb") as file:
            file.write(state)
            file.flush()
            os.fsync(file.fileno())
        new.rename(self._folder / str(step))
        (self._folder / str(step - 2)).unlink(missing_ok=True)

    def load(self) -> Mapping[int, bytes]:
        return {int(path.name): path.read_bytes() for path in self._folder.glob("[0-9]*")}


def chain(
    name: SiloId, others: tuple[SiloId, ...], checkpoints: Checkpoints, reached: Callable[[int], None]
) -> Side[bytes]:
    """Return the last digest; the same whatever is lost on the way."""
    first, kept = yield from agreed_step(bytes(32), others, checkpoints)
    state = kept if kept is not None else hashlib.sha256(name.encode()).digest()
    for step in range(first + 1, STEPS + 1):
        for other in others:
            yield from say(other, Link(step, state))
        heard = []
        for other in others:
            link = yield from hear(other, Link)
            if link.step != step:
                raise AssertionError("the parties are at different steps")
            heard.append(link.state)
        state = hashlib.sha256(state + b"".join(heard)).digest()
        checkpoints.save(step, state)
        reached(step)
    return state


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("meeting")
    parser.add_argument("parties")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--patience", type=float, default=120.0)
    parser.add_argument("--stop-at", nargs=2, default=(0, ""))
    given = parser.parse_args()

    from secagg import logs
    from silo.config import SiloConfig
    from silo.meeting import meet_now

    logs.configure("info", extra="silo")
    stop, fifo, opened = int(given.stop_at[0]), given.stop_at[1], set[str]()

    def reached(step: int) -> None:
        print(f"step {step}", flush=True)
        if step == stop and fifo not in opened:
            # Once: others may not have heard of this step, so that it comes again when they have met anew.
            Path(fifo).read_bytes()  # Until the test opens it.
            opened.add(fifo)

    config = SiloConfig.load(given.config)
    parties = tuple(given.parties.split(","))
    others = tuple(party for party in parties if party != config.name)
    checkpoints = OnDisk(given.folder)
    try:
        learned = meet_now(
            config,
            given.meeting,
            parties,
            lambda: chain(config.name, others, checkpoints, reached),
            patience=given.patience,
        )
    except SecaggError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return exit_code(error)
    print(f"learned {learned.hex()}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
