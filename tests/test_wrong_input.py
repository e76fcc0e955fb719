"""Ordinary mistakes of a caller: each is refused where it enters, in our words, before anything runs.

Nothing foreign is printed, and nothing that was handed in by mistake is quoted, for it may be data.
"""

from __future__ import annotations

import math
import re
import time
import traceback
from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, SGDClassifier, SGDRegressor
from torch import nn

from secagg import FedAdam, FedAvg, Federation, FedProx, FedYogi, Masking, Plain, secure_mean, secure_sum
from secagg.errors import ParameterError
from secagg.learning.history import History
from secagg.learning.trainer import TrainingSettings
from secagg.policy import Policy
from secagg.sums import MeanResult, SumResult
from silo import SklearnTrainer, TorchTrainer
from tests.learners import Line, lines

Call: TypeAlias = Callable[..., object]

DATA = np.array([4711.0, 4711.0])
VECTORS = {"a": [0.5], "b": [0.25], "c": [1.0]}
WEIGHTS = {"a": 1.0, "b": 2.0, "c": 3.0}


def federation(silos: Any = None, **named: Any) -> Federation:
    return Federation(lines(4) if silos is None else silos, **({"seed": 1} | named))


def run(rounds: Any = 1, *, progress: Any = False, **named: Any) -> History:
    return federation().run(rounds, progress=progress, **named)


def summed(vectors: Any = VECTORS, *, clip: Any = 8.0, **named: Any) -> SumResult:
    return secure_sum(vectors, clip=clip, **named)


def averaged(vectors: Any = VECTORS, *, clip: Any = 8.0, weights: Any = WEIGHTS, **named: Any) -> MeanResult:
    return secure_mean(vectors, clip=clip, weights=weights, **named)


def torch_trainer(model: Any = None, data: Any = None, **named: Any) -> TorchTrainer:
    examples = (torch.zeros(4, 2), torch.zeros(4, dtype=torch.long))
    return TorchTrainer(
        nn.Linear(2, 2) if model is None else model, examples if data is None else data, **named
    )


def sklearn_trainer(
    estimator: Any = None, x: Any = None, y: Any = None, *, classes: Any = (0, 1), **named: Any
) -> SklearnTrainer:
    return SklearnTrainer(
        SGDClassifier() if estimator is None else estimator,
        np.zeros((4, 2)) if x is None else x,
        [0, 1, 0, 1] if y is None else y,
        classes=classes,
        **named,
    )


class Mine(FedAvg):
    """A strategy that the other silos cannot name."""


class Watches:
    """A view, whose instances could be told what the coordinator sees."""

    def received(self, silo: str, message: object) -> None: ...

    def opened(self, terms: object, aggregate: object) -> None: ...


EVERY_SUM: tuple[Call, ...] = (federation, summed, averaged)
REALS: dict[str, tuple[Call, ...]] = {
    "clip": EVERY_SUM,
    "precision": EVERY_SUM,
    "weight_cap": (federation, averaged),
    "least_total_weight": (federation, averaged),
    "metric_bound": (federation,),
    "learning_rate": (federation, torch_trainer),
    "server_learning_rate": (FedAvg, lambda **rate: FedProx(0.1, **rate), FedAdam, FedYogi),
    "mu": (FedProx,),
    "tau": (FedAdam, FedYogi),
    "max_clip": (Policy,),
}
SHARES: dict[str, tuple[Call, ...]] = {"beta1": (FedAdam, FedYogi), "beta2": (FedAdam, FedYogi)}
WHOLES: dict[str, tuple[int, tuple[Call, ...]]] = {
    "rounds": (1, (run,)),
    "epochs": (1, (federation,)),
    "seed": (0, (federation,)),
    "colluders": (1, (Masking, Policy)),
    "threshold": (3, (Masking,)),
    "min_honest": (2, (Masking, Policy)),
    "min_silos": (3, (Policy,)),
    "min_threshold": (3, (Policy,)),
    "word_bits": (32, EVERY_SUM),
    "batch_size": (1, (torch_trainer,)),
}
NO_NUMBERS: tuple[Any, ...] = ("8", True, [8.0], DATA, 8j, float)
NO_REALS: tuple[Any, ...] = (*NO_NUMBERS, math.nan, math.inf, np.float32("nan"), 10**400)
NO_WHOLES: tuple[Any, ...] = (*NO_NUMBERS, 3.0, 3.5, math.nan)

