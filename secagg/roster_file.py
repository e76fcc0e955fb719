"""``roster.toml``: the pinned members of a federation as text, for people who compare and keep it.

    [[silo]]
    name = "north"
    key = "<64 hex digits: the Ed25519 public key>"

The order is that of the slots. Nothing in it is secret; what protects it is that each silo's own people
compared the fingerprints by another way than the file came. It opens no file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from secagg.configuration import PARAMETER, parse
from secagg.errors import ParameterError
from secagg.hazmat.identity import fingerprint, grouped
from secagg.names import SiloId
from secagg.roster import Roster, check_silo
from secagg.toml_lines import lines_of

KEY_DIGITS = 64

_HEAD = """\
# The silos of one federation and their public identity keys, in the order of their slots.
# Before you pin it: let every silo read its fingerprint to you over the phone, and compare.
"""


def parse_roster(text: str, source: str) -> Roster:
    """Return the roster that ``text`` writes down.

    Args:
        text: the whole file.
        source: its name, for the text of an error.

    Raises:
        ParameterError: naming every problem with its line.

    Guarantees:
        ``parse_roster(write_roster(roster), source) == roster``.
        A key that is refused is not repeated: it may be the secret half.
    """
    from pydantic import BaseModel, Field  # noqa: PLC0415 - models of its own cost more than this module

    class Member(BaseModel, extra="forbid", strict=True):
        name: SiloId
        key: str

    class File(BaseModel, extra="forbid", strict=True):
        silo: list[Member] = Field(min_length=1)

    members = [(member.name, member.key) for member in parse(text, File, source=source).silo]
    lines = lines_of(text)
    problems = sorted(
        (lines["silo", position, key], f"silo {position + 1}.{key}: {words}")
        for position, key, words in _problems(members)
    )
    if problems:
        told = ";\n".join(f"{source}, line {line}: {words}" for line, words in problems)
        raise ParameterError(told, parameter=PARAMETER)
    return Roster(tuple((name, bytes.fromhex(key)) for name, key in members))


def write_roster(roster: Roster) -> str:
    """Return the text of ``roster``, with each key's fingerprint to compare as a comment."""
    text = _HEAD
    for slot, (silo, key) in enumerate(roster.members):
        text += f'\n[[silo]]  # slot {slot}\nname = "{silo}"\nkey = "{key.hex()}"\n'
        text += f"# fingerprint {fingerprint(key)}\n"
    return text + f"\n# digest of the whole roster {grouped(roster.digest[:16])}\n"


def _problems(members: Sequence[tuple[SiloId, str]]) -> Iterator[tuple[int, str, str]]:
    """Yield position, key and what is wrong, for what is well formed TOML and yet no roster."""
    names: dict[SiloId, int] = {}
    keys: dict[str, int] = {}
    for position, (name, key) in enumerate(members):
        try:
            check_silo(name)
        except ParameterError as error:
            yield position, "name", str(error)
        if (first := names.setdefault(name, position)) != position:
            yield position, "name", f"silo {first + 1} is {name} too; each silo stands once"
        if len(key) != KEY_DIGITS:
            yield position, "key", f"has {len(key)} characters, a key has {KEY_DIGITS} hex digits"
        elif not set(key) <= set("0123456789abcdefABCDEF"):
            yield position, "key", "has a character that is no hex digit (0-9, a-f)"
        elif (first := keys.setdefault(key.lower(), position)) != position:
            yield position, "key", f"silo {first + 1} has this key too; each silo makes its own"
