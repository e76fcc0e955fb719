"""Six hospitals, six scanners, one brain: slices of a real MRI template with tissue labels.

What it is: the MNI152 T1 template and its grey and white matter maps, 1 mm, as they ship inside nilearn
(no download). Each hospital holds its own slab of axial slices, seen through its own scanner: another
sequence (which tissue is bright), a smooth receiver-coil gain, blur and Rician noise.

What it does not do: the template is the average of 152 people, not a patient, and the scanners are
simulated. Figures from it show that a model learned together is worth more than one learned alone; they
say nothing about clinical use.

Source: Fonov et al. 2011 (NeuroImage), ICBM 152 nonlinear symmetric 2009; Gudbjartsson and Patz 1995
(MRM), Rician noise of magnitude images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from nilearn import datasets
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

CLASSES = ("background", "grey", "white")
"""Label 0 is everything else: air and cerebrospinal fluid."""

PIXEL = 2  # millimetres in the plane; slices stay 1 mm apart
HEIGHT, WIDTH = 96, 80  # pixels: the brain and a rim, divisible by 8

FIRST_SLICE = 32
# A slab: slices to train on, a gap that nobody uses, held-out slices, a gap, slices to train on. So a
# held-out block is two slices away from its own hospital's training slices, and seven from any other's.
BEFORE, GAP, HELD_OUT, AFTER = 5, 2, 4, 5
SLAB = BEFORE + GAP + HELD_OUT + GAP + AFTER

# Where the template shows air, fluid, grey matter, white matter and its brightest white (0 to 1).
_TEMPLATE_LEVELS = (0.0, 0.3, 0.66, 0.84, 1.0)


@dataclass(frozen=True)
class Scanner:
    """How one hospital's machine shows tissue.

    Attributes:
        sequence: what a radiologist would call it.
        levels: brightness of air, fluid, grey matter, white matter and brightest white, 0 to 1.
        bias: the coil's gain runs from 1 / (1 + bias) to 1 + bias across the head, and a little beyond it.
        noise: standard deviation of each channel of the complex noise, on the scale of ``levels``.
        blur: standard deviation of the point spread in pixels.
    """

    sequence: str
    levels: tuple[float, float, float, float, float]
    bias: float
    noise: float
    blur: float = 0.0


SCANNERS = {
    "north": Scanner("T1", (0.0, 0.30, 0.66, 0.84, 1.0), bias=0.5, noise=0.02),
    "south": Scanner("T1, short echo, surface coil", (0.0, 0.14, 0.34, 0.72, 1.0), bias=2.2, noise=0.03),
    "east": Scanner("proton density", (0.0, 0.60, 0.72, 0.98, 1.0), bias=0.7, noise=0.03),
    "west": Scanner("fluid suppressed, surface coil", (0.0, 0.05, 0.75, 0.90, 1.0), bias=1.8, noise=0.03),
    "coast": Scanner("T1, low contrast", (0.0, 0.45, 0.60, 0.70, 0.8), bias=0.5, noise=0.03, blur=0.4),
    "hill": Scanner("T1, bright white matter", (0.0, 0.20, 0.35, 0.55, 0.9), bias=1.8, noise=0.04, blur=0.4),
}


@dataclass(frozen=True, eq=False)
class Hospital:
    """One data holder: a contiguous slab, of which a block in the middle is never trained on.

    Attributes:
        name: its silo id.
        scanner: how its images look.
        train_slices, held_out_slices: axial indices into the 1 mm template; disjoint, GAP apart.
        train_images, held_out_images: float32, shape (k, 1, HEIGHT, WIDTH), scaled so that the 99th
            percentile of the hospital's training slices is 1.
        train_labels, held_out_labels: int64, shape (k, HEIGHT, WIDTH), indices into ``CLASSES``.
    """

    name: str
    scanner: Scanner
    train_slices: tuple[int, ...]
    held_out_slices: tuple[int, ...]
    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    held_out_images: NDArray[np.float32]
    held_out_labels: NDArray[np.int64]


def load_hospitals(seed: int = 0) -> dict[str, Hospital]:
    """Return the six hospitals by name. Same seed, same bytes.

    Args:
        seed: of the coils' gain fields and the noise, at least 0.
    """
    template, labels = brain()
    return {
        name: _hospital(name, scanner, template, labels, FIRST_SLICE + slab * SLAB, [seed, slab])
        for slab, (name, scanner) in enumerate(SCANNERS.items())
    }


def _hospital(
    name: str,
    scanner: Scanner,
    template: NDArray[np.float64],
    labels: NDArray[np.int64],
    first: int,
    seed: list[int],
) -> Hospital:
    """Scan the slab that begins at slice ``first`` and split it."""
    slab = np.arange(first, first + SLAB)
    scans = scan(template[slab], scanner, np.random.default_rng(seed))
    held_out = slice(BEFORE + GAP, BEFORE + GAP + HELD_OUT)
    train = np.r_[:BEFORE, SLAB - AFTER : SLAB]
    images = (scans / np.quantile(scans[train], 0.99)).astype(np.float32)[:, None]
    return Hospital(
        name=name,
        scanner=scanner,
        train_slices=tuple(slab[train].tolist()),
        held_out_slices=tuple(slab[held_out].tolist()),
        train_images=images[train],
        train_labels=labels[slab[train]],
        held_out_images=images[held_out],
        held_out_labels=labels[slab[held_out]],
    )


def scan(slices: NDArray[np.float64], scanner: Scanner, random: np.random.Generator) -> NDArray[np.float64]:
    """Show template slices, shape (k, h, w), as this scanner would.

    Args:
        slices: brightness in the template, 0 to 1.
        scanner: whose machine.
        random: of the coil's gain and the noise.
    """
    tissue = np.interp(slices, _TEMPLATE_LEVELS, scanner.levels)
    signal = gaussian_filter(tissue, (0, scanner.blur, scanner.blur)) * _gain(
        slices.shape, scanner.bias, random
    )
    real, imaginary = random.normal(scale=scanner.noise, size=(2, *slices.shape))
    return np.asarray(np.hypot(signal + real, imaginary))


def _gain(shape: tuple[int, ...], bias: float, random: np.random.Generator) -> NDArray[np.float64]:
    """A smooth field from 1 / (1 + bias) to 1 + bias across the head: a slope and a bowl, both random."""
    k, h, w = shape
    z, y, x = np.meshgrid(
        np.linspace(-0.3, 0.3, k), np.linspace(-1, 1, h), np.linspace(-1, 1, w), indexing="ij"
    )
    angle = random.uniform(0, 2 * np.pi)
    centre = random.uniform(-0.4, 0.4, size=2)
    slope = y * np.sin(angle) + x * np.cos(angle) + z
    bowl = (y - centre[0]) ** 2 + (x - centre[1]) ** 2
    field = slope - bowl
    head = field[:, h // 6 : -(h // 6), w // 6 : -(w // 6)]
    unit = 2 * (field - head.min()) / (head.max() - head.min()) - 1
    return np.asarray((1 + bias) ** np.clip(unit, -1.2, 1.2))


@lru_cache(maxsize=1)
def brain() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The template, shape (slices, HEIGHT, WIDTH), 0 to 1, and its labels; front of the head up."""
    volumes = []
    for load in (
        datasets.load_mni152_template,
        datasets.load_mni152_gm_template,
        datasets.load_mni152_wm_template,
    ):
        x_y_z = load(resolution=1).get_fdata()
        rows = x_y_z.transpose(2, 1, 0)[:, ::-1]
        volumes.append(_coarser(rows))
    template, grey, white = volumes
    # Below a half of tissue a pixel is mostly fluid or air.
    labels = np.where(grey + white < 0.5, 0, np.where(grey >= white, 1, 2)).astype(np.int64)
    return template, labels


def _coarser(volume: NDArray[np.float64]) -> NDArray[np.float64]:
    """Crop the middle of every slice and average PIXEL x PIXEL squares."""
    k, rows, columns = volume.shape
    top, left = (rows - HEIGHT * PIXEL) // 2, (columns - WIDTH * PIXEL) // 2
    middle = volume[:, top : top + HEIGHT * PIXEL, left : left + WIDTH * PIXEL]
    return np.asarray(middle.reshape(k, HEIGHT, PIXEL, WIDTH, PIXEL).mean(axis=(2, 4)))
