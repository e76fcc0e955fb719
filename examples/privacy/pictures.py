"""The pictures: score over epsilon, and what was recovered of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only; no window, no display

import numpy as np
from matplotlib import pyplot
from numpy.typing import NDArray

INK, QUIET, ACCENT, SECOND = "#1b1f24", "#7d8893", "#0b6e99", "#c2571a"
DPI = 130


def recovered(
    images: NDArray[np.float64],
    found: Mapping[str, tuple[NDArray[np.float64], Sequence[float]]],
    *,
    silos: int,
    path: Path,
) -> None:
    """Draw one image a row, and beside it what was recovered of it.

    Args:
        images: shape (n, 64), the silos' own.
        found: where it was read -> images, shape (n, 64), and their similarities.
        silos: how many are in a sum.
        path: of the PNG.
    """
    columns = 1 + len(found)
    figure, grid = pyplot.subplots(
        len(images), columns, figsize=(1.45 * columns, 1.62 * len(images) + 0.5), layout="constrained"
    )
    for row, image, number in zip(np.atleast_2d(grid), images, range(1, len(images) + 1), strict=True):
        _show(row[0], image)
        row[0].set_ylabel(f"silo {number}", fontsize=9, color=INK)
        for axes, (pictures, similarities) in zip(row[1:], found.values(), strict=True):
            _show(axes, pictures[number - 1])
            value = similarities[number - 1]
            axes.set_xlabel(
                f"{value:.2f}",
                fontsize=9,
                color=SECOND if value > 0.9 else INK,
                fontweight="bold" if value > 0.9 else "normal",
                labelpad=2,
            )
    titles = ["its image", *(where.replace(", ", ",\n") for where in found)]
    for axes, title in zip(np.atleast_2d(grid)[0], titles, strict=True):
        axes.set_title(title.replace("opened sum", f"opened sum\nof {silos} silos"), fontsize=9, color=INK)
    figure.supxlabel("below each: similarity to the image, 1 is the image itself", fontsize=8.5, color=QUIET)
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)


def _show(axes: Any, image: NDArray[np.float64]) -> None:
    # Shades are the attacker's to choose: from the darkest to the brightest that there is.
    axes.imshow(image.reshape(8, 8), cmap="gray", interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def score_over_epsilon(
    plain: Mapping[int, Sequence[float]],
    noised: Mapping[str, Mapping[int, Mapping[float, Sequence[float]]]],
    *,
    title: str,
    measure: str,
    chance: float,
    path: Path,
) -> None:
    """Draw one panel for each number of silos.

    Args:
        plain: silos -> scores without noise, one for each seed.
        noised: way -> silos -> epsilon -> scores.
        title: of the picture.
        measure: what a score is.
        chance: score of a model that learned nothing.
        path: of the PNG.
    """
    epsilons = sorted(
        {each for by_silos in noised.values() for values in by_silos.values() for each in values}
    )
    scores = [*plain.values(), *(each for by in noised.values() for v in by.values() for each in v.values())]
    top = min(1.0, 1.1 * max(max(each) for each in scores))
    colours = dict(zip(noised, (ACCENT, SECOND, QUIET), strict=False))
    figure, row = pyplot.subplots(
        1, len(plain), figsize=(3.3 * len(plain), 3.9), sharey=True, layout="constrained", squeeze=False
    )
    for axes, (silos, values) in zip(row[0], plain.items(), strict=True):
        axes.axhline(np.mean(values), color=INK, linestyle="--", linewidth=1.4, label="no noise")
        for way, by_silos in noised.items():
            found = [by_silos[silos][epsilon] for epsilon in epsilons]
            axes.fill_between(
                epsilons,
                [min(each) for each in found],
                [max(each) for each in found],
                color=colours[way],
                alpha=0.16,
                linewidth=0,
            )
            axes.plot(
                epsilons,
                [np.mean(each) for each in found],
                color=colours[way],
                linewidth=2.0 if colours[way] != QUIET else 1.2,
                marker="o",
                markersize=4,
                label=way,
            )
        axes.axhline(chance, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xscale("log")
        axes.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
        axes.minorticks_off()
        axes.set(ylim=(0, top), xlabel="epsilon")
        axes.set_title(f"{silos} silos", loc="left", fontsize=10, color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6e9ec", linewidth=0.8)
        axes.set_axisbelow(True)
    row[0, 0].set_ylabel(measure)
    last = row[0, -1]
    last.text(
        1.02, chance, "chance", fontsize=8, color=INK, va="center", transform=last.get_yaxis_transform()
    )
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    handles, labels = row[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8.5, loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)
