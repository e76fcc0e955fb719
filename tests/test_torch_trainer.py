"""TorchTrainer and its manifest: one test a guarantee, and every refusal by name."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import secagg
import silo
from secagg.errors import EnvironmentFault, InputRefused, ParameterError, UsageError
from secagg.learning.trainer import Initialises, TrainingSettings
from silo import Manifest, TorchTrainer, torch_trainer

SGD = torch.optim.SGD


def pairs(count: int = 40, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two well separated classes in four dimensions."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % 2
    inputs = torch.randn(count, 4, generator=generator) + 3.0 * targets[:, None]
    return inputs, targets


def network() -> nn.Module:
    """Every kind of entry: parameters, floating buffers, an integer buffer; and dropout to need a seed."""
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 2))


def float64(vector: NDArray[Any]) -> NDArray[np.float64]:
    frozen = vector.astype(np.float64)
    frozen.flags.writeable = False
    return frozen


def test_learns_a_classifier_with_nothing_but_a_model_and_a_loader() -> None:
    trainer = TorchTrainer(network(), DataLoader(TensorDataset(*pairs()), batch_size=8, shuffle=True))
    before = float64(trainer.initial(1))
    update = trainer.train(before, TrainingSettings(round=1, epochs=30, learning_rate=0.01, seed=3))
    first, last = trainer.evaluate(before).metrics, trainer.evaluate(float64(update.weights)).metrics
    assert last["loss"] < first["loss"] / 2
    assert last["accuracy"] >= 0.95
    assert set(last) == {"loss", "accuracy"}
    assert update.examples == 40.0


def test_is_a_trainer_that_initialises() -> None:
    trainer = TorchTrainer(network(), pairs())
    assert isinstance(trainer, secagg.Trainer)
    assert isinstance(trainer, Initialises)


# The vector and its manifest.


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4), st.booleans())
def test_unpack_of_pack_is_bit_identical(shapes: list[tuple[int, int]], wide: bool) -> None:
    dtypes = [torch.float32, torch.float16, torch.bfloat16, torch.float64 if wide else torch.float32]
    state: dict[str, Tensor] = {
        f"w{i}": torch.randn(shape, generator=torch.Generator().manual_seed(i)).to(dtypes[i])
        for i, shape in enumerate(shapes)
    }
    state["steps"] = torch.tensor(7)
    manifest = Manifest.of(state)
    vector = manifest.pack(state)
    assert vector.shape == (manifest.length,) == (sum(a * b for a, b in shapes),)
    back = manifest.unpack(float64(vector))
    assert list(back) == [f"w{i}" for i in range(len(shapes))]
    for name, tensor in back.items():
        assert tensor.dtype == state[name].dtype
        assert torch.equal(tensor, state[name])


def test_order_is_that_of_the_state_dict() -> None:
    state = {"b": torch.tensor([1.0, 2.0]), "count": torch.tensor(9), "a": torch.tensor([[3.0], [4.0]])}
    manifest = Manifest.of(state)
    assert manifest.pack(state).tolist() == [1.0, 2.0, 3.0, 4.0]
    assert [entry.name for entry in manifest.shared] == ["b", "a"]
    assert [entry.name for entry in manifest.local] == ["count"]


def test_digest_depends_on_every_name_shape_and_dtype() -> None:
    state = {"a": torch.zeros(2, 3), "n": torch.tensor(0)}
    variants: list[Mapping[str, Tensor]] = [
        state,
        {"b": torch.zeros(2, 3), "n": torch.tensor(0)},
        {"a": torch.zeros(3, 2), "n": torch.tensor(0)},
        {"a": torch.zeros(2, 3, dtype=torch.float64), "n": torch.tensor(0)},
        {"n": torch.tensor(0), "a": torch.zeros(2, 3)},
        {"a": torch.zeros(2, 3)},
    ]
    digests = [Manifest.of(variant).digest for variant in variants]
    assert len(set(digests)) == len(variants)
    assert digests[0] == Manifest.of({name: tensor + 1 for name, tensor in state.items()}).digest


def test_floating_buffers_travel_and_integer_buffers_stay() -> None:
    model = network()
    trainer = TorchTrainer(model, pairs(), batch_size=40)
    start = float64(trainer.weights())
    trained = float64(trainer.train(start, TrainingSettings(round=1, epochs=3)).weights)
    state = trainer.state_dict(trained)
    # Three batches in training mode: the local counter moved, although nothing in the vector counts them.
    assert state["1.num_batches_tracked"].item() == 3
    assert not torch.equal(state["1.running_mean"], torch.zeros(6))
    floats = sum(tensor.numel() for tensor in model.state_dict().values() if tensor.is_floating_point())
    assert len(trained) == floats
    # Another silo that adopts the vector adopts the statistics, and keeps its own counter.
    other = TorchTrainer(model, pairs()).state_dict(trained)
    assert torch.equal(other["1.running_mean"], state["1.running_mean"])
    assert other["1.num_batches_tracked"].item() == 0


def test_double_precision_survives() -> None:
    trainer = TorchTrainer(nn.Linear(4, 2).double(), (pairs()[0].double(), pairs()[1]))
    weights = trainer.initial(5)
    assert weights.dtype == np.float64
    assert trainer.load(weights).get_parameter("weight").dtype == torch.float64
    assert TorchTrainer(network(), pairs()).weights().dtype == np.float32


# Independence and determinism.


def test_silos_with_one_template_do_not_touch_each_other_or_it() -> None:
    model = network()
    template = copy.deepcopy(model.state_dict())
    north, south = TorchTrainer(model, pairs(seed=1)), TorchTrainer(model, pairs(seed=2))
    start = float64(north.weights())
    untouched = south.weights()
    north.train(start, TrainingSettings(round=1))
    assert not np.array_equal(north.weights(), untouched)
    assert np.array_equal(south.weights(), untouched)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, template[name])


@pytest.mark.parametrize("form", ["tensors", "dataset", "loader"])
def test_same_seed_is_bit_identical_and_another_seed_is_not(form: str) -> None:
    data = pairs()
    forms: dict[str, tuple[Tensor, Tensor] | Dataset[Any] | DataLoader[Any]] = {
        "tensors": data,
        "dataset": TensorDataset(*data),
        "loader": DataLoader(TensorDataset(*data), batch_size=8, shuffle=True),
    }
    model = network()

    def run(seed: int) -> bytes:
        trainer = TorchTrainer(model, forms[form], batch_size=8)
        torch.manual_seed(seed // 2 + 1000)  # the caller's own random state must not matter
        start = float64(trainer.initial(0))
        return trainer.train(start, TrainingSettings(round=1, epochs=2, seed=seed)).weights.tobytes()

    assert run(2**64 - 1) == run(2**64 - 1)
    assert run(1) != run(2)


def test_training_twice_with_one_trainer_repeats_too() -> None:
    trainer = TorchTrainer(network(), pairs())
    start = float64(trainer.initial(0))
    settings = TrainingSettings(round=1, epochs=2, seed=4)
    assert np.array_equal(trainer.train(start, settings).weights, trainer.train(start, settings).weights)


def test_random_state_of_torch_is_the_same_after_every_call() -> None:
    trainer = TorchTrainer(network(), DataLoader(TensorDataset(*pairs()), batch_size=8, shuffle=True))
    before = torch.get_rng_state()
    weights = float64(trainer.initial(1))
    trainer.train(weights, TrainingSettings(round=1))
    trainer.evaluate(weights)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_vector_handed_in_is_not_written_to_and_the_result_is_a_copy() -> None:
    trainer = TorchTrainer(network(), pairs())
    start = trainer.initial(0).astype(np.float64)
    kept = start.copy()
    update = trainer.train(start, TrainingSettings(round=1))
    trained = update.weights.copy()
    trainer.train(start, TrainingSettings(round=2, seed=9))
    assert np.array_equal(start, kept)
    assert np.array_equal(update.weights, trained)


def test_initial_is_seeded_resets_every_module_and_leaves_the_weights() -> None:
    class Attentive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2)
            self.norm = nn.BatchNorm1d(4)
            self.scale = nn.Parameter(torch.full((1,), 7.0))

    model = Attentive()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
        model.norm.get_buffer("running_mean").fill_(7.0)
    trainer = TorchTrainer(model, pairs())
    weights = trainer.initial(11)
    assert np.array_equal(weights, trainer.initial(11))
    assert not np.array_equal(weights, trainer.initial(12))
    state = trainer.state_dict(weights)
    assert not (state["attention.in_proj_weight"] == 7.0).any()
    assert torch.equal(state["norm.running_mean"], torch.zeros(4))
    assert state["scale"].item() == 7.0  # owned by no module that can reset it, as documented
    assert (trainer.weights() == 7.0).sum() > 50


# FedProx.


def test_proximal_step_equals_the_closed_form() -> None:
    """Plain gradient descent on a linear model: each step can be written down."""
    inputs, targets = (
        torch.randn(8, 3, generator=torch.Generator().manual_seed(1)),
        torch.arange(8.0)[:, None],
    )
    rate, mu, steps = 0.05, 0.7, 4
    trainer = TorchTrainer(
        nn.Linear(3, 1, bias=False).double(),
        (inputs.double(), targets.double()),
        loss=nn.functional.mse_loss,
        optimizer=SGD,
        batch_size=8,
    )
    start = float64(trainer.initial(2))
    settings = TrainingSettings(round=1, epochs=steps, learning_rate=rate, proximal_mu=mu)
    trained = trainer.train(start, settings).weights

    matrix, answers, expected = inputs.double().numpy(), targets.double().numpy()[:, 0], start.copy()
    for _ in range(steps):
        gradient = 2 / 8 * matrix.T @ (matrix @ expected - answers) + mu * (expected - start)
        expected = expected - rate * gradient
    np.testing.assert_allclose(trained, expected, rtol=1e-12)
    free = trainer.train(start, TrainingSettings(round=1, epochs=steps, learning_rate=rate)).weights
    assert np.linalg.norm(trained - start) < np.linalg.norm(free - start)


def test_proximal_term_leaves_buffers_and_frozen_parameters_alone() -> None:
    class Shift(nn.Module):
        """The loss has no gradient at all, so that whatever moves was moved by something else."""

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4, affine=False)
            self.weight = nn.Parameter(torch.zeros(2))
            self.frozen = nn.Parameter(torch.zeros(2), requires_grad=False)

        def forward(self, inputs: Tensor) -> Tensor:
            result: Tensor = self.norm(inputs)[:, :2] + 0 * self.weight + self.frozen
            return result

    def run(mu: float) -> dict[str, Tensor]:
        trainer = TorchTrainer(Shift(), pairs(), optimizer=SGD, batch_size=40)
        settings = TrainingSettings(round=1, epochs=3, learning_rate=0.5, proximal_mu=mu)
        return trainer.state_dict(float64(trainer.train(float64(trainer.weights()), settings).weights))

    with_term, without = run(10.0), run(0.0)
    assert torch.equal(with_term["frozen"], torch.zeros(2))
    assert not torch.equal(without["norm.running_mean"], torch.zeros(4))
    assert torch.equal(with_term["norm.running_mean"], without["norm.running_mean"])


def test_proximal_term_pulls_a_parameter_that_the_loss_did_not_reach() -> None:
    parameter, anchor = nn.Parameter(torch.tensor([3.0, -1.0])), torch.tensor([1.0, 1.0])
    torch_trainer._add_proximal_gradient([parameter], [anchor], 0.5)
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [1.0, -1.0]


# Settings, loss, metrics.


def test_learning_rate_of_the_settings_goes_before_the_default() -> None:
    def moved(default: float, rate: float | None) -> float:
        trainer = TorchTrainer(nn.Linear(4, 2), pairs(), optimizer=SGD, learning_rate=default, batch_size=40)
        start = float64(trainer.initial(0))
        trained = trainer.train(start, TrainingSettings(round=1, learning_rate=rate)).weights
        return float(np.linalg.norm(trained - start))

    assert moved(0.1, None) == pytest.approx(10 * moved(0.01, None), rel=1e-4)
    assert moved(0.1, 0.01) == moved(0.01, None)


def test_optimizer_may_be_any_function_and_starts_afresh_every_round() -> None:
    trainer = TorchTrainer(network(), pairs(), optimizer=partial(torch.optim.SGD, momentum=0.9))
    start = float64(trainer.initial(0))
    settings = TrainingSettings(round=1, learning_rate=0.1)
    assert np.array_equal(trainer.train(start, settings).weights, trainer.train(start, settings).weights)


def test_examples_count_one_pass_and_follow_the_loader() -> None:
    loader = DataLoader(TensorDataset(*pairs(21)), batch_size=4, drop_last=True)
    trainer = TorchTrainer(network(), loader)
    assert trainer.train(float64(trainer.initial(0)), TrainingSettings(round=1, epochs=3)).examples == 20.0


def test_evaluation_is_over_the_whole_validation_data_and_changes_nothing() -> None:
    inputs, targets = pairs(30, seed=3)
    trainer = TorchTrainer(network(), pairs(), validation=(inputs, targets), batch_size=7)
    weights = float64(trainer.initial(0))
    result = trainer.evaluate(weights)
    scores = trainer.load(weights)(inputs)
    assert result.examples == 30.0
    mean = nn.functional.cross_entropy(scores, targets).item()
    assert result.metrics["loss"] == pytest.approx(mean, rel=1e-5)
    right = (scores.argmax(1) == targets).sum().item()
    assert result.metrics["accuracy"] == pytest.approx(right / 30)
    assert np.array_equal(trainer.weights(), weights.astype(np.float32))
    assert trainer.evaluate(weights) == result


def test_metrics_see_all_outputs_at_once() -> None:
    seen: list[tuple[int, ...]] = []

    def spread(outputs: Tensor, targets: Tensor) -> dict[str, float]:
        seen.append((len(outputs), len(targets)))
        return {"spread": outputs.std().item()}

    trainer = TorchTrainer(network(), pairs(), metrics=spread, batch_size=8)
    assert set(trainer.evaluate(float64(trainer.initial(0))).metrics) == {"loss", "spread"}
    assert seen == [(40, 40)]


def test_a_loss_of_ones_own_brings_no_accuracy() -> None:
    trainer = TorchTrainer(
        nn.Linear(4, 1), (pairs()[0], torch.ones(40, 1)), loss=nn.functional.mse_loss, validation=None
    )
    assert set(trainer.evaluate(float64(trainer.initial(0))).metrics) == {"loss"}


def test_what_a_model_raises_passes_through() -> None:
    trainer = TorchTrainer(nn.Linear(5, 2), pairs())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        trainer.train(float64(trainer.initial(0)), TrainingSettings(round=1))


def test_nan_is_handed_back_for_the_next_layer_to_refuse() -> None:
    inputs, targets = pairs()
    trainer = TorchTrainer(network(), (inputs * float("nan"), targets))
    assert np.isnan(trainer.train(float64(trainer.initial(0)), TrainingSettings(round=1)).weights).any()


# Files.


def test_saved_file_loads_strictly_in_stock_torch(tmp_path: Path) -> None:
    model = network()
    trainer = TorchTrainer(model, pairs(), batch_size=40)
    trained = float64(trainer.train(float64(trainer.initial(0)), TrainingSettings(round=1, epochs=2)).weights)
    trainer.save(trained, tmp_path / "model.safetensors")
    stock = network()
    stock.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    assert stock.state_dict()["1.num_batches_tracked"].item() == 2
    inputs, _ = pairs()
    assert torch.equal(stock.eval()(inputs), trainer.load(trained)(inputs))


def test_tied_weights_are_saved_and_loaded(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight

        def forward(self, inputs: Tensor) -> Tensor:
            result: Tensor = self.second(self.first(inputs))
            return result

    trainer = TorchTrainer(Tied(), pairs())
    trained = float64(trainer.train(float64(trainer.initial(0)), TrainingSettings(round=1)).weights)
    trainer.save(trained, tmp_path / "tied.safetensors")
    stock = Tied()
    stock.load_state_dict(load_file(tmp_path / "tied.safetensors"), strict=True)
    assert torch.equal(stock.first.weight, trainer.state_dict(trained)["second.weight"])


def test_unwritable_path_is_an_environment_fault(tmp_path: Path) -> None:
    trainer = TorchTrainer(network(), pairs())
    with pytest.raises(EnvironmentFault, match="cannot write"):
        trainer.save(float64(trainer.weights()), tmp_path / "missing" / "model.safetensors")


# Refusals.


class Growing(nn.Module):
    """A model that replaces its layer after the first call."""

    def __init__(self, next_layer: nn.Module, name: str = "layer") -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self._next = (next_layer, name)  # in a tuple, so that it is not registered yet

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.layer(inputs)
        layer, name = self._next
        setattr(self, name, layer)
        return result


@pytest.mark.parametrize(
    ("model", "rule", "text"),
    [
        (Growing(nn.Linear(4, 3)), "shape", r"'layer.weight' had shape \(2, 4\).*\(3, 4\) now"),
        (Growing(nn.Linear(4, 2, bias=False)), "layout", "'layer.bias' is gone"),
        (Growing(nn.Linear(4, 2), "extra"), "layout", "'extra.weight' is new"),
        (Growing(nn.Linear(4, 2).double()), "dtype", "'layer.weight' was torch.float32"),
    ],
)
def test_a_model_that_changes_is_refused_by_name(model: nn.Module, rule: str, text: str) -> None:
    trainer = TorchTrainer(model, pairs(), batch_size=40)
    with pytest.raises(InputRefused, match=text) as refused:
        trainer.train(float64(trainer.initial(0)), TrainingSettings(round=1))
    assert refused.value.rule == rule
    with pytest.raises(InputRefused, match=text):  # and it stays refused
        trainer.evaluate(np.zeros(trainer.manifest.length))


@pytest.mark.parametrize(
    ("vector", "rule"),
    [
        (np.zeros(3), "shape"),
        (np.zeros((10, 1)), "shape"),
        (np.zeros(0), "shape"),
        (np.zeros(10, np.int64), "dtype"),
    ],
)
def test_a_vector_of_another_model_is_refused(vector: NDArray[Any], rule: str) -> None:
    trainer = TorchTrainer(nn.Linear(4, 2), pairs())
    for call in (
        partial(trainer.train, settings=TrainingSettings(round=1)),
        trainer.evaluate,
        trainer.load,
    ):
        with pytest.raises(InputRefused) as refused:
            call(vector)
        assert refused.value.rule == rule


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"batch_size": 0}, "batch_size"),
        ({"device": "abacus"}, "device 'abacus'"),
        ({"validation": "scans"}, "validation is of type str"),
        ({"validation": (pairs()[0], pairs(6)[1])}, "validation has 40 inputs and 6 targets"),
        ({"validation": (pairs()[0],)}, "validation as a tuple"),
        ({"validation": (torch.zeros(0, 4), torch.zeros(0))}, "validation holds no example"),
    ],
)
def test_unusable_arguments_are_refused(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        TorchTrainer(network(), pairs(), **arguments)


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_unusable_models_are_refused() -> None:
    class Notes(nn.Linear):
        def get_extra_state(self) -> dict[str, str]:
            return {"note": "text"}

        def set_extra_state(self, state: object) -> None:
            raise NotImplementedError

    with pytest.raises(ParameterError, match="nothing to train"):
        TorchTrainer(nn.ReLU(), pairs())
    with pytest.raises(ParameterError, match="no shape yet"):
        TorchTrainer(nn.LazyLinear(2), pairs())
    with pytest.raises(ParameterError, match="'_extra_state' is a dict"):
        TorchTrainer(Notes(4, 2), pairs())
    with pytest.raises(ParameterError, match="complex"):
        TorchTrainer(nn.ParameterList([torch.zeros(2, dtype=torch.complex64)]), pairs())


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_an_environment_fault() -> None:
    with pytest.raises(EnvironmentFault, match="device cuda"):
        TorchTrainer(network(), pairs(), device="cuda")


class Stream(IterableDataset[Any]):
    """Items without a length."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


