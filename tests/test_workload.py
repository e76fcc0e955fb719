"""One silo's learning as the protocol calls it: models by hash, trainers that fail, exact vectors."""

from __future__ import annotations

import json
import traceback
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from secagg.errors import (
    EnvironmentFault,
    FaultyCoordinator,
    InputRefused,
    PolicyRefused,
    PrivacyBudgetExhausted,
    SecaggError,
    TrainerFailed,
    UsageError,
)
from secagg.fixedpoint import Encoding, Segment
from secagg.learning.model import GlobalModel
from secagg.learning.settings import TrainingPlan
from secagg.learning.strategies import FedAdam, FedAvg, Strategy
from secagg.learning.trainer import Evaluation
from secagg.learning.workload import LearningWorkload, Pin
from secagg.payload import Payload
from secagg.session import Aggregate
from secagg.terms import PlainParameters, Terms
from secagg.weighting import decode_mean, plan_mean
from tests.learners import WEIGHTS, Line, Spoil, diverges, fails, grows, next_model, refuses

FAILS = fails.__code__.co_firstlineno + 2


def encoding(metrics: tuple[str, ...] = ("loss",), length: int = WEIGHTS) -> Any:
    return plan_mean(
        length, clip=8.0, cohort=4, weight_cap=1000.0, least_total_weight=1.0, metrics=metrics, word_bits=64
    )


def terms_for(model: GlobalModel, strategy: Strategy | None = None, **changes: Any) -> Terms:
    plan = TrainingPlan(strategy=strategy or FedAvg(), length=model.length)
    fields: dict[str, Any] = {
        "federation": "tests",
        "job": "job",
        "round": model.round,
        "kind": "train",
        "release": 1,
        "roster": bytes(32),
        "base": model.digest,
        "scheme": PlainParameters(),
        "encoding": encoding(),
        "training": plan.settings(),
    }
    return Terms(**(fields | changes))


def base(strategy: Strategy | None = None, number: int = 1) -> GlobalModel:
    return replace((strategy or FedAvg()).start(np.linspace(-1, 1, WEIGHTS)), round=number)


def payload(model: GlobalModel) -> Payload:
    return Payload.of(model.to_payload())


def at(number: int, job: str = "job") -> Terms:
    return msgspec.structs.replace(terms_for(base(number=number)), job=job)


def ready(
    trainer: Line | None = None, strategy: Strategy | None = None
) -> tuple[LearningWorkload, GlobalModel]:
    """A silo that holds the base of round 1."""
    model = base(strategy)
    workload = LearningWorkload("west", trainer or Line())
    workload.adopt(terms_for(model, strategy), payload(model))
    workload.confirm(terms_for(model, strategy))
    return workload, model


def test_a_candidate_is_held_only_when_confirmed() -> None:
    model = base()
    workload = LearningWorkload("west", Line())
    assert workload.holds(at(1)) is None
    workload.adopt(terms_for(model), payload(model))
    assert workload.holds(at(1)) is None
    workload.confirm(terms_for(model))
    assert workload.holds(at(1)) == model.digest
    assert workload.holds(at(2)) is None


def test_a_held_model_is_not_replaced_by_a_candidate() -> None:
    workload, model = ready()
    other = GlobalModel(1, np.ones(WEIGHTS))
    workload.adopt(terms_for(other), payload(other))
    workload.confirm(terms_for(other))
    assert workload.holds(at(1)) == model.digest


def test_a_model_belongs_to_its_federation_and_job() -> None:
    """Round 2 of another job starts from another base; that of this one is not held for it."""
    workload, model = ready()
    assert workload.holds(at(1)) == model.digest
    assert workload.holds(at(1, job="another")) is None


