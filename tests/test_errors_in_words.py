"""What a user reads when something goes wrong, word for word, in Python and on the command line.

The texts are part of the product. Each is the note that Python prints under the traceback, and all that the
command prints, with the exit code that stands in its last line.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest
from msgspec import structs

import secagg.sums
import silo
from secagg import Federation, Masking, Plain, cli, secure_mean, secure_sum
from secagg.errors import (
    InputRefused,
    MissingExtra,
    ParameterError,
    PolicyRefused,
    RoundAborted,
    SecaggError,
    SiloLeftOut,
    TooFewSilos,
    TrainerFailed,
    exit_code,
)
from secagg.explanation import explain
from secagg.learning.history import History
from secagg.learning.trainer import Evaluation
from secagg.names import RealVector
from tests.ceremonies import Ceremony
from tests.ceremonies import silo as silo_of_a_ceremony
from tests.learners import NAMES, Line, Spoil, diverges, fails, grows, lines

Action: TypeAlias = Callable[[], object]
LINE = str(fails.__code__.co_firstlineno + 2)
"""Where the trainer that ``fails`` raises."""


def run(
    rounds: int = 1, *, spoiled: dict[str, Spoil] | None = None, dropouts: Any = None, **named: Any
) -> History:
    federation = Federation(lines(4, spoiled), seed=1, **named)
    return federation.run(rounds, progress=False, dropouts=dropouts)


class Unmeasured(Line):
    """A trainer that cannot measure the model it is given."""

    def evaluate(self, weights: RealVector) -> Evaluation:
        raise ValueError("patient 4711")


def vectors(**changed: Any) -> dict[str, Any]:
    return {"a": [0.5], "b": [0.25], "c": [1.0]} | changed


def two(spoil: Spoil) -> dict[str, Spoil]:
    return {"south": spoil, "west": spoil}


TOO_FEW: dict[int, Any] = {2: {"west": "MaskedInput", "east": "Unmasking"}}
ERRORS: dict[str, tuple[type[SecaggError], Action, str]] = {
    "too few silos at construction": (
        ParameterError,
        lambda: Federation(lines(2)),
        """\
x SA-2002  there are too few silos for a sum that hides each of them
  cause    n = 2 silos: at least 3 are needed; with fewer, the sum shows one
           silo the update of another
  safe     yes: nothing left a silo; the model is unchanged
  you can  bring in silos: 3 at the least, 4 or more if a round is to survive a
           lost one
  they can other data holders: join the roster                            exit 2""",
    ),
    "too few silos answer": (
        TooFewSilos,
        lambda: run(3, dropouts=TOO_FEW),
        """\
x SA-4102  round 2 halted: 2 of 4 silos answered, 3 are needed in Unmasking
  cause    east (lost in Unmasking), west (lost in MaskedInput)
  safe     yes: what arrived stays masked or encrypted and no sum was opened;
           the model is the one of round 1
  you can  run again once that is mended; the threshold cannot be lowered inside
           a run
  they can east, west: come back, or correct the cause                    exit 4""",
    ),
    "too few silos answer under Plain": (
        TooFewSilos,
        lambda: run(scheme=Plain(), dropouts={1: dict.fromkeys(NAMES[:4], "MaskedInput")}),
        """\
x SA-4102  round 1 halted: 0 of 4 silos answered, 1 are needed in PlainInput
  cause    east, north, south and west (lost in PlainInput)
  safe     no: under Plain the coordinator reads every update that arrives; the
           model is the one the run began with
  you can  run again once that is mended; the threshold cannot be lowered inside
           a run
  they can east, north, south, west: come back, or correct the cause      exit 4""",
    ),
    "too few silos in a bare sum": (
        TooFewSilos,
        lambda: secure_sum(vectors(), clip=1.0, dropouts={"b": "ShareKeys"}),
        """\
x SA-4102  the round halted: 2 of 3 silos answered, 3 are needed in ShareKeys
  cause    b (lost in ShareKeys)
  safe     yes: what arrived stays masked or encrypted and no sum was opened;
           the model is unchanged
  you can  run again once that is mended; the threshold cannot be lowered inside
           a run
  they can b: come back, or correct the cause                             exit 4""",
    ),
    "trainers that raise": (
        TooFewSilos,
        lambda: run(spoiled=two(fails)),
        """\
