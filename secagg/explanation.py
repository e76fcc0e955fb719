"""What an error means for the person who reads it: a stable code, the cause, and who can do what.

Every ``SecaggError`` has an explanation, and each explanation the same five lines, in a terminal, a
notebook, a dashboard or JSON. Where a call of the public API ends, ``explained`` puts those lines under the
error as a note, which Python prints below the traceback. This module words errors and raises none of those
it words. It knows only what an error carries: parameters, sizes and names, never a data value. The wording
is in ``catalogue``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType

from secagg.catalogue import (
    CATALOGUE,
    MASKED,
    NOT_BACK,
    NOTHING_LEFT,
    OPENED,
    SILO_KEPT,
    STOPPED,
    Explanation,
)
from secagg.errors import (
    EnvironmentFault,
    FaultyCoordinator,
    FaultySilo,
    FaultySiloOrCoordinator,
    InputRefused,
    MalformedMessage,
    MissingExtra,
    ParameterError,
    PartnersMissing,
    PartnerStopped,
    PolicyRefused,
    PrivacyBudgetExhausted,
    ProtocolError,
    RoundAborted,
    RunStopped,
    SecaggError,
    TooFewSilos,
    TrainerFailed,
    TrustError,
    UnexpectedMessage,
    UsageError,
)
from secagg.names import SiloId

__all__ = [
    "CATALOGUE",
    "Explanation",
    "annotate",
    "codes_of",
    "explain",
    "explained",
    "lookup",
    "typed",
    "whom_and_why",
]

UNPROTECTED = "no: under Plain the coordinator reads every update that arrives; {model}"


def explain(
    error: SecaggError,
    *,
    round_number: int | None = None,
    silo: SiloId | None = None,
    reasons: Mapping[SiloId, str] = MappingProxyType({}),
    protected: bool = True,
    opened: bool = False,
    started: bool = True,
) -> Explanation:
    """Return what ``error`` means.

    Args:
        error: any error of this library.
        round_number: the round it happened in, from 1; None outside a round.
        silo: where it happened, for errors that do not say so themselves.
        reasons: silo -> why it did not answer, for ``TooFewSilos``; one that is not in it was silent.
        protected: False under Plain, where what arrives is readable.
        opened: True if the round went on without ``silo`` and its sum was opened.
        started: False where no round had begun; then no text speaks of one.

    Guarantees:
        The exit code is that of ``errors.exit_code``.
        Under Plain no text says that what arrived is masked.
        A round that ends in training is not said to have received anything.
        Where silos may have opened a sum, no text says that none was opened.
    """
    names = dict(_UNNAMED)
    if silo is not None:
        names["silo"] = silo
    if round_number is not None:
        names["round"] = f"round {round_number}"
        if opened:
            names["model"] = "the round was opened from the other silos"
        elif round_number > 1:
            names["model"] = f"the model is the one of round {round_number - 1}"
        else:
            names["model"] = "the model is the one the run began with"
    words = CATALOGUE[_code(error)]
    if isinstance(error, TooFewSilos) and error.phase == "Training":
        words = replace(words, safe=NOTHING_LEFT)
    if isinstance(error, RoundAborted) and error.opened:
        words = replace(words, safe=OPENED)
    if isinstance(error, PartnersMissing) and error.met:
        words = NOT_BACK
    if not protected and words.safe in {MASKED, STOPPED}:
        words = replace(words, safe=UNPROTECTED)
    if not started:
        words = _without_a_round(words)
    words = _fill(words, names | _facts(error))
    if isinstance(error, TooFewSilos) and error.missing:
        return replace(words, cause=whom_and_why(error.missing, reasons))
    return replace(words, cause=str(error) or words.cause)


def annotate(error: SecaggError, explanation: Explanation | None = None) -> str:
    """Put ``explanation``, or ``explain(error)``, under ``error`` as a note, and return the note.

    Guarantees:
        An error has one explanation: the innermost call knows most about it, so the first one stays.
    """
    for note in getattr(error, "__notes__", ()):
        if note.startswith("x SA-"):
            return str(note)
    text = (explanation or explain(error)).text()
    error.add_note(text)
    return text


@contextmanager
def explained(*, started: bool = True) -> Iterator[None]:
    """Annotate every ``SecaggError`` that leaves the block, or the function that this decorates.

    Args:
        started: as of ``explain``.
    """
    try:
        yield
    except SecaggError as error:
        annotate(error, explain(error, started=started))
        raise


@contextmanager
def typed() -> Iterator[None]:
    """Annotate a ``ParameterError`` that leaves a command of a silo as a mistake in what was typed.

    One that names its parameter keeps the explanation of that parameter.
    """
    try:
        yield
    except ParameterError as error:
        if not error.parameter:
            annotate(error, explain(ParameterError(str(error), parameter="typed"), started=False))
        raise


def codes_of(kind: type[SecaggError]) -> tuple[str, ...]:
    """Return the codes that an error of the class ``kind`` itself may have, the general one first.

    Empty for ``SecaggError``, which is never raised itself.
    """
    general = tuple(code for known, code in _CODES if known is kind)
    return tuple(dict.fromkeys((*general, *_SPECIAL_CODES.get(kind, ()))))


def lookup(code: str) -> Explanation:
    """Return the general explanation of a code, with ``<names>`` where an error would fill in its own.

    Args:
        code: ``"SA-4102"``, ``"sa-4102"`` or ``"4102"``.

    Raises:
        UsageError: there is no such code.
    """
    wanted = f"SA-{code.strip().upper().removeprefix('SA-')}"
    if wanted not in CATALOGUE:
        near = [known for known in CATALOGUE if known[:4] == wanted[:4]] or CATALOGUE
        raise UsageError(f"there is no code {code!r}; there are {', '.join(near)}")
    return _fill(CATALOGUE[wanted], _PLACEHOLDERS)


# First match wins, so subclasses and graver verdicts stand first.
_CODES: tuple[tuple[type[SecaggError], str], ...] = (
    (FaultyCoordinator, "SA-5101"),
    (TrustError, "SA-5001"),
    (FaultySilo, "SA-4004"),
    (FaultySiloOrCoordinator, "SA-4006"),
    (MalformedMessage, "SA-4002"),
    (UnexpectedMessage, "SA-4003"),
    (ProtocolError, "SA-4001"),
    (TooFewSilos, "SA-4102"),
    (RunStopped, "SA-4103"),
    (PartnerStopped, "SA-4105"),
    (PartnersMissing, "SA-4106"),
    (RoundAborted, "SA-4101"),
    (PolicyRefused, "SA-6001"),
    (PrivacyBudgetExhausted, "SA-7001"),
    (MissingExtra, "SA-3101"),
    (EnvironmentFault, "SA-3001"),
    (ParameterError, "SA-2001"),
    (TrainerFailed, "SA-2301"),
    (InputRefused, "SA-2200"),
    (UsageError, "SA-2101"),
)
_DEALER_CODE = "SA-4005"
_CEREMONY_CODE = "SA-4104"
_CEREMONY_PHASES = {"SealingKey", "KeyDealt", "KeyTaken"}
_PARAMETER_CODES = {
    "n": "SA-2002",
    "c": "SA-2003",
    "t": "SA-2004",
    "k_min": "SA-2005",
    "encoding": "SA-2006",
    "configuration": "SA-2007",
    "memory": "SA-2008",
    "typed": "SA-2009",
}
_INPUT_CODES = {
    "nan": "SA-2201",
    "infinite": "SA-2202",
    "bound": "SA-2203",
    "shape": "SA-2204",
    "dtype": "SA-2205",
    "weight": "SA-2206",
    "metric": "SA-2207",
    "layout": "SA-2208",
    "sampling": "SA-2209",
    "table": "SA-2210",
}
_RULE_CODES = {
    "lock": "SA-6002",
    "roster": "SA-6003",
    "scheme": "SA-6004",
    "cohort": "SA-6005",
    "min_silos": "SA-6005",
    "colluders": "SA-6006",
    "threshold": "SA-6006",
    "min_honest": "SA-6006",
    "max_clip": "SA-6007",
    "encoding": "SA-6008",
    "release": "SA-6009",
    "app": "SA-6010",
    "min_weight_cap": "SA-6011",
    "key": "SA-6012",
    "releases": "SA-6012",
    "maker": "SA-6013",
    "ceremony": "SA-6014",
    "memory_limit": "SA-6015",
    "privacy": "SA-6016",
    "max_l2_clip_norm": "SA-6017",
    "ledger": "SA-6018",
    "campaign": "SA-6019",
    "partners": "SA-6019",
    "queries": "SA-6019",
    "largest set": "SA-6019",
    "smallest intersection": "SA-6019",
    "learning": "SA-6020",
    "links": "SA-6020",
    "max_steps": "SA-6020",
    "min_child_rows": "SA-6020",
    "max_bins": "SA-6020",
    "min_label_flip": "SA-6020",
    "max_rounds": "SA-6020",
    "min_embedding_noise": "SA-6020",
    "min_gradient_noise": "SA-6020",
    "scores_to": "SA-6020",
}


_SPECIAL_CODES: Mapping[type[SecaggError], Iterable[str]] = {
    FaultySilo: (_DEALER_CODE,),
    TooFewSilos: (_CEREMONY_CODE,),
    InputRefused: _INPUT_CODES.values(),
    ParameterError: _PARAMETER_CODES.values(),
    PolicyRefused: _RULE_CODES.values(),
}


def _code(error: SecaggError) -> str:
    general = next(code for kind, code in _CODES if isinstance(error, kind))
    match error:
        case FaultySilo(dealer=True):
            return _DEALER_CODE
        case TooFewSilos() if error.phase in _CEREMONY_PHASES:
            return _CEREMONY_CODE
        case PolicyRefused():
            return _RULE_CODES.get(error.rule, general)
        case ParameterError():
            return _PARAMETER_CODES.get(error.parameter, general)
        case InputRefused():
            return _INPUT_CODES.get(error.rule, general)
        case _:
            return general


def _facts(error: SecaggError) -> dict[str, str]:
    match error:
        case TooFewSilos():
            known = {"have": str(error.have), "need": str(error.need), "phase": error.phase}
            # All that were asked are known only if those that did not answer are.
            all_asked = f" of {error.have + len(error.missing)}" if error.missing else ""
            return known | {"of": all_asked, "silos": ", ".join(error.missing) or "the silent silos"}
        case FaultySilo() | FaultySiloOrCoordinator() | TrainerFailed() | PartnerStopped():
            return {"silo": error.silo}
        case PartnersMissing():
            return {"silos": ", ".join(error.silos)}
        case PolicyRefused():
            return {"rule": error.rule, "silos": ", ".join(error.silos) or "the silos of the locked set"}
        case MissingExtra():
            return {"extra": error.extra, "package": error.package}
        case _:
            return {}


def whom_and_why(missing: Iterable[SiloId], reasons: Mapping[SiloId, str]) -> str:
    """Return ``"a (lost in MaskedInput), b and c (refused: lock)"``."""
    silos: dict[str, list[SiloId]] = {}
    for silo in missing:
        silos.setdefault(reasons.get(silo, "no answer"), []).append(silo)
    return ", ".join(
        f"{' and '.join(filter(None, (', '.join(names[:-1]), names[-1])))} ({why})"
        for why, names in silos.items()
    )


def _without_a_round(words: Explanation) -> Explanation:
    return replace(
        words,
        what=words.what.replace("{silo} left {round}: ", "{silo}: "),
        safe=NOTHING_LEFT if words.safe in {SILO_KEPT, MASKED, STOPPED} else words.safe,
        you_can="correct the cause, then start again" if "round" in words.you_can else words.you_can,
    )


def _fill(words: Explanation, names: Mapping[str, str]) -> Explanation:
    return replace(
        words,
        what=words.what.format_map(names),
        cause=words.cause.format_map(names),
        safe=words.safe.format_map(names),
        you_can=words.you_can.format_map(names),
        they_can=words.they_can.format_map(names),
    )


# What stands for a name that an error does not carry, and in the general explanation of a code.
_UNNAMED = {"round": "the round", "model": "the model is unchanged", "silo": "a silo", "of": ""}
_PLACEHOLDERS = {
    "round": "the round",
    "model": "the model is the one of the round before",
    "silo": "<silo>",
    "silos": "<silos>",
    "have": "<some>",
    "need": "<more>",
    "of": " of <all>",
    "phase": "<phase>",
    "rule": "<rule>",
    "extra": "<extra>",
    "package": "<package>",
}
