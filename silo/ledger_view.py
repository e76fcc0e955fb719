"""The ledger of a silo's data set for people: one line for each run, by unit, and what is left.

It only reads, also while `silo run` writes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby

from secagg.privacy.entries import Entry
from secagg.privacy.events import Release, Unit, Unprotected
from secagg.privacy.ledger import Ledger
from secagg.report import plural
from silo.config import SiloConfig
from silo.journal import read_head
from silo.ledger_file import Lines, read_lines, the_file

UNITS: tuple[Unit, ...] = ("record", "silo")
_BOTH: Mapping[Unit, str] = {
    "record": "  Releases of unit silo hide a record too, and are in its total with half their noise.",
    "silo": "  Releases of unit record hide no silo; no epsilon of a silo covers them.",
}


def read_ledger(config: SiloConfig) -> tuple[Lines, Ledger]:
    """Return the lines of the silo's ledger, and the ledger that they are.

    Raises:
        EnvironmentFault: there is none yet.
        StateFault: it is damaged, missing or older than the journal knows.
    """
    name = config.data.name
    pin = read_head(config.state, name)  # First: a line is in the file before the journal knows of it.
    lines = read_lines(the_file(config.ledger_folder, name), name, pin)
    return lines, lines.ledger(name, budget=config.policy.budget(), clock=lambda: int(time.time()))


def is_new(config: SiloConfig) -> bool:
    """Whether there is no ledger of the data set, and never was one."""
    name = config.data.name
    return not the_file(config.ledger_folder, name).exists() and read_head(config.state, name) is None


def shown(config: SiloConfig) -> str:
    """Return what `silo ledger show` prints."""
    if is_new(config):
        return f"nothing was released of data set {config.data.name}; its ledger is made by `silo run`"
    return table(read_ledger(config)[1])


def summary(ledger: Ledger) -> str:
    """Return a line: how many entries, how much is left for each unit, how many sums no epsilon covers."""
    left = ", ".join(f"{_number(ledger.left(unit))} for a {unit}" for unit in UNITS)
    bare = f"; {plural(ledger.unprotected, 'sum')} had no differential privacy" if ledger.unprotected else ""
    return f"{_entries(ledger)}, epsilon left: {left}{bare}"


def table(ledger: Ledger) -> str:
    """Return the whole ledger as text."""
    lines = [f"data set {ledger.data_set}: {_entries(ledger)}{_budget(ledger)}"]
    runs = [(run, list(entries)) for run, entries in groupby(ledger.entries, _run)]
    width = max((len(run) for run, _ in runs), default=0)
    units = {event.unit for entry in ledger.entries for event in entry.events if isinstance(event, Release)}
    for unit in UNITS:
        if unit in units:
            lines += ["", *_account(ledger, unit, runs, width)]
            if len(units) == 2:
                lines.append(_BOTH[unit])
    if ledger.unprotected:
        lines += ["", *_bare(runs, width)]
        lines.append(
            f"  No epsilon covers {plural(ledger.unprotected, 'sum')}: each may reveal what is in it."
        )
    return "\n".join(lines)


def _account(
    ledger: Ledger, unit: Unit, runs: Sequence[tuple[str, list[Entry]]], width: int
) -> Iterator[str]:
    yield f"unit {unit}"
    yield f"  {'date':<10}  {'run':<{width}}  {'rounds':<12}  {'epsilon':>9}  {'total':>9}  {'left':>9}"
    for run, entries in runs:
        charged = [entry for entry in entries if any(_is(event, unit) for event in entry.events)]
        if charged:
            alone = ledger.alone(unit, charged)
            total = ledger.spent(unit, charged[-1].time)
            left = math.inf if ledger.budget is None else max(0.0, ledger.budget.epsilon - total)
            numbers = "  ".join(f"{_number(value):>9}" for value in (alone, total, left))
            yield f"  {_date(charged[0])}  {run:<{width}}  {_rounds(charged):<12}  {numbers}"
    yield f"  Today {_number(ledger.spent(unit))} is spent, and {_number(ledger.left(unit))} is left."
    yield "  epsilon is of the run alone, total of all in its period, and not the sum of the lines."


def _bare(runs: Sequence[tuple[str, list[Entry]]], width: int) -> Iterator[str]:
    yield "no differential privacy"
    yield f"  {'date':<10}  {'run':<{width}}  {'rounds':<12}  {'sums':>9}"
    for run, entries in runs:
        charged = [entry for entry in entries if any(isinstance(e, Unprotected) for e in entry.events)]
        sums = sum(
            event.count for entry in charged for event in entry.events if isinstance(event, Unprotected)
        )
        if charged:
            yield f"  {_date(charged[0])}  {run:<{width}}  {_rounds(charged):<12}  {sums:>9}"


def _is(event: object, unit: Unit) -> bool:
    return isinstance(event, Release) and event.unit == unit


def _run(entry: Entry) -> str:
    return f"{entry.federation}/{entry.job}"


def _date(entry: Entry) -> str:
    return f"{datetime.fromtimestamp(entry.time, UTC):%Y-%m-%d}"


def _rounds(entries: Sequence[Entry]) -> str:
    rounds = sorted({entry.round for entry in entries})
    first, last = rounds[0], rounds[-1]
    gaps = f" ({len(rounds)})" if len(rounds) <= last - first else ""
    return f"{first}{gaps}" if first == last else f"{first}-{last}{gaps}"


def _number(epsilon: float) -> str:
    return f"{epsilon:.4f}" if math.isfinite(epsilon) else "no bound"


def _entries(ledger: Ledger) -> str:
    count = ledger.head[0]
    return "1 entry" if count == 1 else f"{count} entries"


def _budget(ledger: Ledger) -> str:
    budget = ledger.budget
    if budget is None:
        return ", no budget"
    return f", budget {budget.epsilon:g} at delta {budget.delta:g} in any {plural(budget.period_days, 'day')}"
