"""DP-SGD at a silo: each record's gradient beside plain autograd, its bound, the noise, what is refused."""

from __future__ import annotations

import copy
import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

from secagg.errors import InputRefused, ParameterError, UsageError
from secagg.learning.trainer import SumsGradients, TrainingSettings, TrainsPrivately, Update
from secagg.names import RandomSource
from secagg.privacy.noise import BLOCK
from secagg.privacy.sampling import PoissonSampler
from secagg.terms import LocalNoise
from silo import TorchTrainer
from silo.manifest import Manifest
from tests.adversary.reference import Tape
from tests.counts import count

pytest.importorskip("opacus")

from opacus import GradSampleModule
from opacus.layers import DPLSTM, DPMultiheadAttention
from opacus.optimizers import DPOptimizer

from silo.dp_training import NoisedOptimizer
from silo.record_gradients import clipped_sums

SGD = torch.optim.SGD
ROUND = TrainingSettings(round=1, learning_rate=1.0)
SIX_SIGMAS = 6.0
"""A right answer is refused once in 5e8 runs."""


# Models, each with what it takes.


class First(nn.Module):
    """The last position of what a recurrent layer or an attention gives, classified."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        attends = isinstance(self.layer, DPMultiheadAttention)
        given: Tensor = (self.layer(inputs, inputs, inputs) if attends else self.layer(inputs))[0]
        result: Tensor = self.head(given[:, -1])
        return result


class Token(nn.Module):
    """A parameter that belongs to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.head = nn.Parameter(torch.randn(1, 1, 6)), nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.head((inputs * self.token).tanh().mean(1))
        return result


class Tied(nn.Module):
    """One matrix under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.second.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.head(self.second(self.first(inputs).tanh()).mean(1))
        return result


class Partly(nn.Module):
    """Half of it is frozen, a layer of it is never used, and a buffer travels with it."""

    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.idle, self.head = nn.Linear(6, 6), nn.Linear(2, 2), nn.Linear(6, 3)
        self.frozen.requires_grad_(requires_grad=False)
        self.register_buffer("shift", torch.ones(6))

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.head(self.frozen(inputs.mean(1) + self.shift))
        return result


def convolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.GroupNorm(2, 4),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


def words() -> nn.Module:
    return nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.LayerNorm(20), nn.Linear(20, 3))


MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(30, 5), nn.Tanh(), nn.Linear(5, 3)), "series"),
    "convolution": (convolution, "images"),
    "embedding": (words, "words"),
    "LSTM": (lambda: First(DPLSTM(6, 4, batch_first=True), 4), "series"),
    "attention": (lambda: First(DPMultiheadAttention(6, 2, batch_first=True), 6), "series"),
    "bare parameter": (Token, "series"),
    "tied": (Tied, "series"),
    "partly frozen": (Partly, "series"),
}


def data(kind: str, records: int = 11) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(5)
    inputs = {
        "series": torch.randn(records, 5, 6, generator=draw),
        "images": torch.randn(records, 2, 6, 6, generator=draw),
        "words": torch.randint(9, (records, 5), generator=draw),
    }[kind]
    return inputs, torch.arange(records) % 3


def made(name: str) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    make, kind = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return make(), data(kind)


def start(trainer: TorchTrainer) -> NDArray[np.float64]:
    weights = trainer.weights().astype(np.float64)
    weights.flags.writeable = False
    return weights


def one_by_one(model: nn.Module, inputs: Tensor, targets: Tensor, bound: float) -> list[NDArray[np.float64]]:
    """Return every record's clipped gradient as a vector: autograd, one record at a time."""
    model, clipped = copy.deepcopy(model).train(), []
    manifest = Manifest.of(model.state_dict())
    for i in range(len(targets)):
        model.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs[i : i + 1]), targets[i : i + 1])
        torch.autograd.backward(loss)
        parts = []
        for entry in manifest.shared:
            weight = model.state_dict(keep_vars=True)[entry.name]
            gradient = None if weight.grad is None else weight.grad.double().reshape(-1).numpy()
            parts.append(np.zeros(entry.length) if gradient is None else gradient)
        vector = np.concatenate(parts)
        clipped.append(vector * min(1.0, bound / np.linalg.norm(vector)))
    return clipped


