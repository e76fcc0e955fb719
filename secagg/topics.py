"""What ``secagg explain WORD`` answers: a code is explained, a scheme prints its table, a term its entry.

The class of an error, as a traceback shows it, answers with the codes that it may have, and a strategy with
what its docstring says of it and of its parameters.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from difflib import get_close_matches
from typing import get_args

from secagg import errors
from secagg.catalogue import CATALOGUE
from secagg.costs import name_of
from secagg.errors import SecaggError, SiloLeftOut, UsageError
from secagg.estimates import BY_DEFAULT
from secagg.estimates import explain as explain_configuration
from secagg.explanation import codes_of, lookup
from secagg.glossary import GLOSSARY
from secagg.learning.strategies import Strategy
from secagg.schemes import SCHEMES, TAGS, table

_NO_BREAK = "\N{NO-BREAK SPACE}"
_CODE = re.compile(r"\s*(?:SA-.*|\d+\s*)", re.IGNORECASE)
_QUALIFIED = re.compile(r"\s*(?:\w+\.)*(\w+)(?::\s.*)?", re.DOTALL)
"""``secagg.errors.TooFewSilos: Unmasking: 2 silos answered``, the last line of a traceback."""

STRATEGIES = {kind.__name__: kind for kind in get_args(Strategy)}
ERRORS: dict[str, type[Exception]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, SecaggError | SiloLeftOut)
}


def answer(word: str, *, width: int = 80) -> str:
    """Return what ``word`` means.

    Args:
        word: a code, a scheme, a strategy, a term, or the class of an error, also with the text that follows
            it in a traceback; capitals, hyphens, blanks and a plural's s do not matter.
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
    qualified = _QUALIFIED.fullmatch(word)
    last = _key(qualified[1]) if qualified else key
    if last in _STRATEGY_NAMES:
        return _strategy(_STRATEGY_NAMES[last], width)
    if last in _ERROR_NAMES:
        return _error(_ERROR_NAMES[last], width)
    near = _near(last)
    raise UsageError(
        f"{word!r} is not known here"
        + (f"; near it: {', '.join(near)}" if near else "")
        + ". Codes (SA-4102), errors (TooFewSilos), schemes (masking), strategies (FedProx) and terms (lock) "
        "are; `secagg explain` lists them"
    )


def configuration(
    word: str, *, silos: int, colluders: int | None = None, parameters: int | None = None, width: int = 80
) -> str:
    """Return what a scheme promises and costs with so many silos.

    Args:
        word: the scheme, as of ``answer``.
        silos: n.
        colluders: c; None for the default.
        parameters: entries of a vector; None for a million.
        width: as of ``answer``.

    Raises:
        UsageError: it is no scheme.
        ParameterError: the numbers contradict each other.
    """
    for scheme in BY_DEFAULT:
        if _key(name_of(scheme)) == _key(word):
            return explain_configuration(scheme, n=silos, c=colluders, parameters=parameters, width=width)
    raise UsageError(f"{word!r} is no scheme; there are {', '.join(TAGS.values())}")


def contents(*, width: int = 80) -> str:
    """Return all that ``answer`` knows: each code with what it means, then all else by name."""
    lines = [line for code in CATALOGUE for line in _code_line(code, width)]
    for label, names in (
        ("errors", ERRORS),
        ("schemes", TAGS.values()),
        ("strategies", STRATEGIES),
        ("terms", GLOSSARY),
    ):
        wrapped = textwrap.wrap(
            ", ".join(name.replace(" ", _NO_BREAK) for name in names),
            width=width,
            initial_indent=f"{label:<12}",
            subsequent_indent=" " * 12,
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += ["", *(line.replace(_NO_BREAK, " ") for line in wrapped)]
    return "\n".join(lines)


def _error(name: str, width: int) -> str:
    """Return what the class says of itself, and its code explained, or each of its codes in a line."""
    kind = ERRORS[name]
    codes = _codes(kind)
    lines = textwrap.wrap(f"{name}: {_summary(kind)}", width=width, subsequent_indent="  ")
    kinds = ", ".join(other for other, known in ERRORS.items() if kind in known.__bases__)
    if kinds:
        lines += textwrap.wrap(
            f"kinds of it: {kinds}", width=width, initial_indent="  ", subsequent_indent="  "
        )
    if len(codes) == 1:
        lines += ["", lookup(codes[0]).text(width=width)]
    elif codes:
        lines += ["", *(line for code in codes for line in _code_line(code, width))]
        lines += [
            "",
            *textwrap.wrap("The note under the error says which; `secagg explain` takes it.", width),
        ]
    return "\n".join(lines)


def _codes(kind: type[Exception]) -> tuple[str, ...]:
    if issubclass(kind, SecaggError):
        return codes_of(kind)
    # The warning carries the account of a silo that left or refused.
    own = re.compile(r"\{silo\} (?:left|refused) \{round\}")
    return tuple(code for code, words in CATALOGUE.items() if own.match(words.what))


def _code_line(code: str, width: int) -> list[str]:
    return textwrap.wrap(f"{code}  {lookup(code).what}", width=width, subsequent_indent=" " * 9)


def _strategy(name: str, width: int) -> str:
    """Return what the strategy is and its parameters, as its docstring says them."""
    kind = STRATEGIES[name]
    defaults = {
        parameter.name: parameter.default
        for parameter in inspect.signature(kind).parameters.values()
        if parameter.default is not parameter.empty
    }
    lines = textwrap.wrap(f"{name}: {_summary(kind)}", width=width, subsequent_indent="  ")
    for parameter, meaning in _arguments(kind):
        default = f" {defaults[parameter]:g} if not given." if parameter in defaults else ""
        lines += textwrap.wrap(
            f"{parameter}: {meaning}{default}", width=width, initial_indent="  ", subsequent_indent="    "
        )
    return "\n".join(lines)


def _arguments(kind: type) -> Iterator[tuple[str, str]]:
    """Yield (name, meaning) of what stands under ``Args:``."""
    _, _, rest = (inspect.getdoc(kind) or "").partition("\nArgs:\n")
    listed, _, _ = rest.partition("\n\n")
    for entry in re.split(r"\n(?=    \w)", listed):
        name, _, meaning = entry.strip().partition(": ")
        yield name, " ".join(meaning.split()).replace("``", "")


def _summary(kind: type) -> str:
    return (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("``", "").replace("\n", " ")


def _key(word: str) -> str:
    """Return ``word`` as it is compared: ``"Head-room"``, ``"headroom"`` and ``"headrooms"`` are one word."""
    return re.sub(r"[\s_-]|(?<=.)s\s*$", "", word.casefold())


_NAMES = {_key(word): term.name for term in GLOSSARY.values() for word in (term.name, *term.also)}
_STRATEGY_NAMES = {_key(name): name for name in STRATEGIES}
_ERROR_NAMES = {_key(name): name for name in ERRORS}


def _near(key: str) -> list[str]:
    names = {_key(tag): tag for tag in TAGS.values()} | _NAMES | _STRATEGY_NAMES | _ERROR_NAMES
    holding = [name for name in names if len(key) > 2 and key in name]
    return list(dict.fromkeys(names[name] for name in (*get_close_matches(key, names), *holding)))[:4]
