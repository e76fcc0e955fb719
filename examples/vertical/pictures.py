"""The picture of the demo: who finds how many, for each way of learning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only; no window, no display

from matplotlib import pyplot

from examples.vertical.curves import Curve

INK, ACCENT, SECOND = "#1b1f24", "#0b6e99", "#c2571a"
ALONE = ("#9aa4ae", "#6d7781", "#c6ccd2")
DPI = 150


def roc(panels: Mapping[str, tuple[Mapping[str, Curve], Curve, Curve]], *, title: str, path: Path) -> None:
    """Draw one panel a way of learning.

    Args:
        panels: way -> curves of each party alone by name, joint and pooled.
        title: what is found, among which records.
        path: of the PNG.
    """
    figure, row = pyplot.subplots(
        1, len(panels), figsize=(4.6 * len(panels), 5.6), sharey=True, layout="constrained", squeeze=False
    )
    for axes, (way, (alone, joint, pooled)) in zip(row[0], panels.items(), strict=True):
        for (name, curve), colour in zip(alone.items(), ALONE, strict=False):
            axes.plot(*curve.line, color=colour, linewidth=1.4, label=f"{name} alone: AUC {curve.area:.3f}")
        # The pooled one on top and dashed: where the two are one curve, both are seen.
        axes.plot(*joint.line, color=ACCENT, linewidth=2.6, label=f"joint: AUC {joint.area:.3f}")
        axes.plot(
            *pooled.line,
            color=SECOND,
            linewidth=1.4,
            linestyle=(0, (3, 2)),
            label=f"all data pooled: AUC {pooled.area:.3f}",
        )
        axes.plot((0, 1), (0, 1), color=INK, linewidth=0.8, linestyle=":", label="at random: AUC 0.500")
        axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="false alarms: share of the others that are flagged")
        axes.set_aspect("equal")
        axes.set_title(way, loc="left", fontsize=11, color=INK, pad=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e9ec", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(-0.02, -0.15))
    row[0, 0].set_ylabel("found: share of those looked for")
    figure.suptitle(title, x=0.012, ha="left", fontsize=12, fontweight="bold", color=INK)
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)