WRONG: list[tuple[Call, dict[str, Any], str]] = [
    *((call, {n: v}, f"{n} is") for n, calls in REALS.items() for call in calls for v in (*NO_REALS, -1, 0)),
    *((call, {n: v}, f"{n} is") for n, calls in SHARES.items() for call in calls for v in (*NO_REALS, -1, 2)),
    *(
        (call, {name: value}, f"{name} is")
        for name, (least, calls) in WHOLES.items()
        for call in calls
        for value in (*NO_WHOLES, least - 1)
    ),
    *((summed, {"fraction_bits": value}, "fraction_bits is") for value in NO_WHOLES),
    *((call, {"scheme": "data of patients"}, "scheme is of type str, must be Masking") for call in EVERY_SUM),
    *((call, {"scheme": "masking"}, "scheme is 'masking', must be Masking") for call in EVERY_SUM),
    *((call, {"scheme": Masking}, "scheme is the class Masking") for call in EVERY_SUM),
    *((call, {"scheme": Plain}, "scheme is the class Plain") for call in EVERY_SUM),
    (federation, {"scheme": None}, "scheme is None"),
    (federation, {"strategy": "FedAvg"}, "strategy is of type str, must be an instance of one of FedAvg"),
    (federation, {"strategy": FedAvg}, "strategy is the class FedAvg"),
    (federation, {"strategy": None}, "strategy is None"),
    (federation, {"strategy": Mine()}, "strategy is of type Mine"),
    (federation, {"silos": list(lines(4).values())}, "silos is of type list, must be a mapping"),
    (federation, {"silos": dict(enumerate(lines(4).values()))}, "a silo name is 0, must be a text"),
    (federation, {"silos": {**lines(3), "at home": Line()}}, "silo name 'at home'"),
    (federation, {"silos": {**lines(3), "x": Line}}, "x: the class Line is no trainer"),
    (federation, {"metrics": 5}, "metrics is 5, must be a list of names"),
    (federation, {"metrics": [5]}, "metrics has an entry that is no text"),
    (lambda **named: federation(**named).run(1), {"initial": [[1.0], [1.0, 2.0]]}, "initial cannot be read"),
    *((call, {"vectors": list(VECTORS.values())}, "vectors is of type list") for call in (summed, averaged)),
    *((call, {"vectors": {1: [0.5], 2: [0.5], 3: [0.5]}}, "name is 1") for call in (summed, averaged)),
    (averaged, {"weights": [1.0, 2.0, 3.0]}, "weights is of type list, must be a mapping"),
    *((call, {"dropouts": ["b"]}, "dropouts is of type list") for call in (run, summed, averaged)),
    *((call, {"dropouts": {"b": ["Unmasking"]}}, "dropouts: 'b'") for call in (summed, averaged)),
    (run, {"dropouts": {"west": "Unmasking"}}, "a round of dropouts is of type str"),
    (run, {"dropouts": {1: "west"}}, "dropouts is of type str"),
    (run, {"progress": "no"}, "progress is of type str"),
    (run, {"progress": None}, "progress is None"),
    (Policy, {"schemes": "masking"}, "schemes is of type str, must be a set"),
    (Policy, {"schemes": ["masking"]}, "schemes is of type list, must be a set"),
    (Policy, {"schemes": {"mask"}}, "schemes names one that there is not"),
    (Policy, {"min_silos": None}, "min_silos is None"),
    *((call, {"min_honest": None}, "min_honest is None") for call in (Masking, Policy)),
    *((call, {"timer": 3}, "timer is 3, must be a function") for call in (summed, averaged)),
    (summed, {"timer": time.perf_counter()}, "timer is"),
    (run, {"view": 3}, "view is 3, must have the methods received() and opened()"),
    (run, {"view": Watches}, "view is the class Watches"),
    (torch_trainer, {"model": 3}, "model is 3, must be an instance of torch.nn.Module"),
    (torch_trainer, {"model": nn.Linear}, "model is the class Linear"),
    (torch_trainer, {"model": DATA}, "model is of type ndarray"),
    (torch_trainer, {"learning_rate": None}, "learning_rate is None, must be a real number"),
    (torch_trainer, {"optimizer": 3}, "optimizer is 3, must be a class of torch.optim"),
    (torch_trainer, {"optimizer": "Adam"}, "optimizer is of type str"),
    (torch_trainer, {"loss": "x"}, "loss is of type str, must be a function"),
    (torch_trainer, {"loss": nn.CrossEntropyLoss}, "loss is the class CrossEntropyLoss"),
    (torch_trainer, {"metrics": 3}, "metrics is 3, must be a function"),
    (torch_trainer, {"device": 3}, "device is 3"),
    (torch_trainer, {"device": "abacus"}, "device 'abacus' is not known to torch"),
    (torch_trainer, {"data": 3}, "data is 3, must be a DataLoader"),
    (torch_trainer, {"data": (DATA, DATA)}, "data as a tuple must be two tensors"),
    (torch_trainer, {"data": (torch.tensor(4711.0),) * 2}, "data has a tensor of no dimension"),
    (torch_trainer, {"validation": [DATA]}, "validation is of type list"),
    (sklearn_trainer, {"estimator": "x"}, "estimator is of type str, must be an unfitted classifier"),
    (sklearn_trainer, {"estimator": SGDClassifier}, "estimator is the class SGDClassifier"),
    (sklearn_trainer, {"estimator": SGDRegressor()}, "estimator is of type SGDRegressor"),
    (sklearn_trainer, {"estimator": LogisticRegression(C="x")}, "LogisticRegression: "),
    (sklearn_trainer, {"x": 3}, "x must be (n, features)"),
    (sklearn_trainer, {"x": [["4711", "a"]] * 4}, "x has entries that are no real numbers"),
    (sklearn_trainer, {"x": [[4711.0, math.nan]] * 4}, "x has entries that are NaN or infinite"),
    (sklearn_trainer, {"x": [[4711.0], [4711.0, 1.0]]}, "x cannot be read as an array"),
    (sklearn_trainer, {"y": 3}, "x must be (n, features)"),
    (sklearn_trainer, {"y": [None, 4711, "a", 1]}, "labels"),
    (sklearn_trainer, {"classes": 3}, "classes must name at least 2 labels"),
    (sklearn_trainer, {"classes": [None, 4711]}, "classes has labels of several kinds"),
    (sklearn_trainer, {"validation": 3}, "validation is 3, must be a pair (x, y)"),
    (sklearn_trainer, {"validation": (DATA,)}, "validation is of type tuple, must be a pair (x, y)"),
]


