"""Scripts: a session driven frame by frame, and cases that leave the script after so many steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from secagg import wire
from secagg.errors import SecaggError
from secagg.hazmat.identity import IdentityKey
from secagg.masking.coordinator import MaskingCoordinator
from secagg.masking.silo import MaskingSilo
from secagg.records import decode_silo_record, encode_record
from secagg.session import Aggregate
from secagg.survivors import Locks
from tests.vectors.notation import (
    Json,
    Replay,
    read,
    read_frame,
    read_roster,
    write,
    write_error,
    write_frame,
)
from tests.vectors.operations import terms_of

Answer = Callable[[Json], Json]
"""Take one step of a script, return what it causes."""


class SiloScript:
    """Drives ``MaskingSilo``: a frame in; a frame and journal lines out."""

    def __init__(self, setup: Json) -> None:
        terms = terms_of(setup["opened"])
        self._locks = Locks(decode_silo_record(line) for line in read(setup["journal"]))
        self._session = MaskingSilo(
            setup["silo"],
            identity=IdentityKey.from_private_bytes(read(setup["identity"])),
            roster=read_roster(setup["roster"]),
            terms=terms,
            vector=np.frombuffer(read(setup["vector"]), terms.encoding.dtype),
            locks=self._locks,
            data_set=setup["data_set"],
            random=Replay(read(setup["random"])),
            threads=1,
        )

    def __call__(self, step: Json) -> Json:
        taken = self._session.receive(wire.decode_from_coordinator(*read_frame(step["receive"])))
        for record in taken.records:
            self._locks.apply(record)
        reply = None if taken.output is None else write_frame(taken.output)
        return {"records": write([encode_record(r) for r in taken.records]), "reply": reply}

    @property
    def outcome(self) -> Json:
        return write_outcome(self._session.outcome)


class CoordinatorScript:
    """Drives ``MaskingCoordinator``: a frame of a silo, a loss or a time in; frames for silos out."""

    def __init__(self, setup: Json) -> None:
        self._session = MaskingCoordinator(
            read_roster(setup["roster"]),
            terms=terms_of(setup["opened"]),
            attempt=setup["attempt"],
            seconds=float(setup["seconds"]),
            threads=1,
        )

    def __call__(self, step: Json) -> Json:
        match step["event"]:
            case "open":
                taken = self._session.open(float(step["now"]))
            case "receive":
                message = wire.decode_from_silo(*read_frame(step["message"]))
                taken = self._session.receive(step["sender"], message)
            case "lose":
                taken = self._session.lose(step["silo"], struck=step.get("struck", False))
            case "advance":
                taken = self._session.advance(float(step["now"]))
            case other:
                raise ValueError(other)
        outbox: list[dict[str, Any]] = []
        for silo, frame in ((silo, write_frame(message)) for silo, message in taken.output.items()):
            same = next((entry for entry in outbox if entry["frame"] == frame), None)
            if same is None:
                outbox.append({"to": [silo], "frame": frame})
            else:
                same["to"].append(silo)
        for entry in outbox[1:]:
            entry["frame"] = changed(entry["frame"], 0, outbox[0]["frame"]) or entry["frame"]
        return {"outbox": outbox}

    @property
    def outcome(self) -> Json:
        return write_outcome(self._session.outcome)


def write_outcome(outcome: Aggregate | None) -> Json:
    """Return an opened sum as it stands in a file."""
    return (
        None if outcome is None else write({"total": outcome.total.tobytes(), "survivors": outcome.survivors})
    )


SCRIPTS: dict[str, Callable[[Json], SiloScript | CoordinatorScript]] = {
    "silo": SiloScript,
    "coordinator": CoordinatorScript,
}


def leave(kind: str, content: Json, case: Json) -> Json:
    """Follow the script for ``after`` steps, take the case's own ``steps``, and return what the last causes.

    Every step but the last must be accepted.
    """
    session = SCRIPTS[kind](content["setup"] | case.get("setup", {}))
    steps = [lengthen(step, content["script"]) for step in case["steps"]]
    for step in (*content["script"][: case["after"]], *steps[:-1]):
        session(step)
    try:
        return session(steps[-1])
    except SecaggError as error:
        return {"error": write_error(error)}


FRAMES = ("receive", "message")
"""Under which of these a step holds the frame that it is given."""
TYPE = 16
"""Bytes of a header that tell its type."""
CLOSE = 16
"""Changes with fewer equal bytes between them are written as one."""


def shorten(step: Json, script: Json) -> Json:
    """Write the header of a step's frame as changes to one of the script, where that is shorter."""
    for key, frame in ((key, step[key]) for key in FRAMES if key in step):
        for at, like in ((at, other[key]) for at, other in enumerate(script) if key in other):
            shortened = changed(frame, at, like)
            if shortened is not None:
                return step | {key: shortened}
    return step


def lengthen(step: Json, script: Json) -> Json:
    """Return a step with the whole header of its frame."""
    for key, frame in ((key, step[key]) for key in FRAMES if key in step and "like" in step[key]):
        return step | {key: unchanged(frame, script[frame["like"]][key])}
    return step


def changed(frame: Json, at: int, like: Json) -> Json | None:
    """Return ``frame`` as changes to ``like``, the frame at ``at``; None if that is hardly shorter."""
    header, other = read(frame["header"]), read(like["header"])
    if header[:TYPE] != other[:TYPE]:
        return None
    changes = changes_between(other, header)
    if sum(12 + len(new) for _, _, new in changes) > len(header) // 2:
        return None
    rest = {name: value for name, value in frame.items() if name != "header"}
    return {"like": at, "replace": write(changes)} | rest


def unchanged(frame: Json, like: Json) -> Json:
    """Return a frame that was written as changes to ``like`` with its whole header."""
    header = read(like["header"])
    for start, end, new in reversed(read(frame["replace"])):
        header = header[:start] + new + header[end:]
    rest = {name: value for name, value in frame.items() if name not in {"like", "replace"}}
    return {"header": write(header)} | rest


def changes_between(old: bytes, new: bytes) -> list[tuple[int, int, bytes]]:
    """Return (start, end, bytes) in order: what to put in place of ``old[start:end]`` to get ``new``."""
    changes: list[tuple[int, int, int, int]] = []
    for kind, start, end, first, last in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        if changes and start - changes[-1][1] < CLOSE:
            changes[-1] = (changes[-1][0], end, changes[-1][2], last)
        else:
            changes.append((start, end, first, last))
    return [(start, end, new[first:last]) for start, end, first, last in changes]


class Script:
    """A file in the making: the setup, the honest script, and cases that leave it."""

    def __init__(self, kind: str, about: str, setup: Json, steps: Iterable[Json]) -> None:
        self.kind = kind
        session = SCRIPTS[kind](setup)
        script = [step | session(step) for step in steps]
        self.content: Json = {"about": about, "setup": setup, "script": script, "outcome": session.outcome}
        self.content["cases"] = []

    def leave(self, name: str, after: int, *steps: Json, expected: str, setup: Json | None = None) -> None:
        """Add a case; ``expected`` is the class of the error, or the type of the reply."""
        shortened = [shorten(step, self.content["script"]) for step in steps]
        case: Json = {"name": name, "after": after, "steps": shortened}
        if setup is not None:
            case["setup"] = setup
        answer = leave(self.kind, self.content, case)
        seen = answer["error"]["class"] if "error" in answer else "accepted"
        if seen != expected:
            raise AssertionError(f"{name}: {expected} was declared, {seen} came")
        self.content["cases"].append(case | answer)
