"""A U-Net small enough for two CPU cores, its Dice score, and one hospital's trainer.

What it does not do: no batch normalisation, because its running statistics describe one scanner and their
average describes none. Instance normalisation has none and removes each image's own contrast and gain.

Source: Ronneberger et al. 2015 (MICCAI); Ulyanov et al. 2016 (instance normalisation); Dice 1945.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from examples.medical_imaging.data import CLASSES, Hospital
from silo import TorchTrainer

CHANNELS = (8, 16, 32)


class Block(nn.Sequential):
    """Two 3 x 3 convolutions, each normalised per image."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.InstanceNorm2d(outputs, affine=True),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.InstanceNorm2d(outputs, affine=True),
            nn.ReLU(),
        )


class UNet(nn.Module):
    """Images, shape (n, 1, h, w) with h and w divisible by 4, to class scores, shape (n, 3, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        fine, middle, coarse = CHANNELS
        self.down1, self.down2 = Block(1, fine), Block(fine, middle)
        self.bottom = Block(middle, coarse)
        self.context = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(coarse, coarse, 1),
            nn.ReLU(),
            nn.Conv2d(coarse, coarse, 1),
            nn.Sigmoid(),
        )
        self.up2, self.up1 = Block(coarse + middle, middle), Block(middle + fine, fine)
        self.pool, self.grow = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)
        self.head = nn.Conv2d(fine, len(CLASSES), 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores."""
        fine = self.down1(images)
        middle = self.down2(self.pool(fine))
        coarse = self.bottom(self.pool(middle))
        coarse = coarse * self.context(coarse)
        middle = self.up2(torch.cat([self.grow(coarse), middle], dim=1))
        fine = self.up1(torch.cat([self.grow(middle), fine], dim=1))
        scores: Tensor = self.head(fine)
        return scores


def build_network() -> nn.Module:
    """Return the network every hospital starts with; ``TorchTrainer.initial`` seeds it."""
    return UNet()


def dice(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Return ``dice_grey``, ``dice_white`` and their mean ``dice``, from sums over all slices.

    Args:
        outputs: class scores, shape (n, 3, h, w).
        targets: labels, shape (n, h, w).
    """
    predicted = outputs.argmax(dim=1)
    scores = {}
    for label, name in enumerate(CLASSES[1:], start=1):
        here, there = predicted == label, targets == label
        overlap, total = (here & there).sum().item(), here.sum().item() + there.sum().item()
        scores[f"dice_{name}"] = 2 * overlap / total if total else 1.0
    return {**scores, "dice": sum(scores.values()) / len(scores)}


def trainer_for(hospital: Hospital | Sequence[Hospital], model: nn.Module) -> TorchTrainer:
    """Return a trainer with the training slices to learn and the held-out slices to measure.

    Args:
        hospital: whose slices; several are treated as one owner's, for comparison with pooled data.
        model: the template, which may be the same object for every hospital.
    """
    owners = [hospital] if isinstance(hospital, Hospital) else list(hospital)
    return TorchTrainer(
        model,
        _tensors([(owner.train_images, owner.train_labels) for owner in owners]),
        validation=_tensors([(owner.held_out_images, owner.held_out_labels) for owner in owners]),
        loss=nn.functional.cross_entropy,
        metrics=dice,
        learning_rate=5e-3,
        batch_size=3,
    )


def _tensors(blocks: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*blocks, strict=True)
    return torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(labels))