def everything() -> PoissonSampler:
    return PoissonSampler(1.0)


class Rows(PoissonSampler):
    """Draws what it is told to."""

    def __init__(self, *samples: Sequence[int], rate: float = 0.5) -> None:
        super().__init__(rate)
        self._samples = list(samples)

    def draw(self, records: int) -> NDArray[np.int64]:
        self.draws += 1
        return np.array(self._samples.pop(0), np.int64)


# The sum of gradients.


@pytest.mark.parametrize("bound", [1e3, 0.3])
@pytest.mark.parametrize("name", MODELS)
def test_the_sum_is_that_of_plain_autograd_record_by_record(name: str, bound: float) -> None:
    model, examples = made(name)
    trainer = TorchTrainer(model, examples, batch_size=4)
    found = trainer.gradient_sum(start(trainer), ROUND, sampler=everything(), l2_clip_norm=bound)
    expected = sum(one_by_one(model, *examples, bound))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-6)
    assert np.linalg.norm(found) > 0.1
    # Records of an earlier batch, or the mean over one, would be off by far more than the tolerance.
    assert not np.allclose(found * len(examples[1]) / (len(examples[1]) - 1), expected, rtol=1e-3)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_loss_that_sums_over_its_batch_is_no_larger_than_one_that_means(reduction: str) -> None:
    model, examples = made("linear")

    def loss(outputs: Any, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets, reduction=reduction)

    trainer = TorchTrainer(model, examples, loss=loss, batch_size=5)
    found = trainer.gradient_sum(start(trainer), ROUND, sampler=everything(), l2_clip_norm=100.0)
    np.testing.assert_allclose(found, sum(one_by_one(model, *examples, 100.0)), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("name", ["linear", "convolution", "LSTM"])
def test_small_batches_give_the_same_sum(name: str) -> None:
    model, examples = made(name)
    sums = [
        TorchTrainer(model, examples, batch_size=size).gradient_sum(
            start(TorchTrainer(model, examples)), ROUND, sampler=everything(), l2_clip_norm=0.5
        )
        for size in (1, 2, 3, 100)
    ]
    for other in sums[1:]:
        np.testing.assert_allclose(other, sums[0], rtol=1e-5, atol=1e-7)


def test_no_row_gives_zeros_and_one_row_gives_its_gradient() -> None:
    model, examples = made("linear")
    trainer = TorchTrainer(model, examples)
    sampler = Rows([], [7])
    none, one = (
        trainer.gradient_sum(start(trainer), ROUND, sampler=sampler, l2_clip_norm=9.0) for _ in range(2)
    )
    assert not none.any()
    assert none.shape == (trainer.manifest.length,)
    np.testing.assert_allclose(one, one_by_one(model, *examples, 9.0)[7], rtol=1e-4, atol=1e-7)
    assert sampler.draws == 2


def test_buffers_frozen_and_unreached_parameters_get_zeros() -> None:
    model, examples = made("partly frozen")
    trainer = TorchTrainer(model, examples)
    found = trainer.gradient_sum(start(trainer), ROUND, sampler=everything(), l2_clip_norm=1.0)
    parts = trainer.manifest.unpack(found)
    assert {name for name, part in parts.items() if part.any()} == {"head.weight", "head.bias"}


@pytest.mark.parametrize("name", MODELS)
def test_every_record_adds_at_most_the_bound_to_the_vector(name: str) -> None:
    """Also where a tied parameter is in the vector twice."""
    model, examples = made(name)
    trainer = TorchTrainer(model, examples)
    norms = []
    for row in range(len(examples[1])):
        alone = trainer.gradient_sum(start(trainer), ROUND, sampler=Rows([row]), l2_clip_norm=0.05)
        norms.append(float(np.linalg.norm(alone)))
    assert max(norms) <= 0.05
    assert min(norms) >= 0.05 * (1 - 1e-5)


@pytest.mark.parametrize("name", ["linear", "convolution", "LSTM", "attention", "bare parameter"])
def test_a_record_without_a_gradient_adds_zero_and_leaves_the_others_alone(name: str) -> None:
    model, (inputs, targets) = made(name)
    broken = inputs.clone()
    broken[4] = float("nan")
    others = [row for row in range(len(targets)) if row != 4]
    found, expected = (
        TorchTrainer(model, (values, targets), batch_size=4).gradient_sum(
            start(TorchTrainer(model, (inputs, targets))), ROUND, sampler=Rows(rows), l2_clip_norm=0.5
        )
        for values, rows in ((broken, range(len(targets))), (inputs, others))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


# Clipping alone.


@given(
    exponents=st.lists(st.one_of(st.none(), st.integers(-44, 38)), min_size=1, max_size=6),
    bound=st.sampled_from([1e-6, 0.1, 1.0, 3.0, 1e6]),
    broken=st.sampled_from([float("nan"), float("inf"), -float("inf")]),
    wide=st.booleans(),
)
@settings(max_examples=count(60, full=600), deadline=None)
def test_the_bound_holds_for_every_record(
    exponents: list[int | None], bound: float, broken: float, wide: bool
) -> None:
    dtype = torch.float64 if wide else torch.float32
    draw = torch.Generator().manual_seed(len(exponents))
    gradients = [
        torch.randn(len(exponents), *shape, generator=draw).to(dtype) for shape in ((3, 2), (4,), ())
    ]
    for row, exponent in enumerate(exponents):
        for part in gradients:
            part[row] *= 0.0 if exponent is None else 10.0**exponent
        if exponent is not None and exponent == 38:
            gradients[1][row, 2] = broken
    total = [torch.zeros(part.shape[1:], dtype=torch.float64) for part in gradients]
    for row, exponent in enumerate(exponents):
        alone = clipped_sums([part[row : row + 1] for part in gradients], bound)
        vector = torch.cat([part.reshape(-1) for part in alone])
        assert bool(vector.isfinite().all())
        norm = float(np.linalg.norm(vector.numpy()))
        before = float(
            np.linalg.norm(torch.cat([part[row].reshape(-1).double() for part in gradients]).numpy())
        )
        assert norm <= bound
        if exponent == 38 or before == 0.0:
            assert norm == 0.0
        elif before > bound:
            assert norm >= bound * (1 - 2e-6)
        elif before < bound * (1 - 2e-6):
            assert norm == before
        total = [part + more for part, more in zip(total, alone, strict=True)]
    for part, expected in zip(clipped_sums(gradients, bound), total, strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-12, atol=0.0)


def test_a_norm_beyond_float64_adds_zero() -> None:
    assert clipped_sums([torch.full((1, 2), 1e200, dtype=torch.float64)], 1.0)[0].tolist() == [0.0, 0.0]


# Private training.


def noise(steps: int = 1, *, clip: float = 1.0, multiplier: float = 1.0, rate: float = 0.5) -> LocalNoise:
    return LocalNoise(
        l2_clip_norm=clip, noise_multiplier=multiplier, sampling_rate=rate, steps=steps, delta=1e-5
    )


def blind(width: int = 200, *, records: int = 10, rate: float = 1.0) -> TorchTrainer:
    """A trainer that learns nothing, at zero: what moves its weights is noise."""
    model = nn.Linear(width, 100)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return TorchTrainer(
        model,
        (torch.zeros(records, width), torch.zeros(records, dtype=torch.int64)),
        loss=lambda outputs, _: 0.0 * outputs.sum(),
        optimizer=SGD,
        learning_rate=rate,
        batch_size=4,
    )


def moved(
    trainer: TorchTrainer, terms: LocalNoise, *, random: RandomSource = os.urandom, mu: float = 0.0
) -> NDArray[np.float64]:
    update = trainer.train_privately(
        start(trainer),
        TrainingSettings(round=1, proximal_mu=mu),
        noise=terms,
        sampler=PoissonSampler(terms.sampling_rate),
        random=random,
    )
    return update.weights.astype(np.float64)


def fits(values: NDArray[np.float64], deviation: float) -> bool:
    """Mean and variance of independent Gaussian values, within six standard deviations of both."""
    slack = SIX_SIGMAS / math.sqrt(values.size)
    return bool(
        abs(values.mean()) < slack * deviation
        and abs(values.var() / deviation**2 - 1.0) < slack * math.sqrt(2.0)
    )


@pytest.mark.parametrize(
    ("clip", "multiplier", "steps", "rate"), [(1.0, 1.0, 1, 0.5), (0.3, 2.5, 1, 0.1), (4.0, 0.5, 5, 1.0)]
)
def test_the_noise_of_a_step_has_the_width_of_the_terms_and_no_other(
    clip: float, multiplier: float, steps: int, rate: float
) -> None:
    """20,100 values: the variance is known to 1 in 100, and 2/3 or 3/2 of the width are 28 sigmas away."""
    trainer = blind(records=10)
    steps_of_noise = moved(trainer, noise(steps, clip=clip, multiplier=multiplier, rate=rate))
    assert steps_of_noise.size == 20_100
    deviation = multiplier * clip * math.sqrt(steps) / (rate * 10)
    assert fits(steps_of_noise, deviation)
    assert not fits(steps_of_noise * 2 / 3, deviation)
    assert not fits(steps_of_noise * 3 / 2, deviation)


class Recorder:
    """Hands out a tape and notes what was asked for."""

    def __init__(self, label: str) -> None:
        self.sizes: list[int] = []
        self._tape = Tape(label)

    def __call__(self, size: int) -> bytes:
        self.sizes.append(size)
        return self._tape(size)


def test_the_noise_comes_from_the_source_and_from_nowhere_else() -> None:
    recorder = Recorder("noise")
    trainer = blind(width=700)  # 70,000 weights: two blocks
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = moved(trainer, noise(3), random=recorder)
    assert torch.equal(torch.random.get_rng_state(), before)
    blocks = math.ceil(70_000 / BLOCK)
    assert recorder.sizes == [8] + [32] * 3 * blocks

    torch.manual_seed(2)
    np.random.seed(3)  # noqa: NPY002
    assert np.array_equal(moved(blind(width=700), noise(3), random=Recorder("noise")), first)
    other = moved(blind(width=700), noise(3), random=Recorder("other"))
    assert abs(np.corrcoef(first, other)[0, 1]) < SIX_SIGMAS / math.sqrt(first.size)


def test_two_calls_have_other_noise_and_so_have_two_steps() -> None:
    trainer = blind()
    torch.manual_seed(1)
    first = moved(trainer, noise())
    torch.manual_seed(1)
    trainer = blind()
    second = moved(trainer, noise())
    assert not (first == second).any()
    once, twice = (moved(blind(), noise(steps), random=Tape("same")) for steps in (1, 2))
    assert abs(np.corrcoef(once, twice - once)[0, 1]) < SIX_SIGMAS / math.sqrt(once.size)


def test_torch_draws_no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(*_: object, **__: object) -> Tensor:
        raise AssertionError

    trainer = blind()
    for name in ("normal", "randn", "randn_like"):
        monkeypatch.setattr(torch, name, drawn)
    assert fits(moved(trainer, noise()), 1.0 / 5)


def test_the_sampler_draws_once_a_step() -> None:
    sampler = PoissonSampler(0.3)
    trainer = blind()
    trainer.train_privately(start(trainer), ROUND, noise=noise(7, rate=0.3), sampler=sampler)
    assert sampler.draws == 7


def test_an_empty_sample_steps_with_noise_alone() -> None:
    trainer = blind(records=11)  # As many weights as telling a wrong width takes.
    weights = start(trainer)
    update = trainer.train_privately(
        weights, ROUND, noise=noise(2, clip=2.0), sampler=Rows([], []), random=os.urandom
    )
    moved_by = update.weights - weights
    alone = 2.0 * math.sqrt(2) / (0.5 * 11)
    assert fits(moved_by, alone)
    assert not fits(moved_by, alone * 2 / 3)
    assert not fits(moved_by, alone * 3 / 2)


def test_a_sum_is_divided_by_what_is_expected_and_not_by_what_came() -> None:
    model, examples = made("linear")
    steps = []
    for rows in ([3], [3, 5, 6, 7, 8]):
        trainer = TorchTrainer(model, examples, optimizer=SGD, batch_size=2)
        weights = start(trainer)
        terms = noise(clip=0.2, multiplier=1e-9)
        trained = trainer.train_privately(weights, ROUND, noise=terms, sampler=Rows(rows)).weights
        clipped = one_by_one(model, *examples, 0.2)
        np.testing.assert_allclose(
            trained - weights, -sum(clipped[row] for row in rows) / 5.5, rtol=1e-3, atol=1e-7
        )
        steps.append(trained)
    assert not np.array_equal(steps[0], steps[1])


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_it_takes_the_step_of_opacus_where_no_noise_is_added() -> None:
    model, (inputs, targets) = made("convolution")
    model.get_submodule("2").inplace = False  # type: ignore[assignment]
    updated = []
    for ours in (True, False):
        wrapped = GradSampleModule(copy.deepcopy(model), loss_reduction="sum")
        plain = SGD(wrapped.parameters(), lr=0.5, momentum=0.9)
        optimizer: Any
        if ours:
            quiet = noise(clip=0.4, multiplier=1e-9)
            optimizer = NoisedOptimizer(plain, quiet, records=7.0, random=os.urandom)
        else:
            optimizer = DPOptimizer(plain, noise_multiplier=0.0, max_grad_norm=0.4, expected_batch_size=7)
        for _ in range(3):
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(wrapped(inputs), targets, reduction="sum"))
            optimizer.step()
        updated.append(wrapped.to_standard_module().state_dict())
    for name, value in updated[0].items():
        torch.testing.assert_close(value, updated[1][name], rtol=1e-4, atol=1e-5)
        assert not torch.equal(value, model.state_dict()[name])


def test_the_proximal_term_is_added_after_the_noise() -> None:
    trainer = blind(rate=0.5)
    free, pulled = (
        moved(trainer if mu else blind(rate=0.5), noise(2), random=Tape("x"), mu=mu) for mu in (0.0, 0.8)
    )
    # w2 = w1 - rate * (n2 + mu * w1), with the same n1 and n2.
    first = moved(blind(rate=0.5), noise(1), random=Tape("x"))
    np.testing.assert_allclose(pulled, free - 0.5 * 0.8 * first, rtol=1e-4, atol=1e-7)


def test_dropout_follows_a_secret_seed_and_not_that_of_the_round() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(30, 3))
    trainer = TorchTrainer(model, data("series"), batch_size=4)
    seeded = TrainingSettings(round=1, seed=5)
    first, second = (
        trainer.gradient_sum(start(trainer), seeded, sampler=everything(), l2_clip_norm=1.0) for _ in range(2)
    )
    assert not np.array_equal(first, second)