x SA-4102  round 1 halted: 2 of 4 silos answered, 3 are needed in Training
  cause    south and west (train() raised ValueError at learners.py:LINE)
  safe     yes: nothing left a silo; the model is the one the run began with
  you can  run again once that is mended; the threshold cannot be lowered inside
           a run
  they can south, west: come back, or correct the cause                   exit 4""".replace("LINE", LINE),
    ),
    "trainers that return NaN": (
        TooFewSilos,
        lambda: run(spoiled=two(diverges)),
        """\
x SA-4102  round 1 halted: 2 of 4 silos answered, 3 are needed in Training
  cause    south and west (entry 2 of 'update' is NaN)
  safe     yes: nothing left a silo; the model is the one the run began with
  you can  run again once that is mended; the threshold cannot be lowered inside
           a run
  they can south, west: come back, or correct the cause                   exit 4""",
    ),
    "models whose shapes change": (
        TooFewSilos,
        lambda: run(spoiled=two(grows)),
        """\
x SA-4102  round 1 halted: 2 of 4 silos answered, 3 are needed in Training
  cause    south and west (train() returned weights of shape (6,), the global
           model has (5,))
  safe     yes: nothing left a silo; the model is the one the run began with
  you can  run again once that is mended; the threshold cannot be lowered inside
           a run
  they can south, west: come back, or correct the cause                   exit 4""",
    ),
    "colluders": (
        ParameterError,
        lambda: Federation(lines(4), scheme=Masking(colluders=3)),
        """\
x SA-2003  the number of colluding silos c is out of its range
  cause    c = 3 colluders: must be 1 to n - 2 = 2
  safe     yes: nothing left a silo; the model is unchanged
  you can  leave `colluders` out, which takes max(1, floor((n - 1) / 3)), or
           choose 1 to n - 2
  they can other data holders: join the roster, so that a larger c is possible
                                                                          exit 2""",
    ),
    "threshold": (
        ParameterError,
        lambda: secure_sum(vectors(), scheme=Masking(threshold=4), clip=1.0),
        """\
x SA-2004  the threshold t is out of its range
  cause    t = 4: must be 3 to 3 for n = 3 and c = 1 (2t > n + c)
  safe     yes: nothing left a silo; the model is unchanged
  you can  leave `threshold` out, which takes floor((n + c) / 2) + 1, the least
           that is safe
  they can nothing: no other party is involved                            exit 2""",
    ),
    "precision": (
        ParameterError,
        lambda: Federation(lines(4), clip=1e9),
        """\
x SA-2006  these numbers do not fit the words they are summed in
  cause    with 64 bits the mean may be off by 0.000896: raise
           least_total_weight, lower clip or weight_cap, or loosen precision
           0.0001
  safe     yes: nothing left a silo; the model is unchanged
  you can  change what the text names; 64-bit words have the most room
  they can nothing: no other party is involved                            exit 2""",
    ),
    "NaN in a bare sum": (
        InputRefused,
        lambda: secure_sum(vectors(b=[np.nan]), clip=1.0),
        """\
x SA-2201  b: its input holds NaN
  cause    b: entry 0 of 'sum' is NaN
  safe     yes: nothing left a silo; the model is unchanged
  you can  hand in finite numbers; where training made them, lower its rate or
           clip its gradients
  they can b: look for missing values in the data, and at the loss of the
           trainer run alone                                              exit 2""",
    ),
    "shapes in a bare mean": (
        InputRefused,
        lambda: secure_mean(vectors(c=[1.0, 2.0]), weights=dict.fromkeys("abc", 1.0), clip=1.0),
        """\
x SA-2204  c: its vector has another shape than was agreed
  cause    c: the vector has shape (2,); all need one 1-D shape
  safe     yes: nothing left a silo; the model is unchanged
  you can  hand in one shape at all silos; a model's layers stay as they are
           while it trains
  they can c: compare its shapes with those of the other silos            exit 2""",
    ),
    "trainers that fail before the first round": (
        TrainerFailed,
        lambda: Federation({name: Unmeasured() for name in NAMES[:4]}, seed=1).run(1, progress=False),
        """\