def test_streams_train_and_empty_streams_or_odd_batches_are_usage_errors() -> None:
    start = float64(TorchTrainer(nn.Linear(4, 2), pairs()).initial(0))
    settings = TrainingSettings(round=1)
    stream = Stream([(torch.zeros(4), 1), (torch.ones(4), 0), (torch.ones(4), 0)])
    assert TorchTrainer(nn.Linear(4, 2), stream, batch_size=2).train(start, settings).examples == 3.0
    for odd, text in [
        (Stream([]), "no batch"),
        (Stream([torch.zeros(4)]), "pair"),
        (Stream([(torch.zeros(4), 1, 1)]), "pair"),
    ]:
        trainer = TorchTrainer(nn.Linear(4, 2), odd)
        with pytest.raises(UsageError, match=text):
            trainer.train(start, settings)
        with pytest.raises(UsageError, match=text):
            trainer.evaluate(start)


# Imports.


@pytest.mark.parametrize(
    ("package", "name", "command"),
    [
        ("torch", "TorchTrainer", "torch is not installed. Type: pip install 'secagg[torch]'"),
        ("safetensors", "TorchTrainer", "safetensors is not installed. Type: pip install 'secagg[torch]'"),
        ("sklearn", "SklearnTrainer", "scikit-learn is not installed. Type: pip install 'secagg[examples]'"),
    ],
)
def test_a_missing_package_prints_the_one_command(package: str, name: str, command: str) -> None:
    # None in sys.modules is how Python itself spells "this cannot be imported".
    code = f"""
import sys
sys.modules[{package!r}] = None
import silo
from secagg.errors import MissingExtra
try:
    silo.{name}
except MissingExtra as missing:
    print(missing)
"""
    assert _run(code) == command


def test_import_silo_loads_no_framework() -> None:
    code = "import silo, sys; dir(silo); print({'torch', 'sklearn', 'safetensors'} & set(sys.modules))"
    assert _run(code) == "set()"


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="Forest"):
        _ = silo.Forest


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()