# What stays as it was.


@pytest.mark.parametrize("name", MODELS)
def test_keys_layout_and_the_model_handed_in_stay_as_they_were(name: str) -> None:
    model, examples = made(name)
    before, hooks = copy.deepcopy(model.state_dict()), _marks(model)
    trainer = TorchTrainer(model, examples, batch_size=4, optimizer=SGD)
    keys, digest, own = (
        list(trainer.state_dict(start(trainer))),
        trainer.manifest.digest,
        _marks(trainer._model),
    )
    weights = start(trainer)
    update = trainer.train_privately(weights, ROUND, noise=noise(2), sampler=PoissonSampler(0.5))
    trainer.gradient_sum(weights, ROUND, sampler=everything(), l2_clip_norm=1.0)

    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert _marks(model) == hooks
    assert _marks(trainer._model) == own
    state = trainer.state_dict(update.weights.astype(np.float64))
    assert list(state) == keys == list(before)
    assert trainer.manifest.digest == digest == Manifest.of(state).digest
    assert not any(key.startswith("_module") for key in keys)
    assert update.examples == 11.0
    trainable = {key for key, value in model.state_dict(keep_vars=True).items() if value.requires_grad}
    assert {key for key in keys if not torch.equal(state[key], before[key])} == trainable
    trainer.train(weights, ROUND)  # And it still trains without privacy.


