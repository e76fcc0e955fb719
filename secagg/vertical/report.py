"""Who saw what: what each party learned beyond its own data, in plain words and counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from secagg.names import SiloId


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One kind of thing that one party saw.

    Attributes:
        party: who.
        what: in a risk officer's words.
        clear: values that it could read, over the whole run; 0 where all was encrypted or masked.
        protected: values that it carried and could not read.
    """

    party: SiloId
    what: str
    clear: int = 0
    protected: int = 0


@dataclass(frozen=True)
class Report:
    """Who saw what in one training or prediction.

    Attributes:
        title: of what.
        seen: a row for each party and kind.
        notes: what must be said beside the table, a sentence each.
    """

    title: str
    seen: tuple[Seen, ...]
    notes: tuple[str, ...] = ()

    def of(self, party: SiloId) -> tuple[Seen, ...]:
        """Return the rows of one party."""
        return tuple(seen for seen in self.seen if seen.party == party)

    def __str__(self) -> str:
        rows = [("party", "saw", "in clear", "protected")]
        rows += [(s.party, s.what, _number(s.clear), _number(s.protected)) for s in self.seen]
        widths = [max(len(row[at]) for row in rows) for at in range(4)]
        lines = [
            f"{party:<{widths[0]}}  {what:<{widths[1]}}  {clear:>{widths[2]}}  {protected:>{widths[3]}}"
            for party, what, clear, protected in rows
        ]
        return "\n".join((self.title, *lines, *_notes(self.notes)))


def _number(count: int) -> str:
    return f"{count:,}" if count else "-"


def _notes(notes: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"note: {note}" for note in notes)
