"""SklearnTrainer: learning, layout, determinism, and every refusal by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Perceptron, RidgeClassifier, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier

import secagg
from secagg.errors import InputRefused, ParameterError
from secagg.learning.trainer import Initialises, TrainingSettings
from silo import SklearnTrainer

ESTIMATORS = [
    SGDClassifier(loss="log_loss"),
    SGDClassifier(),
    Perceptron(),
    LogisticRegression(),
    LogisticRegression(solver="saga"),
    MLPClassifier((5,), learning_rate_init=0.05),
]


def data(classes: int, *, count: int = 90, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """``classes`` separated clouds in four dimensions."""
    y = np.arange(count) % classes
    x = np.random.default_rng(seed).normal(size=(count, 4))
    x[np.arange(count), y] += 3.0
    return x, y


def settings(seed: int = 0, epochs: int = 3, **more: Any) -> TrainingSettings:
    return TrainingSettings(round=1, epochs=epochs, seed=seed, **more)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_learns_from_the_global_model_round_by_round(estimator: Any, classes: int) -> None:
    x, y = data(classes)
    trainer = SklearnTrainer(estimator, x, y, classes=range(classes), validation=data(classes, seed=1))
    assert isinstance(trainer, secagg.Trainer)
    assert isinstance(trainer, Initialises)
    weights: NDArray[Any] = trainer.initial(1)
    for number in range(4):
        frozen = weights.copy()
        frozen.flags.writeable = False
        update = trainer.train(frozen, settings(seed=number))
        assert update.weights.shape == weights.shape
        assert update.examples == 90.0
        weights = update.weights
    result = trainer.evaluate(weights)
    assert result.metrics["accuracy"] >= 0.85
    assert result.examples == 90.0
    assert not hasattr(estimator, "coef_")
    assert not hasattr(estimator, "coefs_")


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_same_seed_is_bit_identical_also_for_the_same_trainer(estimator: Any) -> None:
    trainer, other = (SklearnTrainer(estimator, *data(3), classes=range(3)) for _ in range(2))
    start = trainer.initial(2**63)
    assert np.array_equal(start, other.initial(2**63))
    first = trainer.train(start, settings(seed=5)).weights
    assert np.array_equal(first, trainer.train(start, settings(seed=5)).weights)
    assert np.array_equal(first, other.train(start, settings(seed=5)).weights)


def test_every_epoch_is_shuffled_anew() -> None:
    trainer = SklearnTrainer(SGDClassifier(), *data(2), classes=(0, 1))
    start = trainer.initial(0)
    ahead = trainer.train(start, settings(epochs=2)).weights
    assert not np.array_equal(ahead, trainer.train(start, settings(epochs=2, seed=1)).weights)


def test_vector_is_coefficients_then_intercepts() -> None:
    x, y = data(3)
    trainer = SklearnTrainer(LogisticRegression(), x, y, classes=range(3))
    vector = np.arange(15.0)
    model = trainer.load(vector)
    assert model.coef_.tolist() == vector[:12].reshape(3, 4).tolist()
    assert model.intercept_.tolist() == [12.0, 13.0, 14.0]
    assert model.predict(np.zeros((1, 4))).tolist() == [2]


def test_layers_of_a_network_make_one_vector() -> None:
    trainer = SklearnTrainer(MLPClassifier((5,)), *data(3), classes=range(3))
    vector = np.arange(4 * 5 + 5 * 3 + 5 + 3.0)
    model = trainer.load(vector)
    assert [layer.shape for layer in model.coefs_] == [(4, 5), (5, 3)]
    assert model.coefs_[0].ravel().tolist() == vector[:20].tolist()
    assert model.intercepts_[1].tolist() == vector[-3:].tolist()
    assert not np.array_equal(trainer.initial(1), trainer.initial(2))


def test_training_starts_at_the_vector_and_not_at_the_last_round() -> None:
    for estimator in ESTIMATORS:
        trainer = SklearnTrainer(estimator, *data(2), classes=(0, 1))
        start = trainer.initial(0)
        once = trainer.train(start, settings(epochs=1)).weights
        elsewhere = trainer.train(start + 1.0, settings(epochs=1)).weights
        assert not np.array_equal(once, elsewhere)
        assert np.array_equal(trainer.train(start, settings(epochs=1)).weights, once)


def test_first_vector_does_not_depend_on_the_data() -> None:
    for estimator in ESTIMATORS:
        here = SklearnTrainer(estimator, *data(3, seed=1), classes=range(3)).initial(4)
        assert np.array_equal(
            here, SklearnTrainer(estimator, *data(3, count=60, seed=2), classes=range(3)).initial(4)
        )


def test_a_silo_may_lack_a_class_where_the_estimator_steps() -> None:
    x, y = data(3)
    here = y < 2
    trainer = SklearnTrainer(SGDClassifier(loss="log_loss"), x[here], y[here], classes=range(3))
    weights = trainer.train(trainer.initial(0), settings()).weights
    assert weights.shape == (15,)
    assert set(trainer.evaluate(weights).metrics) == {"accuracy", "loss"}
    with pytest.raises(ParameterError, match="1 of 3 are missing"):
        SklearnTrainer(LogisticRegression(), x[here], y[here], classes=range(3))


def test_metrics_are_those_of_the_model_and_without_probabilities_there_is_no_loss() -> None:
    x, y = data(2)
    trainer = SklearnTrainer(SGDClassifier(), x, y, classes=(0, 1), validation=(x[:10], y[:10]))
    vector = np.array([0.0, 0.0, 0.0, 0.0, -1.0])  # always the first class
    result = trainer.evaluate(vector)
    assert result.metrics == {"accuracy": 0.5}
    assert result.examples == 10.0


def test_learning_rate_of_the_settings_is_used() -> None:
    trainer = SklearnTrainer(SGDClassifier(loss="log_loss"), *data(2), classes=(0, 1))
    start = trainer.initial(0)

    def moved(rate: float) -> float:
        trained = trainer.train(start, settings(epochs=1, learning_rate=rate)).weights
        return float(np.linalg.norm(trained - start))

    assert moved(1e-4) == pytest.approx(10 * moved(1e-5), rel=0.02)
    with pytest.raises(ParameterError, match="LogisticRegression has no learning rate"):
        SklearnTrainer(LogisticRegression(), *data(2), classes=(0, 1)).train(
            start, settings(learning_rate=0.1)
        )


def test_proximal_term_is_refused_and_names_what_has_it() -> None:
    trainer = SklearnTrainer(SGDClassifier(), *data(2), classes=(0, 1))
    with pytest.raises(ParameterError, match=r"silo\.TorchTrainer"):
        trainer.train(trainer.initial(0), settings(proximal_mu=0.1))


@pytest.mark.parametrize("shape", [(4,), (6,), (5, 1), (0,)])
def test_a_vector_of_another_model_is_refused(shape: tuple[int, ...]) -> None:
    trainer = SklearnTrainer(SGDClassifier(), *data(2), classes=(0, 1))
    with pytest.raises(InputRefused, match=r"needs \(5,\)") as refused:
        trainer.train(np.zeros(shape), settings())
    assert refused.value.rule == "shape"
    with pytest.raises(InputRefused):
        trainer.evaluate(np.zeros(shape))


@pytest.mark.parametrize(
    ("estimator", "text"),
    [
        (RidgeClassifier(), "neither partial_fit nor warm_start"),
        (LogisticRegression(solver="liblinear"), "liblinear"),
        (SGDClassifier(average=True), "average=True"),
        (SGDClassifier(early_stopping=True), "early_stopping should be False"),
        (GaussianNB(), "no coef_ or coefs_"),
    ],
    ids=repr,
)
def test_estimators_that_cannot_take_part_are_refused(estimator: Any, text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        SklearnTrainer(estimator, *data(2), classes=(0, 1))


def test_data_that_does_not_fit_is_refused_without_a_value() -> None:
    x, y = data(2)
    sgd = SGDClassifier()
    with pytest.raises(ParameterError, match="at least 2 labels"):
        SklearnTrainer(sgd, x, y, classes=[1, 1])
    with pytest.raises(ParameterError, match="x must be"):
        SklearnTrainer(sgd, x[:, 0], y, classes=(0, 1))
    with pytest.raises(ParameterError, match="x must be"):
        SklearnTrainer(sgd, x, y[1:], classes=(0, 1))
    with pytest.raises(ParameterError, match="x must be"):
        SklearnTrainer(sgd, x[:0], y[:0], classes=(0, 1))
    with pytest.raises(ParameterError, match="validation has 3 features and x has 4"):
        SklearnTrainer(sgd, x, y, classes=(0, 1), validation=(x[:, :3], y))
    with pytest.raises(ParameterError, match="1 of 90 labels are not in classes") as refused:
        SklearnTrainer(sgd, x, np.where(np.arange(90) == 7, 777, y), classes=(0, 1))
    assert "777" not in str(refused.value)
