"""``[vertical]`` of ``silo.toml``: each floor refuses what undercuts it, and takes what just meets it."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from coordinator.development import write_development_federation
from secagg.errors import EnvironmentFault, ParameterError, PolicyRefused, SecaggError, exit_code
from secagg.vertical.linear.terms import MOST_STEPS
from silo.checks import findings
from silo.config import SiloConfig
from silo.vertical import running
from silo.vertical.job_file import LEARNING, SplitTable, TreesTable, VerticalJob
from silo.vertical.policy import VerticalPolicy

SILOS = ("bank", "insurer", "shop")
FEATURE, LABEL = SILOS[:2]


def job(**said: Any) -> VerticalJob:
    """Return a job of all silos; ``said`` of it, boosted trees if nothing else."""
    method: dict[str, Any] = {} if set(said) & set(LEARNING) else {"trees": {}}
    given = {"kind": "vertical", "name": "churn", "parties": SILOS, "label_party": LABEL}
    return VerticalJob.model_validate(given | method | said)


def refusal(policy: VerticalPolicy, asked: VerticalJob, silo: str = FEATURE) -> str:
    """Return by which rule a job is refused, or nothing."""
    try:
        policy.check(asked, silo)
    except PolicyRefused as refused:
        return refused.rule
    return ""


OPEN = {"link": "open"}
NUMBERS = [
    # rule, way of learning, key, what just meets the floor that is there without a word, what undercuts it
    ("min_child_rows", "trees", "min_child_rows", 20, 19),
    ("max_bins", "trees", "bins", 32, 33),
    ("min_label_flip", "split", "label_flip", 0.47, 0.4699),
    ("max_rounds", "split", "rounds", 5, 6),
    ("min_embedding_noise", "split", "embedding_noise", 0.075, 0.0749),
    ("min_gradient_noise", "split", "gradient_noise", 1.0, 0.999),
]
WORDS = [
    ("learning", {"trees": {}}, {"learning": ["split", "linear"]}, {"learning": ["trees"]}),
    ("links", {"logistic": OPEN}, {}, {"links": ["open"]}),
    ("links", {"logistic": {}}, {"links": ["open"]}, {"links": ["poly"]}),
    (
        "max_steps",
        {"logistic": OPEN | {"steps": 101}},
        {"links": ["open"]},
        {"links": ["open"], "max_steps": 101},
    ),
    ("scores_to", {"prediction": {"to": "shop"}}, {}, {"scores_to": ["shop"]}),
]


@pytest.mark.parametrize("method", LEARNING)
def test_a_job_of_defaults_passes_where_nothing_is_said(method: str) -> None:
    for silo in SILOS:
        VerticalPolicy().check(job(**{method: {}}), silo)


def test_every_key_of_the_table_is_tried_below() -> None:
    assert {row[0] for row in NUMBERS} | {row[0] for row in WORDS} == set(VerticalPolicy.model_fields)


@pytest.mark.parametrize("silo", SILOS)
@pytest.mark.parametrize(("rule", "method", "key", "meets", "undercuts"), NUMBERS)
def test_a_number_that_undercuts_the_default_is_refused_until_the_floor_is_moved(
    rule: str, method: str, key: str, meets: float, undercuts: float, silo: str
) -> None:
    weak = job(**{method: {key: undercuts}})
    assert refusal(VerticalPolicy(), job(**{method: {key: meets}}), silo) == ""
    assert refusal(VerticalPolicy(), weak, silo) == rule
    assert refusal(VerticalPolicy.model_validate({rule: undercuts}), weak, silo) == ""
    with pytest.raises(PolicyRefused) as caught:
        VerticalPolicy().check(weak, silo)
    assert f"[{method}] {key} = {undercuts}," in str(caught.value)
    assert f"[vertical] of silo.toml has {rule} = {meets};" in str(caught.value)


@pytest.mark.parametrize(("rule", "asked", "here", "moved"), WORDS)
def test_what_is_not_listed_is_refused_until_it_is(
    rule: str, asked: dict[str, Any], here: dict[str, Any], moved: dict[str, Any]
) -> None:
    assert refusal(VerticalPolicy.model_validate(here), job(**asked)) == rule
    assert refusal(VerticalPolicy.model_validate(moved), job(**asked)) == ""


@given(
    floor=st.integers(1, 500),
    cap=st.integers(2, 256),
    asked=st.builds(TreesTable, min_child_rows=st.integers(1, 500), bins=st.integers(2, 256)),
)
def test_trees_pass_exactly_where_both_hold(floor: int, cap: int, asked: TreesTable) -> None:
    policy = VerticalPolicy(min_child_rows=floor, max_bins=cap)
    passes = asked.min_child_rows >= floor and asked.bins <= cap
    assert (refusal(policy, job(trees=asked.model_dump())) == "") is passes


NOISE = st.floats(0.01, 10)


@given(
    floors=st.tuples(st.floats(0, 0.49), st.integers(1, 50), NOISE, NOISE),
    asked=st.tuples(st.floats(0.01, 0.49), st.integers(1, 50), NOISE, NOISE, st.floats(0.01, 100)),
)
def test_a_split_network_passes_exactly_where_all_hold_whatever_it_clips(
    floors: tuple[float, int, float, float], asked: tuple[float, int, float, float, float]
) -> None:
    keys = ("min_label_flip", "max_rounds", "min_embedding_noise", "min_gradient_noise")
    flip, rounds, embedding, gradient, clip = asked
    split = SplitTable(
        label_flip=flip,
        rounds=rounds,
        embedding_noise=embedding,
        gradient_noise=gradient,
        embedding_clip=clip,
        gradient_clip=clip,
    )
    passes = flip >= floors[0] and rounds <= floors[1] and embedding >= floors[2] and gradient >= floors[3]
    policy = VerticalPolicy.model_validate(dict(zip(keys, floors, strict=True)))
    assert (refusal(policy, job(split=split.model_dump())) == "") is passes


def test_steps_are_limited_where_the_link_is_open_alone() -> None:
    few = VerticalPolicy(links=frozenset({"open", "poly"}), max_steps=5)
    assert refusal(few, job(logistic=OPEN | {"steps": 5})) == ""
    assert refusal(few, job(logistic=OPEN | {"steps": 6})) == "max_steps"
    assert refusal(few, job(logistic={"steps": MOST_STEPS, "link": "poly"})) == ""
    assert refusal(few, job(linear={"steps": MOST_STEPS})) == ""


def test_a_silo_may_learn_scores_at_itself_and_the_label_party_everywhere() -> None:
    asked = job(prediction={"to": FEATURE})
    assert refusal(VerticalPolicy(), asked, FEATURE) == ""
    for other in (LABEL, "shop"):
        assert refusal(VerticalPolicy(), asked, other) == "scores_to"
        assert refusal(VerticalPolicy(scores_to=frozenset({FEATURE})), asked, other) == ""
        assert refusal(VerticalPolicy(), job(prediction={"to": LABEL}), other) == ""


# --- the file and the commands ------------------------------------------------------------------------------


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    """The bank's file; it lets the others look for shared records."""
    write_development_federation(tmp_path / "federation", SILOS)
    path = tmp_path / "federation" / "silos" / "bank" / "silo.toml"
    write(path, '[intersections]\npartners = ["insurer", "shop"]\n')
    return path


