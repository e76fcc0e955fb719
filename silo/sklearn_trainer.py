"""Train a scikit-learn classifier at one silo: ``SklearnTrainer(estimator, X, y, classes=...)``.

What it is: ``secagg.learning.trainer.Trainer`` over classifiers whose whole model is arrays of floats:
``coef_`` and ``intercept_`` (SGDClassifier, Perceptron, LogisticRegression, ...) or ``coefs_`` and
``intercepts_`` (MLPClassifier). An epoch is one ``partial_fit`` over the data where the estimator has it,
otherwise one iteration of a ``warm_start`` solver.

What it does not do: it adds no proximal gradient (scikit-learn owns the steps; ``TorchTrainer`` adds it),
keeps no optimiser state from round to round, and takes no trees, no kernels and no preprocessing: scale
``X`` with constants agreed by all silos before.

Source: McMahan et al. 2017 (local SGD); scikit-learn's ``partial_fit`` and ``warm_start``.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, log_loss

from secagg.errors import InputRefused, ParameterError
from secagg.explanation import explained
from secagg.learning.trainer import Evaluation, TrainingSettings, Update
from secagg.names import RealVector
from secagg.ranges import shown

_LAYOUTS = (("coef_", "intercept_"), ("coefs_", "intercepts_"))
_RATES = ("eta0", "learning_rate_init")


class SklearnTrainer:
    """Local training and evaluation of a linear or multi-layer scikit-learn classifier.

    Args:
        estimator: an unfitted classifier; copied.
        x: training examples, shape (n, features), n >= 1, finite floats.
        y: their labels, shape (n,), each one of ``classes``.
        classes: every label of the federation, the same at every silo, at least 2. An estimator without
            ``partial_fit`` needs an example of each at this silo.
        validation: held-out (x, y). Without it ``evaluate`` measures the **training** data, which
            flatters the model.

    Raises:
        ParameterError: data, classes and estimator do not fit each other, or the estimator is of another
            kind; the text says which.

    Guarantees:
        - The estimator handed in is never changed.
        - Same vector, settings and data: bit-identical weights.
        - The first vector depends on the estimator, the features' number, the classes and the seed, and
          not on the silo's data.
    """

    @explained()
    def __init__(
        self,
        estimator: Any,
        x: ArrayLike,
        y: ArrayLike,
        *,
        classes: Sequence[Any] | NDArray[Any],
        validation: tuple[ArrayLike, ArrayLike] | None = None,
    ) -> None:
        if isinstance(estimator, type) or not (hasattr(estimator, "get_params") and is_classifier(estimator)):
            raise ParameterError(
                f"estimator is {shown(estimator)}, must be an unfitted classifier of scikit-learn"
            )
        self._classes = _labels(classes)
        if len(self._classes) < 2:
            raise ParameterError("classes must name at least 2 labels")
        self._x, self._y = self._examples("x", x, y)
        self._held_out = (
            (self._x, self._y) if validation is None else self._examples("validation", *_pair(validation))
        )
        if self._held_out[0].shape[1] != self._x.shape[1]:
            raise ParameterError(
                f"validation has {self._held_out[0].shape[1]} features and x has {self._x.shape[1]}"
            )
        self._steps = hasattr(estimator, "partial_fit")
        parameters = estimator.get_params()
        if not self._steps and ("warm_start" not in parameters or "max_iter" not in parameters):
            raise ParameterError(
                f"{type(estimator).__name__} has neither partial_fit nor warm_start, so it cannot start "
                "from a global model; SGDClassifier, LogisticRegression and MLPClassifier can"
            )
        if parameters.get("solver") == "liblinear":
            raise ParameterError("solver 'liblinear' ignores warm_start; choose 'lbfgs' or 'saga'")
        missing = len(self._classes) - len(np.unique(self._y))
        if not self._steps and missing:
            raise ParameterError(
                f"{type(estimator).__name__} needs an example of every class at every silo; {missing} of "
                f"{len(self._classes)} are missing. SGDClassifier(loss='log_loss') does not need them"
            )
        if parameters.get("average"):
            raise ParameterError(
                "average=True trains arrays beside coef_; leave it False, the round averages"
            )
        self._rate = next((name for name in _RATES if name in parameters), None)
        self._template = clone(estimator)
        self._names = self._layout()

    def train(self, weights: RealVector, settings: TrainingSettings) -> Update:
        """Train from ``weights`` on the local data.

        Args:
            weights: the global model, float, shape (length,); not written to.
            settings: epochs, learning rate and seed of this round.

        Returns:
            The trained vector, float64, and the number of training examples.

        Raises:
            ParameterError: ``proximal_mu`` is above 0, or a learning rate is set for an estimator that
                has none.
            InputRefused: rule ``"shape"``: the vector does not fit, or training changed the shapes.
        """
        if settings.proximal_mu > 0:
            raise ParameterError(
                "SklearnTrainer cannot add FedProx's gradient to steps that scikit-learn makes; "
                "use silo.TorchTrainer, or proximal_mu=0"
            )
        model = self._load(weights, settings.seed)
        if settings.learning_rate is not None:
            if self._rate is None:
                raise ParameterError(
                    f"{type(model).__name__} has no learning rate; leave learning_rate unset"
                )
            model.set_params(**{self._rate: settings.learning_rate})
            if self._rate == "eta0":  # the other schedules of SGDClassifier do not read eta0, or decay it
                model.set_params(learning_rate="constant")
        if self._steps:
            for epoch in range(settings.epochs):
                _seed(model, settings.seed + epoch)  # one seed would shuffle every epoch alike
                model.partial_fit(self._x, self._y)
        else:
            model.set_params(warm_start=True, max_iter=settings.epochs)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # a few iterations a round is the plan
                model.fit(self._x, self._y)
        trained = self._pack(model)
        if trained.shape != weights.shape:
            raise InputRefused(
                "shape", f"the model had {len(weights)} parameters before training and has {len(trained)} now"
            )
        return Update(weights=trained, examples=float(len(self._y)))

    def evaluate(self, weights: RealVector) -> Evaluation:
        """Measure ``weights`` on the validation data, or on the training data if there is none.

        Returns:
            ``accuracy``, and ``loss`` (mean log loss) where the estimator gives probabilities; the number
            of examples measured.

        Raises:
            InputRefused: rule ``"shape"``: the vector does not fit.
        """
        model = self.load(weights)
        x, y = self._held_out
        metrics = {"accuracy": float(accuracy_score(y, model.predict(x)))}
        if hasattr(model, "predict_proba"):
            metrics["loss"] = float(log_loss(y, model.predict_proba(x), labels=self._classes))
        return Evaluation(metrics=metrics, examples=float(len(y)))

    def initial(self, seed: int) -> NDArray[Any]:
        """Return freshly seeded weights, float64, shape (length,). Linear models start at zero.

        Args:
            seed: 64 bits, of which scikit-learn takes 32; same seed, same weights at every silo.
        """
        weights = self._pack(self._unfitted(seed))
        return weights if self._names == _LAYOUTS[1] else np.zeros_like(weights)

    def load(self, weights: RealVector) -> Any:
        """Return a copy of the estimator that carries ``weights`` and predicts.

        Raises:
            InputRefused: rule ``"shape"``: the vector does not fit.
        """
        return self._load(weights, seed=0)

    def _examples(self, name: str, x: ArrayLike, y: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
        examples, labels = _array(name, x), _array(f"{name}'s labels", y)
        if examples.ndim != 2 or labels.shape != (len(examples),) or len(examples) == 0:
            raise ParameterError(
                f"{name} must be (n, features) with n >= 1 labels of shape (n,), not {examples.shape} and "
                f"{labels.shape}"
            )
        if examples.dtype.kind == "O":  # A table of several kinds of numbers, for example.
            with contextlib.suppress(TypeError, ValueError):
                examples = examples.astype(np.float64)
        if examples.dtype.kind not in "fiub":
            raise ParameterError(f"{name} has entries that are no real numbers; encode them before")
        if not np.isfinite(examples).all():
            raise ParameterError(f"{name} has entries that are NaN or infinite; fill or drop them before")
        try:
            strange = int(np.count_nonzero(~np.isin(labels, self._classes)))
        except TypeError:  # Labels without an order among them, or with those of classes.
            raise ParameterError(f"{name}: the labels are of another kind than classes") from None
        if strange:
            raise ParameterError(f"{name}: {strange} of {len(labels)} labels are not in classes")
        return examples, labels

    def _unfitted(self, seed: int) -> Any:
        """Return an estimator that has its arrays, made from zeros and never from the silo's data."""
        model = clone(self._template)
        _seed(model, seed)
        blank = np.zeros((len(self._classes), self._x.shape[1]), self._x.dtype)
        if self._steps:
            model.partial_fit(blank, self._classes, classes=self._classes)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(blank, self._classes)
        if hasattr(model, "_optimizer"):
            del model._optimizer  # MLPClassifier's momenta would point at the arrays made here
        return model

    def _layout(self) -> tuple[str, str]:
        try:
            model = self._unfitted(0)
        except (TypeError, ValueError) as error:  # only constants went in: the text shows no data
            raise ParameterError(f"{type(self._template).__name__}: {error}") from None
        for names in _LAYOUTS:
            if all(hasattr(model, name) for name in names):
                return names
        raise ParameterError(
            f"{type(model).__name__} keeps its model in no coef_ or coefs_; SGDClassifier, "
            "LogisticRegression and MLPClassifier do"
        )

    def _arrays(self, model: Any) -> list[NDArray[Any]]:
        weights, offsets = (getattr(model, name) for name in self._names)
        return [*weights, *offsets] if self._names == _LAYOUTS[1] else [weights, offsets]

    def _pack(self, model: Any) -> NDArray[np.float64]:
        return np.concatenate([np.ravel(array) for array in self._arrays(model)]).astype(np.float64)

    def _load(self, weights: RealVector, seed: int) -> Any:
        model = self._unfitted(seed)
        arrays = self._arrays(model)
        length = sum(array.size for array in arrays)
        if weights.shape != (length,):
            raise InputRefused(
                "shape",
                f"the global model has shape {weights.shape}, this silo's model needs ({length},); give "
                "every silo the same estimator, features and classes",
            )
        start = 0
        for array in arrays:
            array[...] = weights[start : start + array.size].reshape(array.shape)
            start += array.size
        return model


def _array(name: str, value: object) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except (TypeError, ValueError):  # Rows of different lengths, for example.
        raise ParameterError(f"{name} cannot be read as an array") from None


def _pair(validation: Any) -> tuple[ArrayLike, ArrayLike]:
    if not isinstance(validation, tuple | list) or len(validation) != 2:
        raise ParameterError(f"validation is {shown(validation)}, must be a pair (x, y)")
    x, y = validation
    return x, y


def _labels(classes: object) -> NDArray[Any]:
    try:
        return np.unique(_array("classes", classes))
    except TypeError:
        raise ParameterError(
            "classes has labels of several kinds, must be all numbers or all texts"
        ) from None


def _seed(model: Any, seed: int) -> None:
    if "random_state" in model.get_params():
        model.set_params(random_state=seed % 2**32)
