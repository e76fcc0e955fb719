"""``silo psi`` in a process of its own, which can be told to kill itself where it keeps something.

    python -m tests.faults.psi_party [--kill-after N] [--lie WHAT] psi NAME --with ...

It kills itself once it has kept N things: a state of the session, a bucket of powers, the rows. Seeds follow
from the silo's name, so that two runs give one result. ``--lie garbage``: it says bytes that are no message
in the place of its third; ``--lie set``: its identifiers are others, and it says nothing of that.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL
from typing import Any
from unittest.mock import patch

from secagg.conversation import Send, Side
from secagg.payload import Frame
from secagg.psi.identifiers import Identifiers
from silo import cli
from silo.psi.rows import write_rows
from silo.psi.run import Found, one_side
from silo.psi.session import Session
from silo.storage import replace_file


def seed_of(state: Path) -> Callable[[int], bytes]:
    """Return where a silo's seed comes from."""
    return lambda size: state.parent.name.encode().ljust(size, b".")


def seeded() -> None:
    original = Session.__init__

    def init(self: Session, state: Path, name: str, **named: Any) -> None:
        original(self, state, name, **named, random=seed_of(state))

    patch.object(Session, "__init__", init).start()


def killed_after(count: int) -> None:
    left = [count]

    def then_killed(keep: Any, *, again: Callable[..., bool] = lambda *_: False) -> Any:
        def kept(*given: Any) -> Any:
            known = again(*given)
            result = keep(*given)
            left[0] -= not known
            if not left[0]:
                os.kill(os.getpid(), SIGKILL)
            return result

        return kept

    patch("silo.psi.session.replace_file", then_killed(replace_file)).start()
    patch.object(Session, "keep", then_killed(Session.keep)).start()
    # Rows are written by every run that comes so far; what was there before is not counted.
    written = then_killed(write_rows, again=lambda path, _: path.exists())
    patch("silo.psi.run.write_rows", written).start()


def garbage(side: Side[Found]) -> Side[Found]:
    """Say something else in the place of the third message."""
    given: Frame | None = None
    said = 0
    try:
        while True:
            action = side.send(given)
            if isinstance(action, Send):
                said += 1
                action = Send(action.to, (b"garbage", None)) if said == 3 else action
            given = yield action
    except StopIteration as end:
        found: Found = end.value
        return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kill-after", type=int)
    parser.add_argument("--lie", choices=["garbage", "set"])
    given, rest = parser.parse_known_args()
    seeded()
    if given.kill_after is not None:
        killed_after(given.kill_after)
    if given.lie == "garbage":
        patch("silo.psi.run.one_side", lambda *some, **named: garbage(one_side(*some, **named))).start()
    if given.lie == "set":
        patch.object(Identifiers, "digest", lambda _self, _secret: bytes(32)).start()
    sys.argv = ["silo", *rest]
    cli.main()


if __name__ == "__main__":
    main()