def test_what_was_held_is_known_after_a_restart_and_no_other_model_is_taken() -> None:
    """Guarantee. The weights themselves are asked for again."""
    kept: list[Pin] = []
    model = base()
    workload = LearningWorkload("west", Line(), keep=kept.append)
    workload.adopt(terms_for(model), payload(model))
    assert not kept, "a candidate is not held"
    workload.confirm(terms_for(model))
    workload.confirm(terms_for(model))
    aggregate = Aggregate(workload.vector(terms_for(model)), ("west",))
    workload.apply(terms_for(model), aggregate)
    following = next_model(terms_for(model), model, aggregate)
    assert [(pin.round, pin.digest) for pin in kept] == [(1, model.digest), (2, following.digest)]

    again = LearningWorkload("west", Line(), pin=kept[-1])
    other = GlobalModel(2, np.ones(WEIGHTS))
    with pytest.raises(FaultyCoordinator, match="another base model"):
        again.accept(terms_for(other))
    again.accept(msgspec.structs.replace(terms_for(other), job="another"))
    again.accept(at(1))
    again.accept(terms_for(following))
    assert again.holds(terms_for(following)) is None
    again.adopt(terms_for(following), payload(following))
    again.confirm(terms_for(following))
    assert again.holds(terms_for(following)) == following.digest


@pytest.mark.parametrize(
    "sent",
    [
        Payload.of(np.ones(WEIGHTS)),
        Payload.of(np.ones(WEIGHTS - 1)),
        Payload.of(np.ones(2 * WEIGHTS)),
        Payload.of(np.full(WEIGHTS, np.nan)),
        Payload.of(np.ones(WEIGHTS, np.uint32)),
    ],
    ids=["other weights", "too few", "with a state", "NaN", "integers"],
)
def test_a_base_that_is_not_the_one_that_was_named_is_refused(sent: Payload) -> None:
    workload = LearningWorkload("west", Line())
    with pytest.raises(FaultyCoordinator):
        workload.adopt(terms_for(base()), sent)
    workload.confirm(terms_for(base()))
    assert workload.holds(at(1)) is None


def test_without_the_base_nothing_is_trained() -> None:
    trainer = Line()
    workload, _ = ready(trainer)
    with pytest.raises(FaultyCoordinator, match="no base model for round 2"):
        workload.vector(terms_for(base(number=2)))
    with pytest.raises(FaultyCoordinator, match="no base model for round 1"):
        workload.vector(terms_for(GlobalModel(1, np.ones(WEIGHTS))))
    assert not trainer.trained
    assert not trainer.evaluated


def test_the_vector_is_the_clipped_update_with_its_weight_and_metrics() -> None:
    trainer = Line(examples=250.0)
    workload, model = ready(trainer)
    mean = decode_mean(encoding(), workload.vector(terms_for(model)), silos=1)
    delta = Line().train(model.weights, trainer.trained[0]).weights - model.weights
    assert mean.values is not None
    assert np.abs(mean.values - delta).max() <= mean.worst_error < 1e-9
    assert mean.weight == 250.0
    assert mean.evaluation_weight == 125.0
    assert abs(mean.metrics["loss"] - trainer.evaluated[0][1]["loss"]) <= mean.metric_error < 1e-9


def test_the_metrics_only_sum_trains_nothing() -> None:
    trainer = Line()
    workload, model = ready(trainer)
    terms = terms_for(model, kind="metrics", encoding=encoding(length=0))
    mean = decode_mean(terms.encoding, workload.vector(terms), silos=1)
    workload.apply(terms, Aggregate(workload.vector(terms), ("west",)))
    assert not trainer.trained
    assert mean.values is None
    assert workload.holds(at(1)) == model.digest, "a sum of metrics changes no model"
    assert workload.weights is not None
    np.testing.assert_array_equal(workload.weights, model.weights)


