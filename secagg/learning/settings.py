"""A job's training parameters as they travel: every silo rebuilds strategy and settings from the terms.

They are part of the training digest, so no silo can be told others than its peers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from secagg.errors import FaultyCoordinator, ParameterError
from secagg.hazmat.framing import digest
from secagg.learning.strategies import FedAdam, FedAvg, FedProx, FedYogi, Strategy
from secagg.learning.trainer import TrainingSettings
from secagg.ranges import positive, shown, whole
from secagg.terms import Setting, Terms


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What every round of a job trains with.

    Args:
        strategy: how the mean update becomes the next model.
        length: entries of the global model.
        epochs: local passes a round, at least 1.
        learning_rate: local step size, above 0; None for each trainer's own.
        seed: 0 to 2**63 - 1; each round derives its own from it. For shuffling only, never for secrets.
        app: import path of the code that silos train with; empty where trainers are handed in.

    Raises:
        ParameterError: another type, or outside its range.
    """

    strategy: Strategy
    length: int
    epochs: int = 1
    learning_rate: float | None = None
    seed: int = 0
    app: str = ""

    def __post_init__(self) -> None:
        # Not isinstance: the terms name the class, and no silo would follow a subclass that it cannot name.
        if type(self.strategy) not in get_args(Strategy):
            names = ", ".join(kind.__name__ for kind in get_args(Strategy))
            raise ParameterError(f"strategy is {shown(self.strategy)}, must be an instance of one of {names}")
        self._keep("length", whole("length", self.length, least=1))
        self._keep("epochs", whole("epochs", self.epochs, least=1))
        if self.learning_rate is not None:
            self._keep("learning_rate", positive("learning_rate", self.learning_rate))
        self._keep("seed", whole("seed", self.seed))
        if not 0 <= self.seed < 2**63:
            raise ParameterError(f"seed is {self.seed}, must be 0 to 2**63 - 1")

    def _keep(self, name: str, value: float) -> None:
        object.__setattr__(self, name, value)

    def settings(self) -> tuple[Setting, ...]:
        """Return (name, value) pairs in name order, as ``Terms.training`` takes them."""
        pairs: dict[str, float | int | str | None] = {
            **self.strategy.describe(),
            "length": self.length,
            "epochs": self.epochs,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
        }
        if self.app:
            pairs["app"] = self.app
        return tuple(sorted(pairs.items()))

    @classmethod
    def of(cls, terms: Terms) -> TrainingPlan:
        """Return the plan that ``terms`` carry.

        Raises:
            FaultyCoordinator: they carry no plan that this version can follow.
        """
        pairs = dict(terms.training)
        try:
            plan = cls(
                strategy=strategy_of(pairs),
                length=_integer(pairs["length"]),
                epochs=_integer(pairs["epochs"]),
                learning_rate=None if pairs["learning_rate"] is None else float(pairs["learning_rate"]),
                seed=_integer(pairs["seed"]),
                app=_text(pairs.get("app", "")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FaultyCoordinator(
                "the terms carry no training plan that this version can follow"
            ) from error
        if plan.settings() != terms.training:
            raise FaultyCoordinator("the terms carry training parameters that this version does not know")
        return plan

    def for_round(self, round_number: int) -> TrainingSettings:
        """Return what a trainer is told in one round."""
        seed = int.from_bytes(digest("training seed", self.seed, round_number)[:8], "big")
        return TrainingSettings(
            round=round_number,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            proximal_mu=self.strategy.proximal_mu,
            seed=seed,
        )


def strategy_of(pairs: Mapping[str, float | int | str | None]) -> Strategy:
    """Return the strategy that described itself with ``pairs``.

    Raises:
        KeyError, TypeError, ValueError: none did.
    """

    def real(name: str) -> float:
        value = pairs[name]
        if not isinstance(value, float):
            raise TypeError(name)
        return value

    match pairs["strategy"]:
        case "FedAvg":
            return FedAvg(real("server_learning_rate"))
        case "FedProx":
            return FedProx(real("mu"), server_learning_rate=real("server_learning_rate"))
        case "FedAdam" | "FedYogi" as name:
            kind = FedAdam if name == "FedAdam" else FedYogi
            return kind(
                real("server_learning_rate"), beta1=real("beta1"), beta2=real("beta2"), tau=real("tau")
            )
        case _:
            raise ValueError("strategy")


def _text(value: float | str | None) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _integer(value: float | str | None) -> int:
    if not isinstance(value, int):
        raise TypeError
    return value
