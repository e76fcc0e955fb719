"""The trainer of these tests: quick, repeatable, and it writes down whenever it trains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from secagg import Evaluation, TrainingSettings, Update
from secagg.names import RealVector

APP = "tests.faults.app:trainer"


@dataclass(frozen=True)
class Counted:
    """Moves weights by amounts that depend on the seed, the round and the weights.

    Args:
        seed: of the silo.
        diary: a file that gets the number of each round that is trained; none if empty.
        gate: where training of round r waits, if a named pipe ``<gate>.<r>`` is there, until somebody opens
            it to write.
        fails: training raises with this text, if it is not empty.
    """

    seed: int
    diary: str = ""
    gate: str = ""
    fails: str = ""

    def train(self, weights: RealVector, settings: TrainingSettings) -> Update:
        if self.diary:
            with Path(self.diary).open("a", encoding="utf-8") as file:
                file.write(f"{settings.round}\n")
        if self.gate and (gate := Path(f"{self.gate}.{settings.round}")).exists():
            gate.read_bytes()
        if self.fails:
            raise ValueError(self.fails)
        step = np.random.default_rng((self.seed, settings.round)).normal(size=weights.size)
        return Update(weights + 0.1 * step - 0.01 * weights, 10.0 + self.seed)

    def evaluate(self, weights: RealVector) -> Evaluation:
        return Evaluation({"loss": float(np.mean(weights**2)) + self.seed}, 10.0)


def trainer(*, seed: int, diary: str = "", gate: str = "", fails: str = "") -> Counted:
    return Counted(seed, diary, gate, fails)