def _marks(model: nn.Module) -> list[Any]:
    """Everything that hangs on a model beside its values."""
    return [
        (name, sorted(vars(module)), len(module._forward_hooks), len(module._backward_hooks))
        for name, module in model.named_modules()
    ] + [(name, sorted(vars(parameter))) for name, parameter in model.named_parameters()]


class Remembers(nn.Module):
    """Keeps what it saw in a buffer, and uses it."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)
        self.register_buffer("seen", torch.zeros(6))

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.head(inputs.mean(1) + self.seen)
        self.seen += inputs.detach().mean((0, 1))
        return result


def test_no_buffer_carries_a_record_to_the_next_batch_or_out_of_the_silo() -> None:
    model, examples = Remembers(), data("series")
    trainer = TorchTrainer(model, examples, batch_size=2)
    weights = start(trainer)
    found = trainer.gradient_sum(weights, ROUND, sampler=everything(), l2_clip_norm=5.0)
    clean = copy.deepcopy(model)
    expected = []
    for row in range(11):
        clean.seen.zero_()
        expected += one_by_one(clean, examples[0][row : row + 1], examples[1][row : row + 1], 5.0)
    np.testing.assert_allclose(found, sum(expected), rtol=1e-4, atol=1e-6)
    update = trainer.train_privately(weights, ROUND, noise=noise(2), sampler=PoissonSampler(0.5))
    assert not trainer.state_dict(update.weights.astype(np.float64))["seen"].any()


# Refusals.


def both(trainer: TorchTrainer) -> Iterator[Callable[[], object]]:
    weights = start(trainer)
    yield lambda: trainer.train_privately(weights, ROUND, noise=noise(), sampler=PoissonSampler(0.5))
    yield lambda: trainer.gradient_sum(weights, ROUND, sampler=everything(), l2_clip_norm=1.0)


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 64, 3), nn.BatchNorm2d(64)
        self.rest = nn.Sequential(nn.Flatten(), nn.LSTM(1024, 3))


def test_layers_that_mix_records_are_refused_by_name_before_anything_is_computed() -> None:
    for call in both(TorchTrainer(Normalised(), data("images"))):
        with pytest.raises(ParameterError) as refused:  # It has no forward: nothing was computed.
            call()
        text = str(refused.value)
        assert "bn1: BatchNorm2d mixes records; nn.GroupNorm(32, 64) in its place" in text
        assert "rest.1: LSTM is computed in one piece; layers.DPLSTM(1024, 3) in its place" in text
        assert "silo check model.py --fix" in text


class Centred(nn.Module):
    """Batch normalisation in disguise."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)
        self.drop = nn.Dropout(0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.head(self.drop(inputs.mean(1)))
        return result - result.mean(0)


class SequenceFirst(nn.Module):
    """Hands a layer the sequence first, of as many positions as there are records in a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.head(self.layer(inputs.transpose(0, 1)).mean(0))
        return result


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.head(inputs.mean(1))
        result += 1.0
        return result


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (Centred(), "mixes records"),
        (SequenceFirst(), "another dimension than the records first"),
        (InPlace(), "write `x = x [+] y`"),
    ],
)
def test_code_of_a_model_that_mixes_records_or_hides_them_is_refused(model: nn.Module, text: str) -> None:
    for call in both(TorchTrainer(model, data("series"), batch_size=5)):
        with pytest.raises(ParameterError, match=text):
            call()


def test_one_record_at_a_time_mixes_nothing() -> None:
    trainer = TorchTrainer(nn.Sequential(nn.Flatten(), nn.Linear(30, 3)), data("series"), batch_size=1)
    for call in both(trainer):
        call()


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.zeros(5, 6), 0)] * 4)


class Endless(Dataset[Any]):
    def __getitem__(self, row: int) -> Any:
        return torch.zeros(5, 6), 0


ROWS = TensorDataset(*data("series"))


@pytest.mark.parametrize(
    ("loader", "text"),
    [
        (DataLoader(ROWS, batch_size=4, sampler=list(range(3))), "sampler of its own; hand in its dataset"),
        (DataLoader(ROWS, sampler=RandomSampler(ROWS, replacement=True)), "sampler of its own"),
        (DataLoader(ROWS, sampler=RandomSampler(ROWS, num_samples=3)), "sampler of its own"),
        (DataLoader(ROWS, sampler=RandomSampler(TensorDataset(torch.zeros(11)))), "sampler of its own"),
        (DataLoader(ROWS, batch_sampler=[[0, 1], [2]]), "batches in a way of its own; hand in its dataset"),
        (DataLoader(ROWS, batch_size=None), "batches in a way of its own"),
        (DataLoader(Stream(), batch_size=2), "stream of records"),
        (Stream(), "stream of records"),
        (Endless(), "has no length"),
        (DataLoader(Endless(), batch_size=2), "has no length"),
    ],
)
def test_data_whose_rows_another_chooses_is_refused(loader: Any, text: str) -> None:
    for call in both(TorchTrainer(nn.Sequential(nn.Flatten(), nn.Linear(30, 3)), loader)):
        with pytest.raises(ParameterError, match=text):
            call()


def test_a_loader_that_shuffles_is_taken_by_its_dataset_with_its_collation() -> None:
    sizes: list[int] = []

    def doubled(items: list[Any]) -> tuple[Tensor, Tensor]:
        sizes.append(len(items))
        return 2 * torch.stack([x for x, _ in items]), torch.stack([y for _, y in items])

    model, (inputs, targets) = made("linear")
    loader = DataLoader(
        TensorDataset(inputs, targets), batch_size=4, shuffle=True, drop_last=True, collate_fn=doubled
    )
    trainer = TorchTrainer(model, loader)
    found = trainer.gradient_sum(start(trainer), ROUND, sampler=everything(), l2_clip_norm=0.5)
    np.testing.assert_allclose(found, sum(one_by_one(model, 2 * inputs, targets, 0.5)), rtol=1e-4, atol=2e-6)
    assert sizes[-3:] == [4, 4, 3]
    update = trainer.train_privately(start(trainer), ROUND, noise=noise(), sampler=PoissonSampler(0.5))
    assert update.examples == 11.0


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan"), float("inf"), "1"])
def test_a_bound_that_bounds_nothing_is_refused(bound: Any) -> None:
    model, examples = made("linear")
    trainer = TorchTrainer(model, examples)
    sampler = everything()
    with pytest.raises(ParameterError, match="l2_clip_norm"):
        trainer.gradient_sum(start(trainer), ROUND, sampler=sampler, l2_clip_norm=bound)
    assert sampler.draws == 0


def test_another_sampling_rate_than_is_accounted_is_refused() -> None:
    trainer, sampler = blind(), PoissonSampler(0.25)
    with pytest.raises(ParameterError, match=r"draws at 0.25, the terms say 0.5"):
        trainer.train_privately(start(trainer), ROUND, noise=noise(rate=0.5), sampler=sampler)
    assert sampler.draws == 0


def test_vectors_models_and_batches_that_do_not_fit_are_refused() -> None:
    model, examples = made("linear")
    trainer = TorchTrainer(model, examples)
    with pytest.raises(InputRefused, match="shape"):
        trainer.gradient_sum(np.zeros(3), ROUND, sampler=everything(), l2_clip_norm=1.0)
    with pytest.raises(InputRefused, match="shape"):
        trainer.train_privately(np.zeros(3), ROUND, noise=noise(), sampler=PoissonSampler(0.5))
    frozen = nn.Sequential(nn.Flatten(), nn.Linear(30, 3)).requires_grad_(requires_grad=False)
    for call in both(TorchTrainer(frozen, examples)):
        with pytest.raises(ParameterError, match="frozen"):
            call()
    for call in both(TorchTrainer(model, TensorDataset(examples[0]))):
        with pytest.raises(UsageError, match="pair"):
            call()
    for call in both(TorchTrainer(nn.Sequential(nn.Linear(6, 3), nn.Flatten(0, 1)), examples)):
        with pytest.raises(UsageError, match="first dimension counts the records"):
            call()


# Protocols, imports.


def test_it_is_a_trainer_for_both_kinds_of_privacy() -> None:
    trainer = blind()
    assert isinstance(trainer, TrainsPrivately)
    assert isinstance(trainer, SumsGradients)


def test_opacus_is_loaded_when_it_is_needed_and_its_absence_is_one_command() -> None:
    code = """
import sys
import torch
from silo import TorchTrainer
from secagg.errors import MissingExtra
from secagg.learning.trainer import TrainingSettings
from secagg.privacy.sampling import PoissonSampler
import silo.torch_trainer
assert "opacus" not in sys.modules
sys.modules["opacus"] = None
trainer = TorchTrainer(torch.nn.Linear(2, 2), (torch.zeros(3, 2), torch.tensor([0, 1, 0])))
try:
    trainer.gradient_sum(
        trainer.weights(), TrainingSettings(round=1), sampler=PoissonSampler(1.0), l2_clip_norm=1.0
    )
except MissingExtra as missing:
    print(missing)
"""
    assert _run(code) == "opacus is not installed. Type: pip install 'secagg[opacus]'"


@pytest.mark.full
def test_loading_opacus_leaves_the_root_logger_alone() -> None:
    code = """
import logging
mine = logging.NullHandler()
logging.getLogger().addHandler(mine)
logging.getLogger().removeHandler(mine)
import silo.dp_training
print(logging.getLogger().handlers)
"""
    assert _run(code) == "[]"
    assert logging.getLogger().level >= logging.WARNING


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


# Use.


def test_it_learns_digits_at_a_moderate_epsilon() -> None:
    """Handwritten digits, a linear model, epsilon below 4 at delta 1e-5 a record: 85 % are read."""
    accounting = pytest.importorskip("dp_accounting")
    datasets = pytest.importorskip("sklearn.datasets")
    rdp = pytest.importorskip("dp_accounting.rdp")
    pixels, digits = datasets.load_digits(return_X_y=True)
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    inputs, targets = torch.tensor(pixels / 16, dtype=torch.float32)[order], torch.tensor(digits)[order]
    trainer = TorchTrainer(
        nn.Linear(64, 10),
        (inputs[:1400], targets[:1400]),
        validation=(inputs[1400:], targets[1400:]),
        optimizer=SGD,
        batch_size=64,
    )
    terms = noise(60, multiplier=1.5, rate=0.1)
    step = accounting.PoissonSampledDpEvent(0.1, accounting.GaussianDpEvent(1.5))
    account = rdp.RdpAccountant().compose(accounting.SelfComposedDpEvent(step, terms.steps))
    assert account.get_epsilon(1e-5) < 4.0
    update: Update = trainer.train_privately(
        trainer.initial(0).astype(np.float64),
        TrainingSettings(round=1, learning_rate=4.0),
        noise=terms,
        sampler=PoissonSampler(0.1),
    )
    assert trainer.evaluate(update.weights.astype(np.float64)).metrics["accuracy"] >= 0.85
