"""Gradients of single records, clipped one by one and summed.

The loss is evaluated on one record at a time, so that it cannot couple two of them, be it a sum or a mean.
Layers that would are refused by name (``dp_layers``). Code of the model's own that mixes records is looked
for on three records of the silo: a layer whose output has the sequence first, and an output that depends on
its neighbours, are refused. That search is no proof: a model that mixes records only sometimes escapes it,
and so does a collate function that pads one record by the length of another. ``batch_size=1`` leaves nothing
to mix.

Buffers are put back after every batch: nothing of a record stays in one.

Source: Abadi et al. 2016, *Deep Learning with Differential Privacy*, algorithm 1; Opacus's GradSampleModule.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from secagg.errors import ParameterError, UsageError
from silo.dp_layers import check_layers
from silo.opacus_parts import GradSampleModule
from silo.torch_data import Records, pair

MARGIN = 2.0**-20
"""By which a clipped gradient stays below the bound: more than float64 loses in a sum of 2**32 squares."""


class RecordGradients:
    """Computes the gradients of single records on a copy of a model.

    Args:
        model: copied; where the trainer's weights are.
        loss: (outputs, targets) of one record -> scalar.
        records: the silo's data.
        device: where ``model`` is.

    Attributes:
        model: the copy.
        parameters: its trainable parameters, each with its records' gradients in ``grad_sample``.

    Raises:
        ParameterError: the model has layers, or code, without gradients of single records, or nothing that
            trains.
        MissingExtra: Opacus is not installed.

    Guarantees:
        - ``model`` is left as it is: no hook, no attribute, no gradient.
        - No buffer of the copy differs after a batch.
    """

    def __init__(
        self, model: nn.Module, loss: Callable[[Any, Tensor], Tensor], records: Records, device: torch.device
    ) -> None:
        self.model = copy.deepcopy(model).train()
        check_layers(self.model)
        for module in self.model.modules():
            if getattr(module, "inplace", None) is True:  # Autograd's hooks allow no writing over an output.
                module.inplace = False  # type: ignore[assignment] # torch types any attribute as a tensor
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not self.parameters:
            raise ParameterError("every parameter of the model is frozen; there is nothing to train")
        self._loss = loss
        self._records = records
        self._device = device
        self._wrapped = GradSampleModule(self.model, loss_reduction="sum")
        self._buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        if len(records) > 1 and records.batch_size > 1:
            self._check_apart()

    def batches(self, rows: Sequence[int]) -> Iterator[None]:
        """Yield once for every batch of ``rows``, while ``parameters`` have its records' gradients."""
        for batch in self._records.batches(rows):
            self._differentiate(*pair(batch, self._device))
            yield
            self._clear()

    def _differentiate(self, inputs: Any, targets: Tensor) -> Tensor:
        records = len(targets)
        with _hooks_explained():
            outputs = self._wrapped(inputs)
            if not isinstance(outputs, Tensor) or outputs.ndim == 0 or len(outputs) != records:
                raise UsageError("the model must give one tensor whose first dimension counts the records")
            losses = [self._loss(outputs[i : i + 1], targets[i : i + 1]).sum() for i in range(records)]
            torch.autograd.backward(torch.stack(losses).sum())
        if any(len(parameter.grad_sample) != records for parameter in self._reached()):
            raise ParameterError(
                "a layer of the model takes another dimension than the records first; "
                "batch_first=True, or a transposition before the layer, puts it right"
            )
        with torch.no_grad():
            for name, buffer in self.model.named_buffers():
                buffer.copy_(self._buffers[name])
        return outputs.detach()

    def _reached(self) -> list[Any]:
        """Return the parameters that the last loss depends on."""
        return [parameter for parameter in self.parameters if parameter.grad_sample is not None]  # type: ignore[attr-defined] # Opacus's

    def _clear(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None
            parameter.grad_sample = None  # type: ignore[attr-defined] # Opacus adds it.

    def _check_apart(self) -> None:
        """Look whether a record's output stays the same when other records stand behind it."""
        last = len(self._records) - 1
        dropped = [m for m in self.model.modules() if isinstance(m, _DropoutNd) and m.training]
        for module in dropped:
            module.eval()
        alone, again, behind = (self._first_output(rows) for rows in ([0, last], [0, last], [0, last, last]))
        for module in dropped:
            module.train()
        slack = 10 * math.sqrt(torch.finfo(alone.dtype).eps) * alone.abs().max() if alone.numel() else 0.0
        # A model that draws numbers of its own gives another output each time, and says nothing.
        if bool(((alone - again).abs() <= slack).all()) and bool(((alone - behind).abs() > slack).any()):
            raise ParameterError(
                "the model mixes records: the output of one changes with the others of its batch; "
                "let its forward look at each record by itself"
            )

    def _first_output(self, rows: list[int]) -> Tensor:
        (batch,) = self._records.batches(rows, batch_size=len(rows))
        outputs = self._differentiate(*pair(batch, self._device))
        self._clear()
        return outputs[0]


@contextmanager
def _hooks_explained() -> Iterator[None]:
    with warnings.catch_warnings():
        # Said of a first layer, whose inputs need no gradient: Opacus wants that of its parameters alone.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        try:
            yield
        except RuntimeError as error:
            if "BackwardHookFunction" not in str(error):
                raise
            raise ParameterError(
                "the model writes over the output of a layer (`x += y`), of which the gradients of single "
                "records are taken; write `x = x + y`"
            ) from error


def clipped_sums(
    gradients: Sequence[Tensor], bound: float, *, copies: Sequence[int] | None = None
) -> list[Tensor]:
    """Clip the gradient of every record to ``bound``, and add the records up.

    Args:
        gradients: of every parameter, shape (records, *shape), any float type.
        bound: of the L2 norm over all parameters, above 0.
        copies: how often each parameter counts in the norm; once if not given.

    Returns:
        Of every parameter, float64, shape (*shape).

    Guarantees:
        - Computed in float64, every record's contribution has a norm of at most ``bound``.
        - A gradient below the bound, by ``MARGIN``, is added as it is.
        - A gradient that is not finite, or whose norm is not, adds zero, and changes nothing else.
    """
    flat = [_wide(gradient.reshape(len(gradient), math.prod(gradient.shape[1:]))) for gradient in gradients]
    times = [1] * len(flat) if copies is None else copies
    norms = torch.stack(
        [
            math.sqrt(count) * torch.linalg.vector_norm(part, dim=1, dtype=torch.float64)
            for part, count in zip(flat, times, strict=True)
        ]
    )
    norm = torch.linalg.vector_norm(norms, dim=0)
    finite = norm.isfinite()
    factor = (bound * (1.0 - MARGIN) / norm).clamp(max=1.0).masked_fill(~finite, 0.0)
    if not bool(finite.all()):  # NaN times zero is NaN, so that such rows are written over.
        flat = [part.masked_fill(~finite[:, None], 0.0) for part in flat]
    # One parameter at a time is in float64.
    return [
        (factor @ part.double()).reshape(gradient.shape[1:])
        for part, gradient in zip(flat, gradients, strict=True)
    ]


def _wide(gradient: Tensor) -> Tensor:
    """Move what is on a device without float64 (Apple's) to the CPU."""
    return gradient.cpu() if gradient.device.type == "mps" else gradient