def write(toml: Path, table: str) -> None:
    text = toml.read_text(encoding="utf-8")
    toml.write_text(text.replace("[data]\n", f"{table}\n[data]\n", 1), encoding="utf-8")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("label_flip = 0.3", r"label_flip is no key of \[vertical\]; did you mean min_label_flip\?"),
        ("min_label_flip = 0.5", "vertical.min_label_flip is 0.5, must be below 0.5"),
        ("min_label_flip = -0.1", "vertical.min_label_flip is -0.1, must be at least 0"),
        ("min_embedding_noise = nan", "vertical.min_embedding_noise"),
        ("min_embedding_noise = inf", "vertical.min_embedding_noise must be finite"),
        ("min_gradient_noise = -1", "vertical.min_gradient_noise is -1, must be at least 0"),
        ("min_gradient_noise = true", "vertical.min_gradient_noise is true, must be a number"),
        ("min_child_rows = 0", "vertical.min_child_rows is 0, must be at least 1"),
        ("min_child_rows = 1.5", "vertical.min_child_rows is 1.5, must be a whole number"),
        ("max_bins = 1", "vertical.max_bins is 1, must be at least 2"),
        ("max_rounds = 0", "vertical.max_rounds is 0, must be at least 1"),
        ("max_steps = 0", "vertical.max_steps is 0, must be at least 1"),
        ('learning = ["forest"]', "vertical.learning.* must be one of logistic, linear, trees, split"),
        ('learning = "trees"', r"vertical.learning must be a list: \[...\]"),
        ('links = ["closed"]', "vertical.links.* must be one of open, poly"),
        ('scores_to = ["a b"]', "vertical.scores_to.*silo name 'a b'"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(toml: Path, line: str, text: str) -> None:
    write(toml, f"[vertical]\n{line}\n")
    with pytest.raises(ParameterError, match=text):
        SiloConfig.load(toml)


def typed(toml: Path, verb: str) -> SecaggError:
    """Type a command about trees with few rows in a node; return how it ends: the table is not there."""
    here = toml.parent
    (here / "job.toml").write_text(
        'kind = "vertical"\nname = "churn"\nparties = ["bank", "insurer"]\nlabel_party = "insurer"\n'
        "[trees]\nmin_child_rows = 5\n",
        encoding="utf-8",
    )
    asked = running.Asked(
        job=here / "job.toml",
        config=toml,
        data=here / "none.npz",
        query=None,
        ids=("id",),
        again=False,
        wait=1.0,
    )
    options = {"fit": {"label": None, "columns": None}, "predict": {"out": None}}[verb]
    command: Callable[..., None] = getattr(running, verb)
    with pytest.raises(SecaggError) as caught:
        command(asked, Console(file=StringIO()), **options)
    return caught.value


@pytest.mark.parametrize("verb", ["fit", "predict"])
def test_a_command_is_refused_before_the_table_is_read_and_says_what_to_do(toml: Path, verb: str) -> None:
    refused = typed(toml, verb)
    assert isinstance(refused, PolicyRefused)
    assert (refused.rule, exit_code(refused)) == ("min_child_rows", 6)
    (note,) = refused.__notes__
    words = " ".join(note.split())
    assert "SA-6020 this silo takes no part in the vertical job: its rule `min_child_rows` says no" in words
    assert "[trees] min_child_rows = 5, and [vertical] of silo.toml has min_child_rows = 20" in words
    assert "nothing left this silo" in words
    assert "round" not in words
    assert not (SiloConfig.load(toml).state / "vertical").exists()
    write(toml, "[vertical]\nmin_child_rows = 5\n")
    further = {"fit": "none.npz", "predict": "nothing was trained yet"}
    assert further[verb] in str(typed(toml, verb))


def test_silo_check_says_which_floors_are_the_silos_own(toml: Path) -> None:
    def found() -> Any:
        return next(each for each in findings(toml) if each.name == "vertical jobs")

    assert found().text == (
        "with no floors but the defaults of a job file; may be learned: linear, logistic, split, trees"
    )
    write(toml, '[vertical]\nmax_bins = 64\nlearning = ["trees"]\nscores_to = ["shop"]\n')
    assert found().text == "with its own learning, max_bins, scores_to; may be learned: trees"
    toml.write_text(toml.read_text(encoding="utf-8").replace('scores_to = ["shop"]', 'scores_to = ["north"]'))
    assert isinstance(found().error, EnvironmentFault)
    assert "[vertical] scores_to has north, not in the roster" in found().text
