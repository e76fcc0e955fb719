"""Frames written as changes to another frame, because most of a case's frame is that of the honest script."""

from __future__ import annotations

from difflib import SequenceMatcher

from tests.vectors.notation import Json, read, write

FRAMES = ("receive", "message")
"""Under which of these a step holds the frame that it is given."""
TYPE = 16
"""Bytes of a header that tell its type."""
CLOSE = 16
"""Changes with fewer equal bytes between them are written as one."""


def shorten(step: Json, script: Json) -> Json:
    """Write a step's frame as changes to one of the script, where that is shorter."""
    for key, frame in ((key, step[key]) for key in FRAMES if key in step):
        for at, like in ((at, other[key]) for at, other in enumerate(script) if key in other):
            shortened = changed(frame, at, like)
            if shortened is not None:
                return step | {key: shortened}
    return step


def lengthen(step: Json, script: Json) -> Json:
    """Return a step with its whole frame."""
    for key, frame in ((key, step[key]) for key in FRAMES if key in step and "like" in step[key]):
        return step | {key: unchanged(frame, script[frame["like"]][key])}
    return step


def changed(frame: Json, at: int, like: Json) -> Json | None:
    """Return ``frame`` as changes to ``like``, the frame at ``at``; None if that is hardly shorter."""
    header, other = read(frame["header"]), read(like["header"])
    if header[:TYPE] != other[:TYPE]:
        return None
    found = {"replace": changes_between(other, header)}
    whole, rest = len(header), {name: value for name, value in frame.items() if name != "header"}
    if isinstance(frame.get("payload"), str) and isinstance(like.get("payload"), str):
        payload = read(frame["payload"])
        inside = changes_within(read(like["payload"]), payload)
        if cost(inside) <= len(payload) // 2:
            found["replace_payload"] = inside
            whole, rest = whole + len(payload), {}
    if sum(map(cost, found.values())) > whole // 2:
        return None
    return {"like": at} | write(found) | rest


def cost(changes: list[tuple[int, int, bytes]]) -> int:
    """Return about how many bytes it takes to write changes down."""
    return sum(12 + len(new) for _, _, new in changes)


def unchanged(frame: Json, like: Json) -> Json:
    """Return a frame that was written as changes to ``like`` whole again."""
    whole = {"header": write(replaced(read(like["header"]), read(frame["replace"])))}
    if "replace_payload" in frame:
        return whole | {"payload": write(replaced(read(like["payload"]), read(frame["replace_payload"])))}
    return whole | {name: value for name, value in frame.items() if name not in {"like", "replace"}}


def replaced(old: bytes, changes: Json) -> bytes:
    """Return ``old`` with (start, end, bytes) put in place, positions being those before any change."""
    for start, end, new in reversed(changes):
        old = old[:start] + new + old[end:]
    return old


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


def changes_within(old: bytes, new: bytes) -> list[tuple[int, int, bytes]]:
    """Return changes as ``changes_between`` does, of bytes too many to look for what moved."""
    if len(old) != len(new):
        most = min(len(old), len(new))
        first = next((at for at in range(most) if old[at] != new[at]), most)
        last = next((at for at in range(most - first) if old[-1 - at] != new[-1 - at]), most - first)
        return [(first, len(old) - last, new[first : len(new) - last])]
    ranges: list[tuple[int, int]] = []
    for at in (at for at in range(len(old)) if old[at] != new[at]):
        if ranges and at - ranges[-1][1] < CLOSE:
            ranges[-1] = (ranges[-1][0], at + 1)
        else:
            ranges.append((at, at + 1))
    return [(start, end, new[start:end]) for start, end in ranges]
