"""What a run leaves behind: the model, its metrics after each round, and a report for each opened sum.

Metrics travel inside the training sum, and a silo measures the model it is about to train from. So the
sum of round r + 1 carries the metrics of the model after r rounds, and one metrics-only sum after the last
round carries those of the final model. A record therefore counts **completed** rounds, from 0 to R.

A history holds opened sums only; nothing in it belongs to one silo. It does not save itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from secagg.errors import MissingExtra, UsageError
from secagg.explanation import explained
from secagg.learning.model import frozen
from secagg.names import RealVector, SiloId
from secagg.report import (
    RoundReport,
    hanging,
    level_mark,
    metric_text,
    out_of_range,
    plural,
    privacy_sentence,
    size,
)

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Record:
    """One opened sum and the metrics it carried.

    Attributes:
        completed: rounds that the measured model had behind it, from 0.
        metrics: name -> weighted mean over the survivors, as opened: digits below ``report.metric_error``
            mean nothing, and texts do not show them. Empty if no trainer reports any.
        report: figures of the sum, which is round ``completed + 1`` or the last, metrics-only one.
    """

    completed: int
    metrics: Mapping[str, float]
    report: RoundReport

    def shown(self, name: str) -> str:
        """Return one metric with the digits that are certain; empty if this sum did not carry it."""
        return metric_text(self.metrics[name], self.report.metric_error) if name in self.metrics else ""


def rounds_of(records: Sequence[Record]) -> int:
    """Return how many of the sums changed the model."""
    return sum(record.report.kind == "train" for record in records)


def final_metrics(records: Sequence[Record]) -> Mapping[str, float]:
    """Return the metrics of the final model; empty if their sum was not opened."""
    last = records[-1:]
    return last[0].metrics if last and last[0].report.kind == "metrics" else {}


@dataclass(frozen=True, eq=False, repr=False, init=False)
class History:
    """The result of ``Federation.run``.

    Args:
        model: the final global weights, real, shape (length,); kept read-only. None where silos alone have
            them: then ``model`` raises UsageError, and says where they are.
        records: one for each opened sum, in order; ``records[r]`` measures the model after r rounds.

    Raises:
        UsageError: the records are not those of rounds 1 to R, with a metrics-only one at most at the end.

    Guarantees:
        ``len(history)`` is R, the number of rounds that changed the model.
        Metrics stand beside the number of rounds the measured model had completed, R for the final one.
    """

    records: tuple[Record, ...]

    def __init__(self, model: RealVector | None, records: tuple[Record, ...]) -> None:
        object.__setattr__(self, "_model", None if model is None else frozen(model))
        object.__setattr__(self, "records", records)
        kinds = [record.report.kind for record in self.records]
        if [record.completed for record in self.records] != list(range(len(kinds))) or "metrics" in kinds[
            :-1
        ]:
            raise UsageError("a history takes one record for each round, in order, then the final metrics")

    @property
    def model(self) -> RealVector:
        """The final global weights, float64, read-only."""
        model: RealVector | None = self.__dict__["_model"]
        if model is None:
            raise UsageError(
                "the model of this run is at its silos alone: model-JOB.safetensors in the state of each"
            )
        return model

    @property
    def sealed(self) -> bool:
        """Whether silos alone have the model."""
        return self.__dict__["_model"] is None

    def __len__(self) -> int:
        return rounds_of(self.records)

    @property
    def final_metrics(self) -> Mapping[str, float]:
        """Metrics of ``model``, from the metrics-only sum; empty if that sum was not opened."""
        return final_metrics(self.records)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of all metrics, in the order in which trainers report them."""
        return tuple(dict.fromkeys(name for record in self.records for name in record.metrics))

    @explained()
    def series(self, metric: str) -> tuple[tuple[int, float], ...]:
        """Return ``(completed rounds, value)`` pairs of one metric.

        Raises:
            UsageError: no round reported it.
        """
        if metric not in self.metric_names:
            known = ", ".join(self.metric_names) or "none: no trainer returns metrics from evaluate()"
            raise UsageError(f"no metric {metric!r}; there are {known}")
        return tuple((r.completed, r.metrics[metric]) for r in self.records if metric in r.metrics)

    @explained()
    def plot(self, metric: str | None = None, *, ax: Axes | None = None) -> Axes:
        """Draw metrics over completed rounds and return the axes.

        A band around each line is the proven error of its values; with enough samples it is too thin to see.

        Args:
            metric: which one; None for all, with a legend.
            ax: matplotlib axes to draw on; None for new ones.

        Raises:
            UsageError: no round reported the metric.
            MissingExtra: matplotlib is not installed.
        """
        try:
            from matplotlib import pyplot
            from matplotlib.ticker import MaxNLocator
        except ImportError as missing:
            raise MissingExtra("plot", "matplotlib") from missing
        lines = [(name, self.series(name)) for name in ((metric,) if metric else self.metric_names)]
        if ax is None:
            _, ax = pyplot.subplots()
        for name, series in lines:
            completed, values = zip(*series, strict=True)
            (drawn,) = ax.plot(completed, values, marker="o", markersize=4, label=name)
            errors = [self.records[count].report.metric_error or 0.0 for count in completed]
            ax.fill_between(
                completed,
                [value - error for value, error in zip(values, errors, strict=True)],
                [value + error for value, error in zip(values, errors, strict=True)],
                where=[math.isfinite(error) for error in errors],
                color=drawn.get_color(),
                alpha=0.2,
                linewidth=0,
            )
        ax.set_xlabel("completed rounds")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(visible=True, alpha=0.3)
        if metric:
            ax.set_ylabel(metric)
        elif lines:
            ax.legend()
        return ax

    @explained()
    def to_dataframe(self) -> pandas.DataFrame:
        """Return metrics and figures of the sums as a table with one row for each record.

        Metrics are as opened; beside them ``metric_error`` bounds how far they may be off.
        The index ``completed_rounds`` counts the rounds of the measured model. A column of figures whose
        name a metric has too gets the suffix ``_of_sum``.

        Raises:
            MissingExtra: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as missing:
            raise MissingExtra("plot", "pandas") from missing
        index = pd.RangeIndex(len(self.records), name="completed_rounds")
        metrics = pd.DataFrame([dict(record.metrics) for record in self.records], index=index)
        figures = pd.DataFrame([_figures(record.report) for record in self.records], index=index)
        figures = figures.rename(columns={name: f"{name}_of_sum" for name in metrics.columns})
        return pd.concat((metrics, figures), axis="columns")

    def report(self, *, width: int = 80) -> str:
        """Return the whole run as aligned plain text: metrics, losses, cost, who can read what."""
        if not self.records:
            return "no round was opened"
        reports = [record.report for record in self.records]
        # The sentence is about the sum behind which the fewest honest silos stand.
        weakest = min(reports, key=lambda report: len(report.survivors))
        level = level_mark(weakest.scheme)
        lines = [f"{level}{plural(len(self), 'round')} completed: {weakest.scheme}, {weakest.n} silos"]
        lines += self._metric_lines()
        up = sum(sum(report.bytes_up.values()) for report in reports)
        down = sum(sum(report.bytes_down.values()) for report in reports)
        facts = [
            ("smallest", f"{len(weakest.survivors)} silos were in the smallest sum"),
            ("who reads", weakest.who_can_read),
            ("privacy", privacy_sentence(reports[-1].spent)),
            ("lost", "; ".join(_losses(reports)) or "no silo in any round"),
            ("rounding", _rounding(reports)),
            *_cut(reports),
            ("head-room", f"{min(report.headroom_bits for report in reports):.1f} bits at the least"),
            ("traffic", f"{size(up)} up, {size(down)} down, all silos together"),
            ("seconds", ", ".join(f"{name} {spent:.2f}" for name, spent in _seconds(reports).items())),
        ]
        for label, sentence in facts:
            lines += hanging(label, sentence, width=width)
        return "\n".join(lines)

    def __repr__(self) -> str:
        metrics = "".join(f", {name}={self.records[-1].shown(name)}" for name in self.final_metrics)
        model = "model at the silos" if self.sealed else f"parameters={self.model.size}"
        return f"History(rounds={len(self)}, {model}{metrics})"

    def _repr_html_(self) -> str:
        names = ("completed rounds", *self.metric_names, *self._error_heading, "silos in the sum")
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        rows = []
        for record in self.records:
            cells = (str(record.completed), *self._cells(record), _silos(record.report))
            rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"

    def _metric_lines(self) -> list[str]:
        names = (*self.metric_names, *self._error_heading)
        if not self.metric_names:
            return []
        width = max(12, *(len(name) + 2 for name in names))
        rows = zip(
            *(_on_the_point(column) for column in zip(*map(self._cells, self.records), strict=True)),
            strict=True,
        )
        lines = ["", f"  {'completed':<11}" + "".join(f"{name:>{width}}" for name in names) + "       silos"]
        for record, cells in zip(self.records, rows, strict=True):
            values = "".join(f"{cell:>{width}}" for cell in cells)
            lines.append(f"  {record.completed:<11}{values}{_silos(record.report):>12}")
        return [*lines, ""]

    @property
    def _error_heading(self) -> tuple[str, ...]:
        """The heading of the errors, if there is any."""
        known = any(record.report.metric_error is not None for record in self.records)
        return ("± error",) if known and self.metric_names else ()

    def _cells(self, record: Record) -> tuple[str, ...]:
        """Return the metrics of one record and, where it is known, the error of each of them."""
        error = record.report.metric_error
        errors = ("" if error is None else f"{error:.1e}",) if self._error_heading else ()
        return (*(record.shown(name) for name in self.metric_names), *errors)


def _silos(report: RoundReport) -> str:
    return f"{len(report.survivors)} of {report.n}"


def _on_the_point(column: tuple[str, ...]) -> list[str]:
    """Fill up with blanks, so that decimal points stand below each other at the right end of a column."""
    after = [len(cell) - cell.find(".") if "." in cell else 0 for cell in column]
    return [cell + " " * (max(after) - places) for cell, places in zip(column, after, strict=True)]


def _figures(report: RoundReport) -> dict[str, float | int | str | None]:
    return {
        "sum": report.kind,
        "survivors": len(report.survivors),
        "dropouts": len(report.dropouts),
        "k": report.k,
        "attempts": report.attempts,
        "bytes_up": sum(report.bytes_up.values()),
        "bytes_down": sum(report.bytes_down.values()),
        "seconds": sum(report.seconds.values()),
        "worst_error": report.worst_error,
        "metric_error": report.metric_error,
    }


def _losses(reports: Sequence[RoundReport]) -> Iterator[str]:
    """Yield who was lost, why and in which rounds: one entry a reason, however many rounds."""
    rounds: dict[tuple[SiloId, str], list[str]] = {}
    for report in reports:
        for loss in report.dropouts.items():
            rounds.setdefault(loss, []).append(report.title)
    for (silo, why), titles in rounds.items():
        span = titles[0] if len(titles) == 1 else f"{len(titles)} sums, {titles[0]} to {titles[-1]}"
        yield f"{silo} ({why}) in {span}"


def _rounding(reports: Sequence[RoundReport]) -> str:
    parts = []
    if entries := [report.worst_error for report in reports if report.kind != "metrics"]:
        parts.append(f"{max(entries):.1e} at the most in an entry of a mean update")
    if metrics := [report.metric_error for report in reports if report.metric_error is not None]:
        parts.append(f"{max(metrics):.1e} in a metric")
    return ", ".join(parts)


def _cut(reports: Sequence[RoundReport]) -> Iterator[tuple[str, str]]:
    clipped = max(report.clipped_share or 0.0 for report in reports)
    if clipped:
        yield "clipped", f"{100 * clipped:.2g} % of the update entries at the most in a round"
    cut = [report for report in reports if report.saturated]
    if cut:
        count = sum(report.saturated or 0 for report in cut)
        yield "beware", f"{out_of_range(count)}; first seen in {cut[0].title}"


def _seconds(reports: Sequence[RoundReport]) -> Mapping[str, float]:
    phases = dict.fromkeys(phase for report in reports for phase in report.seconds)
    return {phase: sum(report.seconds.get(phase, 0.0) for report in reports) for phase in phases}
