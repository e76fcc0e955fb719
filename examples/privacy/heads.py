"""The imaging task: which part of the head does a scan show? A small convolutional network, few scans a silo.

What it is: the brain and the six scanners of ``examples.medical_imaging``. A record is one scan: an axial
slice of the template, turned and shifted as a patient lies, under a coil gain and noise of its own. The label
is the slab that the slice is from, one of six. Scans are sorted by scanner and dealt out in that order, so
hospitals have different scanners, as there.

What it does not do: the template is one averaged brain, so no scan is a patient. Figures compare ways to add
noise; they say nothing about clinical use.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import rotate, shift
from torch import Tensor, nn

from examples.medical_imaging.data import (
    AFTER,
    BEFORE,
    FIRST_SLICE,
    GAP,
    HEIGHT,
    HELD_OUT,
    SCANNERS,
    SLAB,
    WIDTH,
    brain,
    scan,
)
from examples.privacy.task import Task
from secagg.names import RealVector
from silo import TorchTrainer

RECORDS = 400
"""Scans of all hospitals together: 40 each, where there are ten."""
MEASURED = 600
PARTS = 6
"""The slabs of ``examples.medical_imaging``, from below to above."""
SQUARE = 4
"""Pixels of the template's slices that are averaged to one, along each side."""

_TURN, _SHIFT = 10.0, 3.0  # degrees and pixels, at the most, either way


def build_network() -> nn.Module:
    """Return the network: scans, shape (n, 1, 24, 20), to scores of the parts, shape (n, 6)."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2),
        nn.Tanh(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(16 * 4 * 3, PARTS),
    )


@lru_cache(maxsize=2)
def heads(seed: int, *, tuning: bool = False, records: int = RECORDS) -> Task:
    """Draw scans to learn from and others, of slices that are held out, to be measured on.

    Args:
        seed: of all scans, at least 0.
        tuning: measure on other scans of the training slices, so that no choice is made on held-out ones.
        records: of all silos together.
    """
    random = np.random.default_rng([seed, tuning])  # Of scans, no secret.
    train = np.r_[:BEFORE, SLAB - AFTER : SLAB]
    held_out = np.arange(BEFORE + GAP, BEFORE + GAP + HELD_OUT)
    images, parts = _scans(records, train, random)
    held_out_images, held_out_parts = _scans(MEASURED, train if tuning else held_out, random)
    measured = (held_out_images, held_out_parts)

    def trainers(silos: int) -> Mapping[str, TorchTrainer]:
        template = build_network()
        shares = np.array_split(np.arange(records), silos)
        return {
            f"hospital-{number}": _trainer(template, (images[share], parts[share]), measured)
            for number, share in enumerate(shares, start=1)
        }

    judge = _trainer(build_network(), measured, measured)

    def score(weights: RealVector) -> float:
        return judge.evaluate(weights).metrics["accuracy"]

    return Task(records, -(-records // 3), trainers, score)


def _trainer(
    template: nn.Module, learn: tuple[Tensor, Tensor], measured: tuple[Tensor, Tensor]
) -> TorchTrainer:
    return TorchTrainer(
        template,
        learn,
        validation=measured,
        optimizer=torch.optim.SGD,
        batch_size=MEASURED,  # More than any silo has: every step is over all of its records.
    )


def _scans(count: int, slices: NDArray[np.int64], random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return scans, shape (count, 1, 24, 20), and parts, shape (count,), sorted by scanner."""
    template, _ = brain()
    parts = random.integers(PARTS, size=count)
    places = FIRST_SLICE + parts * SLAB + random.choice(slices, size=count)
    scanners = list(SCANNERS.values())
    images = np.empty((count, 1, HEIGHT // SQUARE, WIDTH // SQUARE), np.float32)
    for i, place in enumerate(places):
        lying = rotate(template[place], random.uniform(-_TURN, _TURN), reshape=False, order=1)
        lying = shift(lying, random.uniform(-_SHIFT, _SHIFT, size=2), order=1)
        seen = scan(lying[None], scanners[i * len(scanners) // count], random)[0]
        coarse = seen.reshape(HEIGHT // SQUARE, SQUARE, WIDTH // SQUARE, SQUARE).mean(axis=(1, 3))
        images[i, 0] = (coarse - coarse.mean()) / coarse.std()
    return torch.from_numpy(images), torch.from_numpy(parts)
