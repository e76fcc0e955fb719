"""A group of cases: the author says what must pass and what must fail, the product says with which bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from tests.vectors.notation import Json, difference, merge, write
from tests.vectors.operations import perform


def full_inputs(cases: list[Json]) -> dict[str, Json]:
    """Return the whole input of each case by its name: the one it is like, with its own put over it."""
    inputs: dict[str, Json] = {}
    for case in cases:
        changes = case["input"]
        inputs[case["name"]] = merge(inputs[case["like"]], changes) if "like" in case else changes
    return inputs


def is_failure(case: Json) -> bool:
    """Whether a case is one that must fail: an error, or an answer that is false."""
    return "error" in case or case["output"] is False


@dataclass
class Group:
    """The cases of one file."""

    about: str
    cases: list[Json] = field(default_factory=list)
    _inputs: list[tuple[str, str, Json]] = field(default_factory=list)

    def passes(self, name: str, operation: str, **given: object) -> Json:
        """Add a case that must pass; return its output."""
        case = self._add(name, operation, given)
        if is_failure(case):
            raise AssertionError(f"{name}: {case}")
        return case["output"]

    def fails(self, name: str, operation: str, expected: str | bool, **given: object) -> None:
        """Add a case that must fail with this error class, or be answered with false."""
        case = self._add(name, operation, given)
        seen = case["error"]["class"] if "error" in case else case["output"]
        if seen != expected:
            raise AssertionError(f"{name}: {expected} was declared, {seen} came")

    @property
    def content(self) -> Json:
        """What stands in the file."""
        return {"about": self.about, "cases": self.cases}

    def _add(self, name: str, operation: str, given: object) -> Json:
        stored = write(given)
        result = perform(operation, stored)
        self.cases.append(self._shortened(name, operation, stored) | result)
        self._inputs.append((name, operation, stored))
        return result

    def _shortened(self, name: str, operation: str, stored: Json) -> Json:
        """Write the input as changes to that of an earlier case, where that is much shorter."""
        best: Json = {"name": name, "operation": operation, "input": stored}
        size = len(json.dumps(stored)) // 2
        for other, same, earlier in self._inputs:
            changes = difference(earlier, stored) if same == operation else None
            if changes is not None and len(json.dumps(changes)) < size:
                best = {"name": name, "operation": operation, "like": other, "input": changes}
                size = len(json.dumps(changes))
        return best
