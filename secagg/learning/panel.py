"""A round report as a rich renderable, for terminals and notebooks; the figures are those of the text."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from secagg.report import RoundReport


def panel(report: RoundReport) -> RenderableType:
    """Return ``report`` as a headline, its facts and a table of its traffic."""
    facts = Table.grid(padding=(0, 2), pad_edge=True)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    for label, sentence in report.facts():
        facts.add_row(label, Text(sentence))
    traffic = Table(box=box.SIMPLE_HEAD, header_style="dim")
    traffic.add_column("all silos together")
    for heading in ("up", "down", "seconds" if report.seconds else ""):
        traffic.add_column(heading, justify="right")
    *phases, total = report.traffic()
    for row in phases:
        traffic.add_row(*row)
    traffic.add_section()
    traffic.add_row(*total, style="bold")
    return Group(Text(report.headline(), style="bold"), facts, traffic)
