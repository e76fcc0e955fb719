"""What ``secagg explain WORD`` answers: a code is explained, a scheme prints its table, a term its entry."""

from __future__ import annotations

import re
import textwrap
from difflib import get_close_matches

from secagg.catalogue import CATALOGUE
from secagg.errors import UsageError
from secagg.explanation import lookup
from secagg.glossary import GLOSSARY
from secagg.schemes import SCHEMES, table

_NO_BREAK = "\N{NO-BREAK SPACE}"
_CODE = re.compile(r"\s*(?:SA-.*|\d+\s*)", re.IGNORECASE)


def answer(word: str, *, width: int = 80) -> str:
    """Return what ``word`` means.

    Args:
        word: a code, a scheme or a term; capitals, hyphens, blanks and a plural's s do not matter.
        width: characters a line at most, where words allow.

    Raises:
        UsageError: it is none of them; the text names the nearest.
    """
    if _CODE.fullmatch(word):
        return lookup(word).text(width=width)
    key = _key(word)
    for scheme in SCHEMES:
        if key == _key(scheme):
            return table(scheme, width=width)
    if key in _NAMES:
        return GLOSSARY[_NAMES[key]].text(width=width)
    near = _near(key)
    raise UsageError(
        f"{word!r} is not known here"
        + (f"; near it: {', '.join(near)}" if near else "")
        + ". Codes (SA-4102), schemes (masking) and terms (lock) are; `secagg explain` lists them"
    )


def contents(*, width: int = 80) -> str:
    """Return all that ``answer`` knows: each code with what it means, then schemes and terms by name."""
    lines = []
    for code in CATALOGUE:
        lines += textwrap.wrap(f"{code}  {lookup(code).what}", width=width, subsequent_indent=" " * 9)
    for label, names in (("schemes", (name.lower() for name in SCHEMES)), ("terms", GLOSSARY)):
        wrapped = textwrap.wrap(
            ", ".join(name.replace(" ", _NO_BREAK) for name in names),
            width=width,
            initial_indent=f"{label:<9}",
            subsequent_indent=" " * 9,
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += ["", *(line.replace(_NO_BREAK, " ") for line in wrapped)]
    return "\n".join(lines)


def _key(word: str) -> str:
    """Return ``word`` as it is compared: ``"Head-room"``, ``"headroom"`` and ``"headrooms"`` are one word."""
    return re.sub(r"[\s_-]|(?<=.)s\s*$", "", word.casefold())


_NAMES = {_key(word): term.name for term in GLOSSARY.values() for word in (term.name, *term.also)}


def _near(key: str) -> list[str]:
    names = {_key(scheme): scheme.lower() for scheme in SCHEMES} | _NAMES
    holding = [name for name in names if len(key) > 2 and key in name]
    return list(dict.fromkeys(names[name] for name in (*get_close_matches(key, names), *holding)))[:4]
