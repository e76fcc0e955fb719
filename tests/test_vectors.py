"""Every published case against the product, and the published files against what would be written now."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import pytest

from secagg import wire
from secagg.errors import SecaggError
from secagg.messages import FromCoordinator, FromSilo
from tests.vectors import generate
from tests.vectors.cases import full_inputs, is_failure
from tests.vectors.changes import unchanged
from tests.vectors.notation import FOLDER, Json, load, read_frame
from tests.vectors.operations import OPERATIONS, perform
from tests.vectors.scripts import SCRIPTS, leave

LARGEST = 850_000
"""Bytes of all files together: they are read by people."""

FILES = {path.stem: load(path) for path in sorted(FOLDER.glob("*.json"))}
GROUPS = {name: content for name, content in FILES.items() if "script" not in content}
INPUTS = {name: full_inputs(content["cases"]) for name, content in GROUPS.items()}


def cases(names: Iterator[str]) -> list[object]:
    return [
        pytest.param(name, case, id=f"{name}: {case['name']}")
        for name in names
        for case in FILES[name]["cases"]
    ]


@pytest.mark.parametrize(("group", "case"), cases(iter(GROUPS)))
def test_case(group: str, case: Json) -> None:
    result = perform(case["operation"], INPUTS[group][case["name"]])
    assert result == {key: case[key] for key in ("output", "error") if key in case}


@pytest.mark.parametrize("kind", SCRIPTS)
def test_script(kind: str) -> None:
    session = SCRIPTS[kind](FILES[kind]["setup"])
    for step in FILES[kind]["script"]:
        assert step | session(step) == step
    assert session.outcome == FILES[kind]["outcome"]


@pytest.mark.parametrize(("kind", "case"), cases(iter(SCRIPTS)))
def test_leaving_the_script(kind: str, case: Json) -> None:
    asked = ("name", "after", "setup", "steps")
    assert leave(kind, FILES[kind], case) == {key: case[key] for key in case if key not in asked}


@pytest.mark.full
def test_the_files_are_what_the_generator_writes() -> None:
    written = generate.texts()
    assert written.keys() == {f"{name}.json" for name in FILES}, "run `make vectors`"
    differing = [
        name for name, text in written.items() if (FOLDER / name).read_text(encoding="utf-8") != text
    ]
    assert not differing, "run `make vectors`, and look at the difference before it is committed"


@pytest.mark.parametrize("name", FILES)
def test_more_cases_fail_than_pass(name: str) -> None:
    failing = [
        case for case in FILES[name]["cases"] if ("error" in case if name in SCRIPTS else is_failure(case))
    ]
    passing = len(FILES[name]["cases"]) - len(failing) + len(FILES[name].get("script", []))
    assert len(failing) > passing


@pytest.mark.parametrize("name", FILES)
def test_names_of_cases_are_distinct(name: str) -> None:
    names = [case["name"] for case in FILES[name]["cases"]]
    assert len(set(names)) == len(names)


def test_the_files_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.glob("*.json")) < LARGEST


def test_every_operation_has_a_case_that_passes() -> None:
    passing = {
        case["operation"] for group in GROUPS.values() for case in group["cases"] if not is_failure(case)
    }
    assert passing == OPERATIONS.keys()


def frames() -> Iterator[Json]:
    """Every frame of the wire cases and of the two scripts, in either direction."""
    for case in FILES["wire"]["cases"]:
        yield INPUTS["wire"][case["name"]]
    for step in FILES["silo"]["script"]:
        yield from (step[key] for key in ("receive", "reply") if step[key] is not None)
    for step in FILES["coordinator"]["script"]:
        if "message" in step:
            yield step["message"]
        for entry in step["outbox"]:
            first = step["outbox"][0]["frame"]
            yield unchanged(entry["frame"], first) if "like" in entry["frame"] else entry["frame"]


def test_every_message_has_a_frame() -> None:
    seen = set()
    for frame in frames():
        for decode in (wire.decode_from_silo, wire.decode_from_coordinator):
            try:
                seen.add(type(decode(*read_frame(frame))))
            except SecaggError:
                continue
    assert seen == {*get_args(FromSilo), *get_args(FromCoordinator)}
