"""Torch networks under a split network: one test a guarantee, and every refusal by name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import silo
from secagg.errors import InputRefused, MissingExtra, ParameterError, UsageError
from secagg.vertical import SplitNetwork, SplitSettings
from secagg.vertical.checkpoints import InMemory
from silo import TorchNetworks
from silo.split_torch import TorchNetwork
from tests.vertical.split_networks import NAMES, auc, fixed, pooled_auc, split_task

ROWS = np.random.default_rng(0).normal(size=(20, 4))
GRADIENT = np.random.default_rng(1).normal(size=(20, 3))


def steps(network: TorchNetwork, count: int) -> np.ndarray:
    for _ in range(count):
        network.forward(ROWS)
        network.backward(GRADIENT)
    return network.forward(ROWS)


@pytest.mark.parametrize(
    ("task", "seeds"),
    [
        ("breast cancer", (20,)),
        pytest.param("breast cancer", (21, 22, 23), marks=pytest.mark.full),
        pytest.param("digit 8", (20, 21, 22), marks=pytest.mark.full),
    ],
)
def test_it_is_near_the_pooled_network_of_the_same_shape(task: str, seeds: tuple[int, ...]) -> None:
    gaps = []
    for seed in seeds:
        train, test, labels = split_task(task, parties=2, seed=seed)
        scores = SplitNetwork(TorchNetworks()).fit(train, random=fixed(seed)).predict(test)
        pooled = pooled_auc(train, test, labels, TorchNetworks(bottom_rate=1e-2), seed=seed)
        gaps.append(pooled - auc(labels, scores))
    assert np.mean(gaps) <= 0.02


def test_a_run_that_was_killed_goes_on_with_identical_output() -> None:
    class Dies(InMemory):
        def save(self, step: int, state: bytes) -> None:
            super().save(step, state)
            if step == 3:
                raise KeyboardInterrupt

    train, test, _ = split_task("breast cancer", parties=3, seed=0)
    settings = SplitSettings(rounds=3, passes=1, width=4)
    networks = TorchNetworks(hidden=4)
    whole = SplitNetwork(networks, settings).fit(train, random=fixed(1))
    kept: dict[str, InMemory] = {NAMES[0]: InMemory(), NAMES[1]: Dies(), NAMES[2]: InMemory()}
    with pytest.raises(KeyboardInterrupt):
        SplitNetwork(networks, settings).fit(train, checkpoints=kept, random=fixed(1))
    kept[NAMES[1]] = _same(kept[NAMES[1]])
    resumed = SplitNetwork(networks, settings).fit(train, checkpoints=kept, random=fixed(2))
    assert resumed.parts == whole.parts
    np.testing.assert_array_equal(resumed.predict(test), whole.predict(test))


def _same(kept: InMemory) -> InMemory:
    copy = InMemory()
    for step, state in sorted(kept.load().items()):
        copy.save(step, state)
    return copy


def test_one_seed_gives_one_network_and_torchs_own_state_stays() -> None:
    before = torch.random.get_rng_state()
    networks = TorchNetworks(hidden=5)
    first, again, other = (networks.bottom(4, 3, seed=seed).forward(ROWS) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert networks.top(6, seed=1).forward(np.ones((2, 6))).shape == (2, 1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_state_is_all_that_later_steps_depend_on() -> None:
    networks = TorchNetworks(hidden=5)
    one = networks.bottom(4, 3, seed=1)
    steps(one, 4)
    other = networks.bottom(4, 3, seed=2)
    other.load(one.state())
    np.testing.assert_array_equal(steps(one, 3), steps(other, 3))
    weights_alone = networks.bottom(4, 3, seed=2)
    weights_alone.load(one.weights())
    np.testing.assert_array_equal(weights_alone.forward(ROWS), one.forward(ROWS))
    kept = one.state()
    steps(one, 1)
    assert any(not np.array_equal(kept[name], one.state()[name]) for name in kept), "a state is no copy"


def test_gradients_at_inputs_are_those_before_the_step() -> None:
    network = TorchNetworks(hidden=5).bottom(4, 3, seed=1)
    step = 1e-2
    network.forward(ROWS)
    found = network.backward(GRADIENT)
    fresh = TorchNetworks(hidden=5).bottom(4, 3, seed=1)
    for row, column in ((0, 0), (7, 3), (19, 1)):
        moved = np.zeros_like(ROWS)
        moved[row, column] = step
        slope = ((fresh.forward(ROWS + moved) - fresh.forward(ROWS - moved)) * GRADIENT).sum() / (2 * step)
        assert found[row, column] == pytest.approx(slope, abs=1e-2)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(4), nn.Dropout(0.5), nn.RReLU()])
def test_layers_that_mix_rows_or_draw_are_refused(layer: nn.Module) -> None:
    networks = TorchNetworks(bottom=lambda columns, width: nn.Sequential(layer, nn.Linear(columns, width)))
    with pytest.raises(ParameterError, match="mixes rows, or draws"):
        networks.bottom(4, 3, seed=0)


class Custom(nn.Module):
    """A linear layer, and what is done with its outputs."""

    def __init__(self, columns: int, width: int, after: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.after = nn.Linear(columns, width), after

    def forward(self, rows: torch.Tensor) -> Any:
        return self.after(self.layer(rows))


@pytest.mark.parametrize(
    ("after", "text"),
    [
        (lambda rows: rows - rows.mean(0), "depend on other rows"),
        (lambda rows: rows.cumsum(0), "depend on other rows"),
        (lambda rows: nn.functional.dropout(rows, 0.3), "not the same twice"),
        (lambda rows: rows[:, 1:], r"4 columns .* 3 numbers .* this one gave \(3, 2\)"),
        (lambda rows: rows[:, 0], r"4 columns .* 3 numbers .* this one gave \(3,\)"),
        (lambda rows: (rows, rows), "4 columns .* 3 numbers .* this one gave a tuple"),
        (lambda rows: rows @ rows, "does not take 32-bit rows of 4 columns"),
        (lambda rows: rows.double() @ torch.ones(3, 3), "does not take 32-bit rows of 4 columns"),
    ],
)
def test_networks_that_do_not_make_a_row_of_each_are_refused(after: Any, text: str) -> None:
    """At their own party, before anything is sent: another would be blamed for what it was sent."""
    networks = TorchNetworks(bottom=lambda columns, width: Custom(columns, width, after))
    with pytest.raises(ParameterError, match=text):
        networks.bottom(4, 3, seed=0)


def test_a_recurrent_layer_is_refused_and_torchs_own_state_stays() -> None:
    class Recurrent(nn.GRU):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:  # type: ignore[override] # No state is given.
            found: torch.Tensor = super().forward(rows)[0]
            return found

    before = torch.random.get_rng_state()
    with pytest.raises(ParameterError, match="depend on other rows"):
        TorchNetworks(bottom=Recurrent).bottom(4, 3, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_networks_of_ones_own_are_used() -> None:
    networks = TorchNetworks(bottom=nn.Linear, top=lambda width: nn.Linear(width, 1))
    assert set(networks.bottom(4, 3, seed=0).weights()) == {"weight", "bias"}
    assert networks.top(3, seed=0).forward(np.ones((2, 3))).shape == (2, 1)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"hidden": 0}, "hidden"),
        ({"bottom": 3}, "bottom"),
        ({"top": "linear"}, "top"),
        ({"bottom_rate": 0.0}, "bottom_rate"),
        ({"top_rate": float("nan")}, "top_rate"),
    ],
)
def test_arguments_out_of_range_are_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        TorchNetworks(**change)


def test_what_builds_no_network_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"must return a torch\.nn\.Module"):
        TorchNetworks(top=lambda width: width).top(3, seed=0)  # type: ignore[arg-type, return-value] # As a caller may.
    with pytest.raises(ParameterError, match="no parameter that can be trained"):
        TorchNetworks(top=lambda _: nn.ReLU()).top(3, seed=0)


def test_a_state_of_another_network_is_refused_and_backward_needs_a_forward() -> None:
    network = TorchNetworks(hidden=5).bottom(4, 3, seed=1)
    with pytest.raises(UsageError, match="there is none"):
        network.backward(GRADIENT)
    steps(network, 1)
    good = dict(network.state())
    bad: tuple[dict[str, Any], ...] = (
        dict(TorchNetworks(hidden=6).bottom(4, 3, seed=1).weights()),
        {**good, "more": np.zeros(1)},
        {name: array for name, array in good.items() if name != "0.weight"},
        {**good, "0.bias": good["0.bias"].astype(np.float64)},
        {**good, "optimizer.0.exp_avg": np.zeros(2)},
        {**good, "optimizer.9.exp_avg": np.zeros(2)},
    )
    for tensors in bad:
        with pytest.raises(InputRefused, match=r"(of|than) this network"):
            network.load(tensors)
    network.load(good)


def test_the_error_without_torch_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "silo.split_torch")
    with pytest.raises(MissingExtra, match=r"pip install 'secagg\[torch\]'"):
        _ = silo.TorchNetworks
