"""Torch networks for a split network: ``secagg.vertical.SplitNetwork(TorchNetworks())``.

What it is: bottom and top models as ``secagg.vertical.split.ports`` has them, over torch modules, each with
Adam. What it does not do: it knows no protocol, no label and no noise.

Reproducibility: from the same state the same follows bit for bit, on one machine and with the same number of
threads (``torch.set_num_threads``).

Source: Saxe, McClelland, Ganguli 2014, *Exact solutions to the nonlinear dynamics of learning in deep linear
neural networks* (orthogonal first weights: a bottom that was taught little yet keeps what its columns tell).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secagg.errors import InputRefused, ParameterError, UsageError
from secagg.explanation import explained
from secagg.ranges import check_callable, positive, whole
from secagg.vertical.split.ports import RealMatrix, Tensors

BuildBottom: TypeAlias = Callable[[int, int], nn.Module]
"""(columns, width) -> module from (rows, columns) to (rows, width)."""

BuildTop: TypeAlias = Callable[[int], nn.Module]
"""width -> module from (rows, width) to (rows, 1), the logarithm of the odds."""

_OPTIMIZER = "optimizer"

# What makes an output depend on other rows, or on what is drawn.
_MIXING = (
    nn.modules.batchnorm._NormBase,
    nn.modules.dropout._DropoutNd,
    nn.RReLU,
)


class TorchNetworks:
    """Builds small networks, or what it is given.

    Args:
        hidden: units of the hidden layer of bottoms and tops, at least 1.
        bottom: builds a bottom; by default a layer of ``hidden`` tanh units and a linear one.
        top: builds a top; by default a layer of ``hidden`` rectified units and a linear one.
        bottom_rate: step size of bottoms, above 0. Gradients from other parties are noisy: it is small.
        top_rate: step size of tops, above 0.

    Raises:
        ParameterError: a value is of another type or out of range.

    Guarantees:
        One seed gives one network, and torch's own random state is the same after as before.
    """

    @explained()
    def __init__(
        self,
        *,
        hidden: int = 32,
        bottom: BuildBottom | None = None,
        top: BuildTop | None = None,
        bottom_rate: float = 1e-3,
        top_rate: float = 1e-2,
    ) -> None:
        self._hidden = whole("hidden", hidden, least=1)
        for name, build in (("bottom", bottom), ("top", top)):
            if build is not None:
                check_callable(name, build, "a function that returns a torch.nn.Module")
        self._bottom = self._small_bottom if bottom is None else bottom
        self._top = self._small_top if top is None else top
        self._bottom_rate = positive("bottom_rate", bottom_rate)
        self._top_rate = positive("top_rate", top_rate)

    def bottom(self, columns: int, width: int, *, seed: int) -> TorchNetwork:
        """See ``secagg.vertical.split.ports.Networks``.

        Raises:
            ParameterError: what was built does not make a row of each, by itself and always the same.
        """
        return _seeded(lambda: self._bottom(columns, width), (columns, width), seed, self._bottom_rate)

    def top(self, width: int, *, seed: int) -> TorchNetwork:
        """See ``secagg.vertical.split.ports.Networks``.

        Raises:
            ParameterError: as of ``bottom``.
        """
        return _seeded(lambda: self._top(width), (width, 1), seed, self._top_rate)

    def _small_bottom(self, columns: int, width: int) -> nn.Module:
        return nn.Sequential(_orthogonal(columns, self._hidden), nn.Tanh(), _orthogonal(self._hidden, width))

    def _small_top(self, width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(width, self._hidden), nn.ReLU(), nn.Linear(self._hidden, 1))


class TorchNetwork:
    """A torch module that descends by Adam; see ``secagg.vertical.split.ports.Network``.

    Args:
        module: on the CPU; not copied.
        learning_rate: above 0.

    Raises:
        ParameterError: it is no module, has nothing to train, or has a layer that mixes rows or draws.
    """

    def __init__(self, module: nn.Module, learning_rate: float) -> None:
        if not isinstance(module, nn.Module):
            raise ParameterError("what builds a network must return a torch.nn.Module")
        for part in module.modules():
            if isinstance(part, _MIXING):
                raise ParameterError(
                    f"{type(part).__name__} mixes rows, or draws: here each row stands for itself"
                )
        self._module = module
        self._parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if not self._parameters:
            raise ParameterError("a network of a split network has no parameter that can be trained")
        self._optimizer = torch.optim.Adam(self._parameters, learning_rate)
        self._last: tuple[Tensor, Tensor] | None = None

    def forward(self, rows: RealMatrix) -> RealMatrix:
        """See ``Network``."""
        with torch.enable_grad():
            inputs = torch.from_numpy(rows.astype(np.float32)).requires_grad_()
            outputs = self._module(inputs)
        self._last = inputs, outputs
        return _matrix(outputs)

    def backward(self, gradient: RealMatrix) -> RealMatrix:
        """See ``Network``.

        Raises:
            UsageError: no ``forward`` came before.
        """
        if self._last is None:
            raise UsageError("backward goes back through the last forward; there is none")
        (inputs, outputs), self._last = self._last, None
        self._optimizer.zero_grad()
        torch.autograd.backward(outputs, torch.from_numpy(gradient.astype(np.float32)))
        self._optimizer.step()
        return _matrix(torch.zeros_like(inputs) if inputs.grad is None else inputs.grad)

    def weights(self) -> Tensors:
        """See ``Network``."""
        return {name: tensor.numpy().copy() for name, tensor in self._module.state_dict().items()}

    def state(self) -> Tensors:
        """See ``Network``."""
        moments = {
            f"{_OPTIMIZER}.{place}.{name}": tensor.numpy().copy()
            for place, kept in self._optimizer.state_dict()["state"].items()
            for name, tensor in kept.items()
        }
        return {**self.weights(), **moments}

    def load(self, tensors: Tensors) -> None:
        """See ``Network``."""
        own = self._module.state_dict()
        weights = {name: tensors[name] for name in own if name in tensors}
        moments = {name: array for name, array in tensors.items() if name.startswith(f"{_OPTIMIZER}.")}
        if len(weights) != len(own) or len(weights) + len(moments) != len(tensors):
            raise InputRefused("layout", "weights have other names than those of this network")
        for name, tensor in own.items():
            if weights[name].shape != tuple(tensor.shape) or weights[name].dtype != tensor.numpy().dtype:
                raise InputRefused("layout", "weights have another shape or type than those of this network")
        self._module.load_state_dict({name: _tensor(array) for name, array in weights.items()})
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": self._moments(moments)})

    def _moments(self, tensors: Mapping[str, NDArray[Any]]) -> dict[int, dict[str, Tensor]]:
        moments: dict[int, dict[str, Tensor]] = {}
        known = tuple(f"{_OPTIMIZER}.{place}." for place in range(len(self._parameters)))
        if not all(key.startswith(known) for key in tensors):
            raise InputRefused("layout", "a state has more parameters than this network")
        for place, parameter in enumerate(self._parameters):
            start = f"{_OPTIMIZER}.{place}."
            for key in [key for key in tensors if key.startswith(start)]:
                if tensors[key].shape not in ((), tuple(parameter.shape)):
                    raise InputRefused("layout", "a state has another shape than this network")
                moments.setdefault(place, {})[key.removeprefix(start)] = _tensor(tensors[key])
        return moments


def _seeded(
    build: Callable[[], nn.Module], shape: tuple[int, int], seed: int, learning_rate: float
) -> TorchNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = build()
        network = TorchNetwork(module, learning_rate)
        _check_rows(module, *shape)
    return network


def _check_rows(module: nn.Module, columns: int, width: int) -> None:
    """Check, on a few rows, that a module makes a row of each, by itself and always the same.

    Raises:
        ParameterError: it does not.
    """
    rows = torch.randn(3, columns)

    def made(some: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                outputs = module(some)
        except Exception as error:  # Of a module of the user's own: whatever it raises.
            raise ParameterError(
                f"a network does not take 32-bit rows of {columns} columns: {error}"
            ) from error
        if isinstance(outputs, Tensor) and outputs.shape == (len(some), width):
            return outputs
        gave = tuple(outputs.shape) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        raise ParameterError(
            f"a network over {columns} columns makes {width} numbers of each row; "
            f"of {len(some)} rows this one gave {gave}"
        )

    whole, again, each = made(rows), made(rows), torch.cat([made(row[None]) for row in rows])
    if not torch.allclose(whole, again, rtol=0, atol=0, equal_nan=True):
        raise ParameterError("a network's outputs are not the same twice: here nothing is drawn")
    if not torch.allclose(whole, each, rtol=1e-3, atol=1e-4, equal_nan=True):
        raise ParameterError("a network's outputs depend on other rows: here each row stands for itself")


def _orthogonal(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _matrix(tensor: Tensor) -> RealMatrix:
    return tensor.detach().numpy().astype(np.float64)


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(array))
