"""The three pictures of the demo: learning curve, a segmented slice, and what the coordinator saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only; no window, no display

import numpy as np
from matplotlib import pyplot
from matplotlib.colors import ListedColormap
from numpy.typing import NDArray

from examples.medical_imaging.data import CLASSES, Hospital

INK, QUIET, ACCENT, SECOND = "#1b1f24", "#9aa4ae", "#0b6e99", "#c2571a"
TISSUE = ListedColormap(["#000000", "#4fa3c7", "#f2efe6"])
DPI = 150


def learning_curve(
    federated: Sequence[float], alone: Mapping[str, Sequence[float]], pooled: Sequence[float], path: Path
) -> None:
    """Draw mean Dice over completed rounds: all hospitals' held-out blocks, the same for every curve."""
    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    axes.plot(pooled, color=SECOND, linestyle="--", linewidth=1.6)
    axes.plot(federated, color=ACCENT, linewidth=2.6)
    ends = [("all data pooled", pooled[-1], SECOND), ("six hospitals, federated", federated[-1], ACCENT)]
    for name, scores in alone.items():
        axes.plot(scores, color=QUIET, linewidth=1.2)
        ends.append((f"{name} alone", scores[-1], "#5f6b76"))
    rounds = len(federated) - 1
    for (name, _, colour), y in zip(
        sorted(ends, key=lambda e: e[1]), _apart([e[1] for e in ends], 0.04), strict=True
    ):
        axes.text(rounds * 1.03, y, name, color=colour, fontsize=8.5, va="center")
    axes.set(
        xlim=(0, rounds), ylim=(0, 1), xlabel="completed rounds", ylabel="mean Dice, grey and white matter"
    )
    axes.set_title("Held-out slices of all six hospitals", loc="left", fontsize=11, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xticks(range(rounds + 1))
    axes.grid(axis="y", color="#e6e9ec", linewidth=0.8)
    axes.set_axisbelow(True)
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Return the sorted heights, moved upwards until no two labels overlap."""
    placed: list[float] = []
    for height in sorted(heights):
        placed.append(max(height, placed[-1] + gap) if placed else height)
    return placed


def segmented_slice(
    hospitals: Sequence[Hospital],
    alone: str,
    predictions: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]],
    path: Path,
) -> None:
    """Draw one held-out slice a hospital: the scan, the labels, one hospital's own model, the federated one.

    Args:
        hospitals: one a row.
        alone: whose own model is shown.
        predictions: hospital -> labels of the middle held-out slice by (its own model, federated model).
        path: of the PNG.
    """
    titles = ("scan", "labels", f"{alone} alone", "federated")
    figure, grid = pyplot.subplots(
        len(hospitals), 4, figsize=(7, 2.15 * len(hospitals)), layout="constrained", squeeze=False
    )
    for row, hospital in zip(grid, hospitals, strict=True):
        middle = len(hospital.held_out_slices) // 2
        own, federated = predictions[hospital.name]
        row[0].imshow(hospital.held_out_images[middle, 0], cmap="gray")
        for axes, labels in zip(row[1:], (hospital.held_out_labels[middle], own, federated), strict=True):
            axes.imshow(labels, cmap=TISSUE, vmin=0, vmax=len(CLASSES) - 1, interpolation="nearest")
        row[0].set_ylabel(f"{hospital.name}\n{hospital.scanner.sequence}", fontsize=8.5, color=INK)
        for axes in row:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=10, color=INK)
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)


def coordinator_saw(
    own: NDArray[np.float64],
    upload: NDArray[np.float64],
    mean: NDArray[np.float64],
    *,
    silo: str,
    silos: int,
    path: Path,
) -> None:
    """Draw one update, its upload as it arrived, and the opened mean, each as an image over its histogram.

    Args:
        own: the update before masking, in units of the model; only the hospital knows it.
        upload: the same entries as they arrived, read in the same fixed point.
        mean: the opened mean update.
        silo: whose update it is.
        silos: how many are in the mean.
        path: of the PNG.
    """
    panels: tuple[tuple[str, NDArray[Any], str], ...] = (
        (f"{silo}'s update\nknown to {silo} alone", own, ACCENT),
        ("its upload\nas the coordinator received it", upload, INK),
        (f"the opened mean\nof {silos} hospitals", mean, ACCENT),
    )
    height = int(np.sqrt(own.size))
    figure, grid = pyplot.subplots(
        2, 3, figsize=(8, 4.2), layout="constrained", gridspec_kw={"height_ratios": [3, 1]}
    )
    for (title, values, colour), picture, histogram in zip(panels, grid[0], grid[1], strict=True):
        extent = float(np.quantile(np.abs(values), 0.995))
        square = values[: height * height].reshape(height, height)
        picture.imshow(square, cmap="RdBu_r", vmin=-extent, vmax=extent, interpolation="nearest")
        picture.set(xticks=[], yticks=[])
        picture.spines[:].set_visible(False)
        picture.set_title(title, fontsize=10, color=INK)
        histogram.hist(values, bins=80, range=(-extent, extent), color=colour)
        histogram.set(yticks=[], xlim=(-extent, extent), xticks=[-extent, 0, extent])
        end = f"{extent:.0f}" if extent >= 10 else f"{extent:.2g}"
        histogram.set_xticklabels([f"-{end}", "0", end], fontsize=8)
        histogram.spines[["top", "left", "right"]].set_visible(False)
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)