@pytest.mark.parametrize("cap", [1000.0, 400.0])
def test_whether_a_silo_takes_part_depends_on_its_own_bound_and_on_no_offer(cap: float) -> None:
    """Guarantee: whatever cap is offered above the floor, the answer is the same."""
    model = base()
    terms = terms_for(model)
    terms = msgspec.structs.replace(terms, encoding=replace(terms.encoding, weight_cap=cap))
    for most, refuses_it in ((299.0, True), (300.0, False)):
        workload = LearningWorkload("west", Line(examples=300.0), most_examples=most)
        workload.adopt(terms, payload(model))
        if refuses_it:
            with pytest.raises(InputRefused, match="more examples than min_weight_cap, 299") as refused:
                workload.vector(terms)
            assert refused.value.rule == "weight"
        else:
            workload.vector(terms)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "sum"},
        {"kind": "metrics"},
        {"encoding": encoding(length=WEIGHTS - 1)},
        {"encoding": encoding(length=0)},
        {"encoding": Encoding(64, 4, (Segment("update", WEIGHTS, 8.0, 20),), 1000.0)},
    ],
    ids=["a bare sum", "metrics with an update", "another length", "no update", "no weight"],
)
def test_an_encoding_of_something_else_is_refused_before_anything_is_done(changes: dict[str, Any]) -> None:
    workload = LearningWorkload("west", Line())
    workload.accept(terms_for(base()))
    with pytest.raises(FaultyCoordinator, match="encoding is not that of a mean"):
        workload.accept(msgspec.structs.replace(terms_for(base()), **changes))


@pytest.mark.parametrize("strategy", [FedAvg(), FedAdam(0.1)], ids=str)
def test_the_opened_sum_makes_the_same_next_base_as_at_the_coordinator(strategy: Strategy) -> None:
    workload, model = ready(strategy=strategy)
    terms = terms_for(model, strategy)
    aggregate = Aggregate(workload.vector(terms), ("west",))
    workload.apply(terms, aggregate)
    following = next_model(terms, model, aggregate)
    assert following.round == 2
    assert workload.holds(at(2)) == following.digest != model.digest
    assert workload.holds(at(1)) is None


@pytest.mark.parametrize(
    ("spoil", "kind", "text"),
    [
        (fails, TrainerFailed, f"west: train() raised ValueError at learners.py:{FAILS}"),
        (refuses(EnvironmentFault("disk full")), TrainerFailed, "west: train(): disk full"),
        (refuses(UsageError("no batch")), TrainerFailed, "west: train(): no batch"),
        (refuses(PrivacyBudgetExhausted("spent")), PrivacyBudgetExhausted, "spent"),
        (refuses(PolicyRefused("hours", "closed")), PolicyRefused, "hours: closed"),
        # Nobody's line: the list is made into an array behind the trainer.
        (lambda w: [[1.0], [1.0, 2.0]], TrainerFailed, "west: train() raised ValueError"),
        (refuses(InputRefused("shape", "'a.weight' has grown")), InputRefused, "'a.weight' has grown"),
        (diverges, InputRefused, "west: entry 2 of 'update' is NaN"),
        (lambda w: w * np.inf, InputRefused, "west: entry 0 of 'update' is infinite"),
        (
            grows,
            InputRefused,
            "west: train() returned weights of shape (6,), the global model has (5,)",
        ),
        (
            lambda w: w[None],
            InputRefused,
            "west: train() returned weights of shape (1, 5), the global model has (5,)",
        ),
        (lambda w: w.astype(complex), InputRefused, "west: train() returned weights of complex128"),
        (lambda w: w.astype(object), InputRefused, "west: train() returned weights of object"),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value),
)
def test_what_a_trainer_does_wrong_is_named(spoil: Spoil, kind: type[SecaggError], text: str) -> None:
    workload, model = ready(Line(spoil=spoil))
    with pytest.raises(kind) as caught:
        workload.vector(terms_for(model))
    assert type(caught.value) is kind
    assert str(caught.value) == text


@pytest.mark.parametrize("examples", [-1.0, float("nan"), 1000.5, "many"])
def test_a_weight_out_of_range_is_refused_without_its_value(examples: Any) -> None:
    trainer = Line()
    trainer.examples = 10.0
    workload, model = ready(trainer)

    def count(weights: Any) -> Any:
        trainer.examples = examples
        return weights

    trainer.spoil = count
    with pytest.raises(InputRefused, match=r"west: weight") as caught:
        workload.vector(terms_for(model))
    assert caught.value.rule == "weight"
    assert str(examples) not in str(caught.value)