@pytest.mark.parametrize(("call", "named", "text"), WRONG, ids=[f"{i}-{w[2]}" for i, w in enumerate(WRONG)])
def test_a_wrong_argument_is_refused_in_our_words(call: Call, named: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(text)) as refused:
        call(**named)
    (note,) = refused.value.__notes__
    assert note.startswith("x SA-20")
    assert " ".join(str(refused.value).split()) in " ".join(note.split()), "the cause stands in the note"
    printed = "".join(traceback.format_exception(refused.value))
    assert printed.count("Traceback (most recent call last)") == 1, "nothing foreign comes first"
    assert printed.endswith(f"secagg.errors.ParameterError: {refused.value}\n{note}\n")
    assert "4711" not in printed, "what is no number is not quoted"


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, np.uint8, Fraction, int])
def test_any_real_number_is_taken_for_what_it_is(kind: Callable[[int], Any]) -> None:
    """The same bits: the digest of the terms knows one number, however it was handed in."""
    one, eight = kind(1), kind(8)
    assert np.array_equal(summed(clip=eight).total, summed().total)
    assert np.array_equal(averaged(clip=eight).mean, averaged().mean)
    assert (FedAvg(one), FedProx(one)) == (FedAvg(1.0), FedProx(1.0))
    assert isinstance(FedProx(one).mu, float)
    assert Policy(max_clip=eight) == Policy(max_clip=8.0)
    named = {"clip": eight, "learning_rate": one, "strategy": FedAvg(one), "weight_cap": kind(200)}
    plain = {"clip": 8.0, "learning_rate": 1.0, "strategy": FedAvg(1.0), "weight_cap": 200.0}
    silos = lines(4, examples=100)
    got, want = (federation(silos, **n).run(1, progress=False).model for n in (named, plain))
    assert got.tobytes() == want.tobytes()


def test_a_trainer_takes_any_number_for_what_it_is() -> None:
    start = np.linspace(-1.0, 1.0, 6)
    one = torch_trainer(learning_rate=np.float64(0.5), batch_size=np.int64(2))
    other = torch_trainer(learning_rate=0.5, batch_size=2)
    got, want = (trainer.train(start, TrainingSettings(round=1)).weights for trainer in (one, other))
    assert got.tobytes() == want.tobytes()
    table = np.array([[1, 2.5], [3, 4]] * 2, dtype=object)
    got, want = (
        sklearn_trainer(x=x).train(np.zeros(3), TrainingSettings(round=1)).weights
        for x in (table, table.astype(float))
    )
    assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("kind", [np.int32, np.uint64])
def test_any_whole_number_is_taken_for_what_it_is(kind: Callable[[int], Any]) -> None:
    two, three = kind(2), kind(3)
    assert Masking(colluders=two, threshold=kind(4), min_honest=two).parameters(5).cohort.t == 4
    assert type(Masking(colluders=two).colluders) is int
    assert Policy(min_silos=three, min_threshold=three) == Policy(min_silos=3, min_threshold=3)
    history = federation(epochs=two, seed=three, word_bits=kind(64)).run(kind(1), progress=False)
    want = federation(epochs=2, seed=3, word_bits=64).run(1, progress=False)
    assert history.model.tobytes() == want.model.tobytes()
