"""Scripts: a session driven frame by frame, and cases that leave the script after so many steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from secagg.errors import SecaggError
from tests.vectors import drivers
from tests.vectors.changes import lengthen, shorten
from tests.vectors.drivers import Driver
from tests.vectors.notation import Json, write, write_error

SCRIPTS: dict[str, Callable[[Json], Driver]] = {
    "silo": drivers.SiloScript,
    "coordinator": drivers.CoordinatorScript,
    "noised_silo": drivers.NoisedSilo,
    "paillier_silo": drivers.PaillierSilo,
    "paillier_coordinator": drivers.PaillierCoordinator,
    "threshold_silo": drivers.ThresholdPaillierSilo,
    "threshold_coordinator": drivers.PaillierCoordinator,
    "ckks_silo": drivers.CKKSSilo,
    "ckks_coordinator": drivers.CKKSCoordinator,
}
"""File -> what its script drives."""


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
        return {"error": write_error(error)} | ({"records": write(session.synced)} if session.synced else {})


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