x SA-2301  north: its trainer raised an error
  cause    north: evaluate() raised ValueError at test_errors_in_words.py:LINE
  safe     yes: nothing left a silo; the model is unchanged
  you can  correct the cause, then start again
  they can north: look where the text says; the error's `original` has the whole
           traceback                                                      exit 2""".replace(
            "LINE", str(Unmeasured.evaluate.__code__.co_firstlineno + 1)
        ),
    ),
    "no weight in a bare mean": (
        RoundAborted,
        lambda: secure_mean(vectors(), weights=dict.fromkeys("abc", 0.0), clip=1.0),
        """\
x SA-4101  the round halted: the sum cannot be formed
  cause    the total weight is zero: no silo in the sum trained on a single
           example
  safe     yes: no average was made; the model is unchanged
  you can  correct what the text names, or start again: a new attempt takes new
           keys
  they can all silos: stay connected until the round is finished          exit 4""",
    ),
}
each_error = pytest.mark.parametrize(("kind", "action", "text"), ERRORS.values(), ids=ERRORS)


KEY = Ceremony()
KEY_ID = KEY.run().document.key.hex()[:16]


def requested(**changes: Any) -> None:
    """Ask a silo to take part in making a key."""
    asked: Any = Ceremony().inbox["a"]
    silo_of_a_ceremony("a").receive(structs.replace(asked, **changes))


REFUSED_KEYS: dict[str, tuple[Action, str]] = {
    "a key that is past its lifetime": (
        lambda: KEY.keyring("a").held(KEY.held("a").document.key, scheme=None, now=2**36),
        f"""\
x SA-6012  a refused round 2: the key that it names cannot be used there
  cause    key: key {KEY_ID} is past its lifetime: make a new one that
           replaces it
  safe     yes: nothing of this round left a; the model is the one of round 1
  you can  make a key of all silos and begin again: coordinator key make
           --scheme ...
  they can a: look at silo key list; a lost key comes from a peer, but for a
           share of one                                                   exit 6""",
    ),
    "a maker that is a stranger": (
        lambda: requested(maker="z"),
        """\
x SA-6013  a refused a key ceremony: its maker is not in the roster pinned there
  cause    maker: z, who is to make the key, is not in the roster
  safe     yes: nothing of this round left a; the model is the one of round 1
  you can  name a silo of the roster as the maker: coordinator key make --maker
           ...
  they can a: nothing, its check is right; compare rosters if the maker should
           be in it                                                       exit 6""",
    ),
}


@pytest.mark.parametrize(("action", "text"), REFUSED_KEYS.values(), ids=REFUSED_KEYS)
def test_a_key_that_a_silo_refuses_is_explained(action: Action, text: str) -> None:
    error = raised(PolicyRefused, action)
    assert explain(error, round_number=2, silo="a").text() == text


def raised(kind: type[SecaggError], action: Action) -> SecaggError:
    with pytest.raises(kind) as caught:
        action()
    return caught.value


@each_error
def test_the_text_stands_once_under_the_error(kind: type[SecaggError], action: Action, text: str) -> None:
    error = raised(kind, action)
    assert error.__notes__ == [text]
    assert "".join(traceback.format_exception(error)).endswith(f": {error}\n{text}\n")


@each_error
def test_the_command_prints_the_text_and_exits_with_its_code(
    kind: type[SecaggError],
    action: Action,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = raised(kind, action)

    def raises(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(secagg.sums, "secure_sum", raises)
    monkeypatch.setattr(sys, "argv", ["secagg", "demo", "--length", "8"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == exit_code(error) == int(text[-1])
    assert capsys.readouterr() == ("", f"{text}\n")


SILO_CAUSES: dict[str, tuple[Spoil, type[SecaggError], str]] = {
    "raises": (
        fails,
        TrainerFailed,
        """\
