"""Attack ``psi_enumeration``: ask about everybody, in many sessions of which each is small.

Customer numbers are few. A partner that may not bring all of them at once brings some in each session: under
new names, after a restart of the other silo, in sessions that it kills once it has its answer, and under one
name with another set after an interruption. It must be refused before it learns the list, by the silo's own
count over all of that; and a silo whose operator wrote nothing into its file is asked by nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from secagg.errors import FaultySilo, PolicyRefused
from secagg.psi.queries import Asked, QueryLimits
from secagg.psi.sender import SenderSession
from secagg.psi.sides import sending
from secagg.psi.terms import IntersectionPolicy
from silo.config import Intersections
from silo.psi.queries import QueryFile
from silo.psi.session import folder_of
from tests.psi.silos import Silo, run

DOMAIN = range(640)
CUSTOMERS = range(17, 640, 50)
AT_ONCE = 64
"""What no limit on a set keeps out: the smallest bucket."""
LIMIT = 192
"""Three sessions of that size."""


class Killed(Exception):
    """The attacker ends its process."""


class Attacker:
    """A partner that asks about ``DOMAIN`` piece by piece.

    Attributes:
        learned: who of those that it asked about are customers.
        asked: of how many it knows whether they are.
    """

    def __init__(self, folder: Path, *, receives: bool) -> None:
        # Its own limits are no matter to it.
        self._shop = Silo(folder, "shop", [], queries=10**6)
        self._receives = receives
        self.learned: set[int] = set()
        self.asked = 0

    def run(self, bank: Silo, ids: Iterable[int], session: str, *, kill: bool = False) -> None:
        """Bring a set; with ``kill`` end all processes with the bank's last word."""
        if folder_of(self._shop.state, session).exists():
            self._shop.cheat(session, ids)
        self._shop.ids = list(ids)
        parties = [self._shop, bank] if self._receives else [bank, self._shop]
        frames = iter(range(6))

        def watch(*_: object) -> None:
            if kill and next(frames, None) is None:
                raise Killed

        try:
            run(parties, session, watch=watch)
        except Killed:
            pass
        else:
            known = self._shop.kept[-1]
            assert known is not None
            assert known.rows is not None
            self.learned |= {self._shop.ids[row] for row in known.rows.tolist()}
        self.asked += len(self._shop.ids)


def bank_of(folder: Path) -> Silo:
    return Silo(folder, "bank", CUSTOMERS, largest_set=AT_ONCE, queries=LIMIT)


def pieces() -> Iterable[range]:
    return (DOMAIN[at : at + AT_ONCE] for at in range(0, len(DOMAIN), AT_ONCE))


def small_sessions(folder: Path) -> None:
    """Bring a piece in each session; the bank's process is a new one each time."""
    for receives in (True, False):
        here = folder / str(receives)
        attacker, refused = Attacker(here, receives=receives), set()
        for at, piece in enumerate(pieces()):
            try:
                attacker.run(bank_of(here), piece, f"s{at}")
            except PolicyRefused as refusal:
                refused.add(refusal.rule)
        assert attacker.asked <= LIMIT, "who asks in small sessions learns the whole list"
        assert attacker.learned == set(CUSTOMERS) & set(DOMAIN[:LIMIT])
        assert refused == {"queries"}


def killed_sessions(folder: Path) -> None:
    """End every session with the bank's last word, before it can do anything else."""
    bank, attacker = bank_of(folder), Attacker(folder, receives=True)
    for at, piece in enumerate(pieces()):
        with suppress(PolicyRefused):
            attacker.run(bank, piece, f"s{at}", kill=True)
    assert attacker.asked <= LIMIT, "answers of sessions that did not end are not counted"
    assert bank.asked("shop") == attacker.asked == LIMIT


def one_session(folder: Path) -> None:
    """Go on with one session, which is counted once, and bring another piece each time."""
    bank, attacker = bank_of(folder), Attacker(folder, receives=True)
    for piece in pieces():
        with suppress(FaultySilo):
            attacker.run(bank, piece, "one", kill=True)
    assert attacker.asked == AT_ONCE, "another set is answered under the name of one that was counted"


def untouched(_folder: Path) -> None:
    """Ask a silo whose operator wrote nothing of intersections."""
    with suppress(PolicyRefused):
        Intersections().check_partner("shop")
        raise AssertionError("a silo that nobody set up is asked")


def test_psi_enumeration(tmp_path: Path) -> None:
    for attack in (small_sessions, killed_sessions, one_session, untouched):
        attack(tmp_path / attack.__name__)


def in_memory(_self: QueryFile, _file: int) -> tuple[list[Asked], int]:
    """Know nothing of what was counted before this process."""
    return [], 0


def per_session(self: QueryLimits, new: Asked, known: Iterable[Asked]) -> bool:
    return check(self, new, [each for each in known if each.session == new.session])


def afterwards(session: SenderSession) -> Any:
    """Answer, and count then."""
    policy, session._policy = session._policy, IntersectionPolicy()
    outcome = yield from sending(session)
    policy.check_set(session.terms.receiver, AT_ONCE)
    return outcome


def anything(*_: object) -> None:
    """Take whatever is said, and whoever says it."""


check = QueryLimits.check


@pytest.mark.parametrize(
    ("defence", "mutant", "attack", "found"),
    [
        ("silo.psi.queries.QueryFile._read", in_memory, small_sessions, "learns the whole list"),
        ("secagg.psi.queries.QueryLimits.check", per_session, small_sessions, "learns the whole list"),
        ("silo.psi.run.sending", afterwards, killed_sessions, "did not end are not counted"),
        ("secagg.psi.transcript._check", anything, one_session, "another set is answered"),
        ("silo.config.Intersections.check_partner", anything, untouched, "nobody set up is asked"),
    ],
)
def test_psi_enumeration_mutant(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    defence: str,
    mutant: object,
    attack: Callable[[Path], None],
    found: str,
) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match=found):
        attack(tmp_path)
