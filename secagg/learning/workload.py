"""One silo's learning as the protocol sees it: evaluate, train once, encode; apply the opened sum."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from secagg.errors import (
    FaultyCoordinator,
    InputRefused,
    MalformedMessage,
    PolicyRefused,
    PrivacyBudgetExhausted,
    SecaggError,
    TrainerFailed,
)
from secagg.learning.means import mean_of
from secagg.learning.model import GlobalModel
from secagg.learning.settings import TrainingPlan
from secagg.learning.strategies import NextModel
from secagg.learning.trainer import (
    Evaluation,
    Initialises,
    SumsGradients,
    Trainer,
    TrainingSettings,
    TrainsPrivately,
    Update,
)
from secagg.messages import Opened
from secagg.names import IntegerVector, RandomSource, RealVector, SiloId
from secagg.payload import Payload
from secagg.privacy.noising import check_noised, noised_gradient, noised_update
from secagg.privacy.sampling import PoissonSampler
from secagg.session import Aggregate
from secagg.terms import (
    DistributedNoise,
    LocalNoise,
    PrivacyParameters,
    RecordNoise,
    SiloNoise,
    Terms,
    is_encrypted,
    training_digest,
)
from secagg.weighting import encode_mean, is_mean, metric_names

T = TypeVar("T")

_NOT_USERS = {"secagg", "silo"} | sys.stdlib_module_names
_INSTALLED = {"site-packages", "dist-packages"}


@dataclass(frozen=True)
class Pin:
    """What a model was that a silo computed itself, or that t silos signed for.

    Attributes:
        federation, job: what it was trained in.
        round: that trains from it.
        digest: of weights and state.
        opened: what this silo said of the sum that the model was computed from, where it alone can say it.
    """

    federation: str
    job: str
    round: int
    digest: bytes
    opened: Opened | None = None


class LearningWorkload:
    """A ``Workload`` around a trainer.

    Args:
        silo: whose it is, for errors.
        trainer: the local learner. Whatever it raises becomes TrainerFailed.
        pin: of the model that was held when the silo's process ended; the model itself is asked for again.
        keep: told of every model that comes to be held, so that what it was survives the process.
        base: the model of ``pin``, where this silo keeps models itself.
        keep_base: told of every such model before ``keep`` is.
        keep_sum: told before that of every sum that the coordinator cannot open, and the model after it.
        most_examples: a silo that has more takes no part, whatever cap is offered; None for no such bound.
        random: of sampling and noise.

    Guarantees:
        The model changes only by an opened sum, or by a base that t silos signed for.
        After a restart no other model is taken for the pinned one's round.
        Model and what was said of its sum are kept together: a round is not applied twice.
        With ``most_examples``, and a policy whose floor it is, refusals tell no more of a count than that.
    """

    def __init__(
        self,
        silo: SiloId,
        trainer: Trainer,
        *,
        pin: Pin | None = None,
        keep: Callable[[Pin], None] | None = None,
        base: GlobalModel | None = None,
        keep_base: Callable[[Pin, GlobalModel], None] | None = None,
        keep_sum: Callable[[Terms, Aggregate, GlobalModel], None] | None = None,
        most_examples: float | None = None,
        random: RandomSource = os.urandom,
    ) -> None:
        self._silo = silo
        self._trainer = trainer
        self._pin = pin
        self._keep = keep
        self._most_examples = most_examples
        self._random = random
        self._keep_base = keep_base
        self._keep_sum = keep_sum
        self._model = base
        self._metrics: Mapping[str, float] = {}
        self._candidate: GlobalModel | None = None

    def accept(self, terms: Terms) -> None:
        """Check that the plan can be followed, from the base that is pinned; see ``Workload.accept``."""
        plan = TrainingPlan.of(terms)
        self._check_form(terms, plan.length)
        pin = self._pin
        if pin is not None and self._is_for(terms) and pin.digest != terms.base:
            raise FaultyCoordinator(
                f"round {terms.round} is to start from another base model than the one here"
            )

    def _check_form(self, terms: Terms, length: int) -> None:
        """Check that the encoding is of what is summed, and that the trainer can do what the noise needs."""
        noise = terms.privacy
        if noise is not None and (terms.kind != "train" or metric_names(terms.encoding)):
            raise FaultyCoordinator("exact metrics are asked for beside the noise, which they would void")
        if isinstance(noise, DistributedNoise):
            check_noised(terms.encoding, noise, length)
        elif terms.kind == "sum" or not is_mean(terms.encoding, length if terms.kind == "train" else 0):
            raise FaultyCoordinator("the encoding is not that of a mean over this model and its metrics")
        lacking = missing_method(self._trainer, noise)
        if lacking is not None:
            raise PolicyRefused("privacy", f"{self._silo}: {lacking}")

    def holds(self, terms: Terms) -> bytes | None:
        """Return the digest of the model held for this round; see ``Workload.holds``."""
        return self._model.digest if self._model is not None and self._is_for(terms) else None

    def _is_for(self, terms: Terms) -> bool:
        pin = self._pin
        return pin is not None and (pin.federation, pin.job, pin.round) == (
            terms.federation,
            terms.job,
            terms.round,
        )

    def base_size(self, terms: Terms) -> int:
        """Return the bytes of weights and state; see ``Workload.base_size``."""
        plan = TrainingPlan.of(terms)
        return 8 * (1 + plan.strategy.slots) * plan.length

    def base(self, terms: Terms) -> Payload | None:
        """Return the model held for this round; see ``Workload.base``."""
        return self._model.payload() if self._model is not None and self._is_for(terms) else None

    def adopt(self, terms: Terms, base: Payload) -> None:
        """Take a candidate; see ``Workload.adopt``."""
        plan = TrainingPlan.of(terms)
        try:
            candidate = GlobalModel.from_payload(terms.round, base.array(), length=plan.length)
        except MalformedMessage as error:
            raise FaultyCoordinator(f"the base model that was sent is none: {error}") from error
        if candidate.digest != terms.base:
            raise FaultyCoordinator("the base model that was sent is not the one that the round names")
        self._candidate = candidate

    def confirm(self, terms: Terms) -> None:
        """Hold the candidate; see ``Workload.confirm``."""
        if self.holds(terms) is None and self._candidate is not None:
            self._hold(terms, self._candidate)
            self._candidate = None

    def vector(self, terms: Terms) -> IntegerVector:
        """Evaluate, train and encode; see ``Workload.vector``."""
        plan = TrainingPlan.of(terms)
        base = self._base(terms)
        match terms.privacy:
            case SiloNoise() as hiding:
                update = self._train(base.weights, plan.for_round(terms.round))
                # In float64: float32 weights less their base would be rounded twice.
                moved = self._real(update.weights, base.weights) - base.weights
                return self._encoded(
                    lambda: noised_update(terms.encoding, hiding, moved, random=self._random)
                )
            case RecordNoise() as noise:
                gradient = self._gradient(base.weights, plan.for_round(terms.round), noise)
                return self._encoded(
                    lambda: noised_gradient(terms.encoding, noise, gradient, random=self._random)
                )
            case _:
                return self._mean_vector(terms, plan, base)

    def _mean_vector(self, terms: Terms, plan: TrainingPlan, base: GlobalModel) -> IntegerVector:
        wanted = metric_names(terms.encoding)
        evaluation = self.evaluate(base.weights) if wanted else Evaluation()
        local, examples = None, 0.0
        if terms.kind == "train":
            settings = plan.for_round(terms.round)
            update = (
                self._train_privately(base.weights, settings, terms.privacy)
                if isinstance(terms.privacy, LocalNoise)
                else self._train(base.weights, settings)
            )
            local, examples = self._real(update.weights, base.weights), update.examples

        def encoded() -> IntegerVector:
            vector = encode_mean(
                terms.encoding,
                update=local,
                base=None if local is None else base.weights,
                weight=examples,
                metrics={name: value for name, value in evaluation.metrics.items() if name in wanted},
                evaluation_weight=evaluation.examples,
            )
            self._check_count(max(float(examples), float(evaluation.examples)))
            return vector

        return self._encoded(encoded)

    def _encoded(self, encode: Callable[[], IntegerVector]) -> IntegerVector:
        try:
            return encode()
        except InputRefused as error:
            raise InputRefused(error.rule, f"{self._silo}: {error}") from None  # The same, with its silo.

    def _check_count(self, examples: float) -> None:
        if self._most_examples is not None and examples > self._most_examples:
            raise InputRefused(
                "weight",
                f"there are more examples than min_weight_cap, {self._most_examples:g}: raise it in "
                "silo.toml above what this silo will ever have",
            )

    @property
    def initialises(self) -> bool:
        """Whether the trainer can make a first model."""
        return isinstance(self._trainer, Initialises)

    def initial(self, seed: int) -> NDArray[Any]:
        """Return the trainer's freshly seeded weights.

        Raises:
            TrainerFailed: ``initial()`` is not there, raised, or returned something else.
        """
        trainer: Any = self._trainer
        return self._call("initial", np.ndarray, lambda: trainer.initial(seed))

    def evaluate(self, weights: RealVector) -> Evaluation:
        """Measure ``weights`` on this silo's data.

        Raises:
            TrainerFailed: ``evaluate()`` raised, or returned something else.
        """

        def evaluated() -> Evaluation:
            result: Any = self._trainer.evaluate(weights)
            return replace(result, metrics=dict(result.metrics)) if isinstance(result, Evaluation) else result

        return self._call("evaluate", Evaluation, evaluated)

    def apply(self, terms: Terms, aggregate: Aggregate, *, faulty: tuple[SiloId, ...] = ()) -> Opened:
        """Compute the next model; see ``Workload.apply``."""
        mean = mean_of(terms, aggregate)
        self._metrics = mean.metrics
        model = self._base(terms)
        if mean.update is not None:
            model = GlobalModel.gathered(NextModel(model, TrainingPlan.of(terms).strategy, mean.update))
        opened = Opened(training_digest(terms), model.digest, aggregate.survivors, faulty)
        if is_encrypted(terms.scheme):
            if self._keep_sum is not None:
                self._keep_sum(terms, aggregate, model)
            self._hold(terms, model, opened)
        elif mean.update is not None:
            self._hold(terms, model)
        return opened

    def said(self, terms: Terms) -> Opened | None:
        """Return what ``apply`` returned; see ``Workload.said``."""
        opened = None if self._pin is None else self._pin.opened
        return opened if opened is not None and opened.training == training_digest(terms) else None

    @property
    def metrics(self) -> Mapping[str, float]:
        """Means over the survivors, by name, as the last sum carried them."""
        return self._metrics

    def _hold(self, terms: Terms, model: GlobalModel, opened: Opened | None = None) -> None:
        self._model, self._pin = model, Pin(terms.federation, terms.job, model.round, model.digest, opened)
        if self._keep_base is not None and is_encrypted(terms.scheme):
            # Nobody else keeps it. It is on disk before the pin says so.
            self._keep_base(self._pin, model)
        if self._keep is not None:
            self._keep(self._pin)

    def _base(self, terms: Terms) -> GlobalModel:
        for model in (self._model, self._candidate):
            if model is not None and model.round == terms.round and model.digest == terms.base:
                return model
        raise FaultyCoordinator(f"this silo has no base model for round {terms.round}")

    def _train(self, weights: RealVector, settings: TrainingSettings) -> Update:
        return self._updated("train", lambda: self._trainer.train(weights, settings))

    def _updated(self, what: str, train: Callable[[], Any]) -> Update:
        def updated() -> Update:
            result = train()
            # A list or a tensor is taken too; what cannot become an array is the trainer's failure.
            return (
                replace(result, weights=np.asarray(result.weights)) if isinstance(result, Update) else result
            )

        return self._call(what, Update, updated)

    def _train_privately(self, weights: RealVector, settings: TrainingSettings, noise: LocalNoise) -> Update:
        trainer: Any = self._trainer
        sampler = PoissonSampler(noise.sampling_rate, random=self._random)

        update = self._updated(
            "train_privately",
            lambda: trainer.train_privately(
                weights, settings, noise=noise, sampler=sampler, random=self._random
            ),
        )
        self._check_sampled(sampler, noise.steps)
        return update

    def _gradient(self, weights: RealVector, settings: TrainingSettings, noise: RecordNoise) -> RealVector:
        trainer: Any = self._trainer
        sampler = PoissonSampler(noise.sampling_rate, random=self._random)
        gradient = self._call(
            "gradient_sum",
            np.ndarray,
            lambda: trainer.gradient_sum(weights, settings, sampler=sampler, l2_clip_norm=noise.l2_clip_norm),
        )
        self._check_sampled(sampler, 1)
        return self._real(gradient, weights).astype(np.float64, copy=False)

    def _check_sampled(self, sampler: PoissonSampler, draws: int) -> None:
        """Refuse a vector whose bound is amplified by sampling that did not happen."""
        if sampler.draws != draws:
            raise InputRefused(
                "sampling",
                f"{self._silo}: the trainer drew {sampler.draws} samples of the {draws} on which the "
                "promised epsilon rests; it must take the rows of every step from `sampler`",
            )

    def _real(self, weights: NDArray[Any], base: RealVector) -> NDArray[Any]:
        if weights.shape != base.shape:
            raise InputRefused(
                "shape",
                f"{self._silo}: train() returned weights of shape {weights.shape}, the global model has "
                f"{base.shape}",
            )
        if weights.dtype.kind not in "fiu":
            raise InputRefused("dtype", f"{self._silo}: train() returned weights of {weights.dtype}")
        return weights if weights.dtype in (np.float32, np.float64) else weights.astype(np.float64)

    def _call(self, what: str, expected: type[T], work: Callable[[], T]) -> T:
        """Run the user's code: whatever it raises is this silo's failure.

        A text that is not ours may quote data, so ours says the type and the line alone: what prints our
        error, on a screen or in a silo's log, prints no data. That is also why the trainer's error is kept
        beside ours and not chained to it, since a chain is printed wherever a traceback is. The coordinator
        learns a rule.
        """
        try:
            result = work()
        except (InputRefused, PolicyRefused, PrivacyBudgetExhausted):
            raise
        except SecaggError as error:
            raise TrainerFailed(self._silo, f"{what}(): {error}", original=error) from None
        except Exception as error:  # noqa: BLE001 - the user's code may raise anything
            text = f"{what}() raised {type(error).__name__}{_users_line(error)}"
            raise TrainerFailed(self._silo, text, original=error) from None
        if not isinstance(result, expected):
            raise TrainerFailed(
                self._silo, f"{what}() returned {type(result).__name__}, not {expected.__name__}"
            )
        return result


def missing_method(trainer: Trainer, noise: PrivacyParameters | None) -> str | None:
    """Return what a trainer lacks for the noise of a round, in words, or None."""
    name = type(trainer).__name__
    match noise:
        case LocalNoise() if not isinstance(trainer, TrainsPrivately):
            return f"{name} has no train_privately(), which LocalDPSGD needs; TorchTrainer has it"
        case RecordNoise() if not isinstance(trainer, SumsGradients):
            return f'{name} has no gradient_sum(), which unit="record" needs; TorchTrainer has it'
        case _:
            return None


def _users_line(error: Exception) -> str:
    """Return ``" at file.py:12"``, the innermost line of the user's own code, or nothing if there is none.

    A line number is not data. Of the file only the name: its folder may be somebody's.
    """
    where = ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        module, file = str(frame.f_globals.get("__name__")), PurePath(frame.f_code.co_filename)
        if module.partition(".")[0] not in _NOT_USERS and _INSTALLED.isdisjoint(file.parts):
            where = f" at {file.name}:{number}"
    return where