x SA-2301  south left round 1: its trainer raised an error
  cause    south: train() raised ValueError at learners.py:LINE
  safe     yes: nothing of this round left south; the model is the one the run
           began with
  you can  go on: the round finishes without south while enough silos remain
  they can south: look where the text says; the error's `original` has the whole
           traceback                                                      exit 2""".replace("LINE", LINE),
    ),
    "returns NaN": (
        diverges,
        InputRefused,
        """\
x SA-2201  south left round 1: its input holds NaN
  cause    south: entry 2 of 'update' is NaN
  safe     yes: nothing of this round left south; the model is the one the run
           began with
  you can  hand in finite numbers; where training made them, lower its rate or
           clip its gradients
  they can south: look for missing values in the data, and at the loss of the
           trainer run alone                                              exit 2""",
    ),
    "changes its shapes": (
        grows,
        InputRefused,
        """\
x SA-2204  south left round 1: its vector has another shape than was agreed
  cause    south: train() returned weights of shape (6,), the global model has
           (5,)
  safe     yes: nothing of this round left south; the model is the one the run
           began with
  you can  hand in one shape at all silos; a model's layers stay as they are
           while it trains
  they can south: compare its shapes with those of the other silos        exit 2""",
    ),
}
each_cause = pytest.mark.parametrize(("spoil", "kind", "text"), SILO_CAUSES.values(), ids=SILO_CAUSES)


@each_cause
def test_a_halted_run_is_chained_to_the_first_silos_own_account(
    spoil: Spoil, kind: type[SecaggError], text: str
) -> None:
    cause = raised(TooFewSilos, lambda: run(spoiled=two(spoil))).__cause__
    assert isinstance(cause, kind)
    assert cause.__notes__ == [text]


@each_cause
def test_a_run_that_goes_on_warns_in_the_same_words(spoil: Spoil, kind: type[SecaggError], text: str) -> None:
    with pytest.warns(SiloLeftOut) as caught:
        run(spoiled={"south": spoil})
    # The round was opened, so unlike in a halted run its model is a new one.
    halted = "the model is the one the run\n           began with"
    opened = "the round was opened from the\n           other silos"
    # And nothing exits.
    assert text.endswith(" exit 2")
    body = text.removesuffix("exit 2").rstrip().replace(halted, opened)
    assert halted in text
    (warning,) = caught
    assert str(warning.message) == f"round 1 went on without south\n{body}"
    assert isinstance(warning.message, SiloLeftOut)
    assert isinstance(warning.message.error, kind)


@each_cause
def test_what_a_script_prints_begins_with_our_words(spoil: Spoil, kind: type[SecaggError], text: str) -> None:
    error = raised(TooFewSilos, lambda: run(spoiled=two(spoil)))
    printed = "".join(traceback.format_exception(error))
    assert printed.startswith(f"secagg.errors.{kind.__name__}: {error.__cause__}\n{text}\n")


def test_nothing_printed_quotes_what_a_trainer_said_and_its_traceback_is_at_hand() -> None:
    error = raised(TooFewSilos, lambda: run(spoiled=two(fails)))
    assert "4711" not in "".join(traceback.format_exception(error))
    assert isinstance(error.__cause__, TrainerFailed)
    original = error.__cause__.original
    assert original is not None
    assert str(original) == "patient 4711"
    assert traceback.extract_tb(original.__traceback__)[-1].name == "fails"


def test_a_missing_extra_of_a_trainer_is_one_command_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "silo.torch_trainer", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    error = raised(MissingExtra, lambda: silo.TorchTrainer)
    assert str(error) == "torch is not installed. Type: pip install 'secagg[torch]'"
    assert error.__notes__ == [
        """\
x SA-3101  torch is needed for this and is not installed
  cause    torch is not installed. Type: pip install 'secagg[torch]'
  safe     yes: nothing left a silo; the model is unchanged
  you can  pip install 'secagg[torch]'
  they can nothing: no other party is involved                            exit 3"""
    ]


def test_a_missing_extra_of_a_plot_leaves_the_run_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    history = run()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    error = raised(MissingExtra, lambda: history.plot("loss"))
    assert error.__notes__[0].splitlines()[3] == "  you can  pip install 'secagg[plot]'"
    assert history.final_metrics["loss"] > 0