@pytest.mark.parametrize("metrics", [{}, {"dice": 0.5}, {"loss": float("nan")}, {"loss": "low"}], ids=str)
def test_metrics_that_were_not_declared_are_refused(metrics: dict[str, Any]) -> None:
    class Measures(Line):
        def evaluate(self, weights: Any) -> Evaluation:
            return Evaluation(metrics, 10.0)

    workload, model = ready(Measures())
    with pytest.raises(InputRefused, match="west: metric") as caught:
        workload.vector(terms_for(model))
    assert caught.value.rule == "metric"


def test_a_list_of_weights_is_taken() -> None:
    workload, model = ready(Line(spoil=lambda weights: weights.tolist()))
    assert np.array_equal(workload.vector(terms_for(model)), ready()[0].vector(terms_for(model)))


@pytest.mark.parametrize("metrics", [None, ["loss"], 0.5], ids=str)
def test_metrics_that_are_no_mapping_are_the_trainers_failure(metrics: Any) -> None:
    class Returns(Line):
        def evaluate(self, weights: Any) -> Evaluation:
            return Evaluation(metrics, 10.0)

    workload, model = ready(Returns())
    with pytest.raises(TrainerFailed, match=r"west: evaluate\(\) raised"):
        workload.vector(terms_for(model))


@pytest.mark.parametrize("result", [None, {"loss": 1.0}, (1.0, 2)], ids=str)
def test_an_evaluation_of_another_type_is_the_trainers_failure(result: Any) -> None:
    class Returns(Line):
        def evaluate(self, weights: Any) -> Any:
            return result

    workload, model = ready(Returns())
    with pytest.raises(
        TrainerFailed, match=rf"evaluate\(\) returned {type(result).__name__}, not Evaluation"
    ):
        workload.vector(terms_for(model))


def test_a_foreign_error_stays_at_hand_and_out_of_what_is_printed() -> None:
    workload, model = ready(Line(spoil=fails))
    with pytest.raises(TrainerFailed) as caught:
        workload.vector(terms_for(model))
    assert "4711" not in "".join(traceback.format_exception(caught.value))
    assert caught.value.original is not None
    assert str(caught.value.original) == "patient 4711"
    assert traceback.extract_tb(caught.value.original.__traceback__)[-1].name == "fails"


@pytest.mark.parametrize(
    "spoil",
    [lambda w: json.loads("{"), lambda w: np.linalg.inv(w)],
    ids=["the standard library", "an installed package"],
)
def test_the_line_that_is_named_is_the_users_own(spoil: Spoil) -> None:
    """Not the one that raised, where that is in code the user did not write."""
    workload, model = ready(Line(spoil=spoil))
    with pytest.raises(TrainerFailed, match=rf" at test_workload\.py:{spoil.__code__.co_firstlineno}$"):
        workload.vector(terms_for(model))


def test_ctrl_c_is_not_a_failure_of_the_trainer() -> None:
    def stop(weights: Any) -> Any:
        raise KeyboardInterrupt

    workload, model = ready(Line(spoil=stop))
    with pytest.raises(KeyboardInterrupt):
        workload.vector(terms_for(model))


def test_an_initial_model_that_fails_or_is_no_vector_is_the_trainers_failure() -> None:
    class Starts(Line):
        def initial(self, seed: int) -> Any:
            if seed:
                return [0.0] * WEIGHTS
            raise OSError("cannot read patient 4711")

    workload = LearningWorkload("west", Starts())
    assert workload.initialises
    with pytest.raises(TrainerFailed, match=r"^west: initial\(\) raised OSError at test_workload\.py:\d+$"):
        workload.initial(0)
    with pytest.raises(TrainerFailed, match="returned list, not ndarray"):
        workload.initial(1)
