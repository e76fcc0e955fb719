"""Differentially private training at one silo: DP-SGD, and the clipped gradient sum of one step.

What it is: Abadi et al.'s algorithm over Opacus's gradients of single records. Rows come from our Poisson
sampler, whatever a loader would have chosen; noise comes from the operating system through an AES keystream,
whatever torch's generators hold; a sum is divided by the number of records that is *expected* in a sample,
which says nothing of the sample itself. The number of the silo's records is taken as public.

What it does not do: it keeps no account of what was spent (``secagg.privacy``). Gradients are clipped and
summed in floating point; the sum is rounded to a grid and the noise is drawn on it, in integers. Dropout is
drawn from a fresh secret seed, since a public one would tie a record's mask to who stands before it.

Source: Abadi et al. 2016, *Deep Learning with Differential Privacy*, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secagg.errors import ParameterError
from secagg.names import RandomSource, RealVector
from secagg.privacy.noising import StepNoise
from secagg.privacy.sampling import PoissonSampler
from secagg.terms import LocalNoise
from silo.manifest import Manifest
from silo.opacus_parts import DPOptimizer
from silo.record_gradients import RecordGradients, clipped_sums
from silo.torch_data import Records


class NoisedOptimizer(DPOptimizer):  # type: ignore[misc] # Opacus has no types.
    """Opacus's optimiser with our clipping and our noise.

    Args:
        optimizer: takes the step; any of torch.
        noise: clip and multiplier.
        records: expected in a sample, above 0.
        random: of the noise.

    Guarantees:
        - The noise has standard deviation ``noise_multiplier * l2_clip_norm`` in the sum of every step, a
          thousandth more for rounding, and depends on ``random`` alone.
        - A parameter that no record reached gets noise like the others.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, noise: LocalNoise, *, records: float, random: RandomSource
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=noise.noise_multiplier,
            max_grad_norm=noise.l2_clip_norm,
            expected_batch_size=records,
        )
        self._noise = StepNoise(noise, sum(parameter.numel() for parameter in self.params), random=random)

    @property
    def accumulated_iterations(self) -> int:
        """One: a step takes one sample, in however many pieces."""
        return 1

    def _get_flat_grad_sample(self, p: Any) -> Any:
        return p.new_zeros((0, *p.shape)) if p.grad_sample is None else super()._get_flat_grad_sample(p)

    def clip_and_accumulate(self) -> None:
        """Add the clipped gradients of the present records to the sum of the step, in float64."""
        reached = [parameter for parameter in self.params if parameter.grad_sample is not None]
        if not reached:
            return
        sums = clipped_sums([parameter.grad_sample for parameter in reached], self.max_grad_norm)
        for parameter, part in zip(reached, sums, strict=True):
            parameter.summed_grad = part if parameter.summed_grad is None else parameter.summed_grad + part

    def add_noise(self) -> None:
        """Set every parameter's gradient to its sum with noise, still undivided."""
        # All parameters are one vector: a record is clipped in it, and so is what it moves by rounding.
        total = np.concatenate(
            [
                np.zeros(parameter.numel())
                if parameter.summed_grad is None
                else parameter.summed_grad.cpu().numpy().astype(np.float64).reshape(-1)
                for parameter in self.params
            ]
        )
        noised, start = torch.from_numpy(self._noise.add(total)), 0
        for parameter in self.params:
            part = noised[start : start + parameter.numel()].view(parameter.shape)
            parameter.grad = part.to(parameter.device, parameter.dtype)
            start += parameter.numel()


def train_privately(
    gradients: RecordGradients,
    optimizer: torch.optim.Optimizer,
    *,
    records: Records,
    noise: LocalNoise,
    sampler: PoissonSampler,
    random: RandomSource,
    before_step: Callable[[], None],
) -> None:
    """Take ``noise.steps`` steps on ``gradients.model``.

    Args:
        gradients: of the model at its starting point.
        optimizer: of ``gradients.parameters``.
        records: the silo's data.
        noise: clip, multiplier, sampling rate and number of steps.
        sampler: draws the rows of every step.
        random: of the noise.
        before_step: called once the noised gradients are there, to add what depends on no record.

    Raises:
        ParameterError: ``sampler`` draws at another rate than ``noise`` says, which is what is accounted.
    """
    if sampler.rate != noise.sampling_rate:
        raise ParameterError(
            f"the sampler draws at {sampler.rate}, the terms say {noise.sampling_rate}; make both equal"
        )
    expected = noise.sampling_rate * len(records)
    private = NoisedOptimizer(optimizer, noise, records=expected, random=random)
    private.attach_step_hook(lambda _: before_step())
    for _ in range(noise.steps):
        private.zero_grad()
        for _ in gradients.batches(sampler.draw(len(records)).tolist()):
            private.clip_and_accumulate()
        # Taken over no record, so that a sample of several batches and an empty one are no special cases.
        private.step()


def gradient_sum(
    gradients: RecordGradients,
    manifest: Manifest,
    *,
    records: Records,
    sampler: PoissonSampler,
    l2_clip_norm: float,
) -> RealVector:
    """Return the sum of the clipped gradients of one sample.

    Args:
        gradients: of the model.
        manifest: says where each parameter is in the vector.
        records: the silo's data.
        sampler: draws once.
        l2_clip_norm: of the vector that one record adds, above 0.

    Returns:
        float64, shape (length,); zeros at buffers and at frozen parameters.

    Raises:
        ParameterError: a parameter is not in the state dict as it is, so that it has no place.
    """
    state = gradients.model.state_dict(keep_vars=True)
    # A tied parameter is in the vector more than once, and counts that often in the norm of a record.
    places = {
        parameter: [e for e in manifest.shared if state[e.name] is parameter]
        for parameter in gradients.parameters
    }
    if not all(places.values()):
        raise ParameterError("the model's state dict hides a parameter that trains; let it list every one")
    totals: dict[Any, Tensor] = {}
    for _ in gradients.batches(sampler.draw(len(records)).tolist()):
        reached: list[Any] = [p for p in gradients.parameters if getattr(p, "grad_sample", None) is not None]
        sums = clipped_sums(
            [parameter.grad_sample for parameter in reached],
            l2_clip_norm,
            copies=[len(places[parameter]) for parameter in reached],
        )
        for parameter, part in zip(reached, sums, strict=True):
            totals[parameter] = totals[parameter] + part if parameter in totals else part
    return _laid_out({e.name: totals[p] for p in totals for e in places[p]}, manifest)


def _laid_out(parts: Mapping[str, Tensor], manifest: Manifest) -> RealVector:
    vector = np.zeros(manifest.length)
    start = 0
    for entry in manifest.shared:
        if entry.name in parts:
            vector[start : start + entry.length] = parts[entry.name].reshape(-1).cpu().numpy()
        start += entry.length
    return vector


def copy_trained(trained: nn.Module, model: nn.Module) -> None:
    """Write the trainable parameters of ``trained`` into ``model``, and leave its buffers as they are."""
    with torch.no_grad():
        for new, old in zip(trained.parameters(), model.parameters(), strict=True):
            old.copy_(new)
