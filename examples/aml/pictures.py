"""The two pictures: precision over recall, and which typologies are found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only; no window, no display

import numpy as np
from matplotlib import pyplot

from examples.aml.scores import Curve

INK, QUIET, ACCENT, SECOND = "#1b1f24", "#b9c1c8", "#0b6e99", "#c2571a"
DPI = 150


def precision_recall(
    panels: Mapping[str, tuple[Sequence[Curve], Curve, Curve]], *, together: str, guilty: float, path: Path
) -> None:
    """Draw one panel a model.

    Args:
        panels: model -> curves of each bank alone, federated and pooled.
        together: what the federated one is called.
        guilty: share of held-out accounts that launder, which is the precision of a random ranking.
        path: of the PNG.
    """
    figure, row = pyplot.subplots(
        1, len(panels), figsize=(4.4 * len(panels), 5.0), sharey=True, layout="constrained", squeeze=False
    )
    for axes, (model, (alone, federated, pooled)) in zip(row[0], panels.items(), strict=True):
        scores = [curve.average_precision for curve in alone]
        for curve in alone:
            axes.step(curve.recall, curve.precision, where="pre", color=QUIET, linewidth=0.9)
        axes.step(
            [], [], color=QUIET, label=f"each bank alone: median average precision {np.median(scores):.2f}"
        )
        for curve, colour, style, name in (
            (pooled, SECOND, "--", "all data pooled"),
            (federated, ACCENT, "-", together),
        ):
            label = f"{name}: {curve.average_precision:.2f}"
            axes.plot(
                curve.recall, curve.precision, color=colour, linestyle=style, linewidth=1.8, label=label
            )
        axes.axhline(guilty, color=INK, linewidth=0.8, linestyle=":")
        axes.text(0.02, guilty + 0.012, "at random", fontsize=8, color=INK)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall: share of laundering accounts found")
        axes.set_title(model, loc="left", fontsize=11, color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e9ec", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(-0.02, -0.14))
    row[0, 0].set_ylabel("precision: share of alerts that are right")
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)


def recall_per_typology(
    panels: Mapping[str, tuple[Mapping[str, float], Mapping[str, float], Mapping[str, float]]],
    *,
    together: str,
    budget: float,
    path: Path,
) -> None:
    """Draw one panel a model, one line a typology.

    Args:
        panels: model -> recall by typology of a median bank alone, federated and pooled.
        together: what the federated one is called.
        budget: share of the accounts that were alerted.
        path: of the PNG.
    """
    figure, row = pyplot.subplots(
        1, len(panels), figsize=(4.4 * len(panels), 3.9), sharey=True, layout="constrained", squeeze=False
    )
    for axes, (model, (alone, federated, pooled)) in zip(row[0], panels.items(), strict=True):
        names = list(federated)
        heights = np.arange(len(names))[::-1]
        axes.hlines(
            heights, [alone[name] for name in names], [federated[name] for name in names], color=QUIET
        )
        for recall, colour, face, name in (
            (alone, "#7d8893", "#7d8893", "median bank alone"),
            (federated, ACCENT, ACCENT, together),
            (pooled, SECOND, "none", "all data pooled"),
        ):
            axes.scatter(
                [recall[each] for each in names],
                heights,
                s=58 if face == "none" else 34,
                edgecolors=colour,
                facecolors=face,
                linewidths=1.3,
                zorder=3,
                label=name,
            )
        axes.set_yticks(heights, names)
        axes.set(xlim=(0, 1), xlabel=f"recall within {budget:.0%} of accounts alerted")
        axes.set_title(model, loc="left", fontsize=11, color=INK)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#e6e9ec", linewidth=0.8)
        axes.set_axisbelow(True)
    handles, labels = row[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8.5, loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)
