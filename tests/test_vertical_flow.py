"""The flow of a vertical job with all parties in one process: what is kept, refused, and gone on with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression as PooledRegression

from secagg.conversation import Side, hear, say, together
from secagg.errors import FaultySilo, InputRefused, ParameterError, PolicyRefused
from secagg.hazmat.framing import digest
from secagg.messages import Part
from secagg.names import SiloId
from secagg.psi.agreement import finished
from secagg.psi.draws import Seeded
from secagg.psi.identifiers import read_identifiers
from secagg.psi.outcome import Outcome
from secagg.psi.powers import Powers
from secagg.psi.queries import QueryLimits
from secagg.psi.receiver import ReceiverSession
from secagg.psi.sender import SenderSession
from secagg.psi.sides import receiving, sending
from secagg.psi.terms import IntersectionPolicy, IntersectionTerms
from secagg.vertical.checkpoints import Checkpoints, agreed_step
from secagg.vertical.report import Report, Seen
from silo.config import Intersections, SiloConfig
from silo.psi.queries import QueryFile
from silo.storage import StateFault
from silo.vertical.flow import Flow
from silo.vertical.job_file import VerticalJob
from silo.vertical.learner import Fitted, Own, Predicted, Trained
from silo.vertical.methods import learner_of
from silo.vertical.shared import Intersection
from silo.vertical.store import FileCheckpoints, Files
from silo.vertical.table import OwnTable
from silo.vertical.work import Aligned, Work

PARTIES = ("bank", "insurer")
STEPS = 4
IDS: Mapping[SiloId, list[str]] = {"bank": ["a", "b", "c", "d", "e"], "insurer": ["C", "x", "a", "e", "B"]}


class Total(Part, frozen=True, tag=True):
    """A number that grows from step to step."""

    value: float


class Growing:
    """Learns a number to which both parties add at each step; it shows all, and is for tests alone."""

    def fit(self, own: Own, checkpoints: Checkpoints) -> Side[Fitted]:
        (other,) = own.others
        step, state = yield from agreed_step(own.alignment, own.others, checkpoints)
        reached = 0.0 if state is None else msgspec.json.decode(state, type=float)
        while step < STEPS:
            step += 1
            yield from say(other, Total(float(own.X.sum()) + reached))
            theirs = yield from hear(other, Total)
            reached = reached / 2 + theirs.value
            checkpoints.save(step, msgspec.json.encode(reached))
        return Fitted(
            part=msgspec.json.encode(reached), report=Report("growing", (Seen(party=other, what="all"),))
        )

    def predict(self, part: bytes, trained: Trained, own: Own, to: SiloId) -> Side[Predicted]:
        (other,) = own.others
        yield from say(other, Total(float(own.X.sum())))
        theirs = yield from hear(other, Total)
        scores = own.X[:, 0] + theirs.value if own.name == to else None
        return Predicted(scores=scores, report=Report("grown", ()))

    def shown(self, part: bytes, columns: tuple[str, ...]) -> dict[str, Any]:
        return {"reached": msgspec.json.decode(part)}


class Killed(Exception):
    """All processes end here."""


def job(**changed: Any) -> VerticalJob:
    return VerticalJob.model_validate(
        {"kind": "vertical", "name": "growing", "parties": PARTIES, "label_party": "insurer", "trees": {}}
        | changed
    )


def table(ids: Iterable[str], **changed: Any) -> OwnTable:
    known = read_identifiers(ids)
    columns = np.arange(2.0 * known.counts.given).reshape(-1, 2) ** 2
    given: dict[str, Any] = {"X": columns, "columns": ("p", "q"), "y": None, "identifiers": known}
    return OwnTable(**given | changed)


@dataclass
class World:
    """Two parties, each with a folder of its own."""

    folder: Path
    seeds: dict[SiloId, bytes]
    intersections: int = 0

    def flow(self, name: SiloId, asked: VerticalJob | None = None, **changed: Any) -> Flow:
        work = Work(self.folder / name)
        own = changed.pop("table", None) or table(IDS[name])
        asked = asked or job()
        work.begin(asked.digest, own, random=bytes)
        return Flow(
            silo=name,
            job=asked,
            learner=Growing(),
            table=own,
            work=work,
            intersecting=lambda keep: self._intersecting(name, own, keep),
            told=lambda *_: None,
        )

    def fits(self) -> dict[SiloId, Side[Report]]:
        return {name: self.flow(name).fit() for name in PARTIES}

    def _intersecting(self, name: SiloId, own: OwnTable, keep: Callable[[Outcome], None]) -> Side[None]:
        self.intersections += 1
        (self.folder / name / "intersection").mkdir(exist_ok=True)
        session = digest("test session", *self.seeds.values())  # As nonces of both make one.
        terms = IntersectionTerms(session=session, receiver="bank", sender="insurer")
        named: dict[str, Any] = {
            "policy": IntersectionPolicy(),
            "powers": Powers(cores=1),
            "draws": Seeded(self.seeds[name]),
        }
        if name == "bank":
            found = yield from receiving(ReceiverSession(terms, own.identifiers, **named))
        else:
            found = yield from sending(SenderSession(terms, own.identifiers, **named))
        keep(found)
        yield from finished([party for party in PARTIES if party != name])

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }


@pytest.fixture
def world(tmp_path: Path) -> World:
    return another(tmp_path / "world")


def another(folder: Path) -> World:
    return World(folder, {name: bytes([at]) * 32 for at, name in enumerate(PARTIES)})


def killed_at(frames: int) -> Any:
    left = iter(range(frames))

    def watch(*_: object) -> None:
        if next(left, None) is None:
            raise Killed

    return watch


def test_killed_at_any_message_it_goes_on_to_the_same_files(tmp_path: Path) -> None:
    undisturbed = another(tmp_path / "undisturbed")
    frames = 0

    def count(*_: object) -> None:
        nonlocal frames
        frames += 1

    together(undisturbed.fits(), watch=count)
    for at in range(frames):
        world = another(tmp_path / str(at))
        with pytest.raises(Killed):
            together(world.fits(), watch=killed_at(at))
        together(world.fits())
        assert world.files() == undisturbed.files(), at


def test_a_resumed_training_finds_shared_records_no_more(world: World) -> None:
    with pytest.raises(Killed):  # Behind the intersection's last message and the first two of training.
        together(world.fits(), watch=killed_at(10))
    assert world.intersections == 2
    together(world.fits())
    assert world.intersections == 2


def test_one_that_lost_the_shared_records_asks_no_second_time(world: World) -> None:
    together(world.fits())
    (world.folder / "bank" / "alignment").unlink()
    with pytest.raises(FaultySilo, match="bank: it began anew"):
        together(world.fits())
    assert world.intersections == 2


def test_one_that_began_anew_is_named(world: World) -> None:
    together(world.fits())
    Files(world.folder / "bank").forget()
    world.seeds["bank"] = os.urandom(32)
    with pytest.raises(FaultySilo, match="bank: it began anew") as caught:
        together(world.fits())
    assert caught.value.silo == "bank"
    Files(world.folder / "bank").forget()
    Files(world.folder / "insurer").forget()
    together(world.fits())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"label_party": "bank"}, "it has another job file"),
        ({"alignment": {"smallest": 2}}, "it has another job file"),
    ],
)
def test_a_partner_with_another_job_is_named(world: World, changed: dict[str, Any], said: str) -> None:
    sides = {"bank": world.flow("bank", job(**changed)).fit(), "insurer": world.flow("insurer").fit()}
    with pytest.raises(FaultySilo, match=said):
        together(sides)


def test_a_partner_that_typed_another_command_is_named(world: World) -> None:
    together(world.fits())
    flow = world.flow("bank")
    part = flow.work.part
    assert part is not None
    sides: dict[SiloId, Side[Report]] = {
        "bank": flow.predict(part, lambda *_: None),
        "insurer": world.flow("insurer").fit(),
    }
    with pytest.raises(FaultySilo, match="it typed `silo vertical"):
        together(sides)


def predictions(world: World, fits: Mapping[SiloId, bytes] | None = None) -> dict[str, Any]:
    written: dict[str, Any] = {}

    def write(rows: Any, scores: Any) -> None:
        written.update(rows=rows.tolist(), scores=scores.tolist())

    sides = {}
    for name in PARTIES:
        part = Work(world.folder / name).part
        assert part is not None
        if fits is not None:
            part = msgspec.structs.replace(part, fit=fits[name])
        flow = world.flow(name)
        new = Flow(
            silo=name,
            job=flow.job,
            learner=flow.learner,
            table=flow.table,
            work=Work(world.folder / f"{name}-predict"),
            intersecting=flow.intersecting,
            told=flow.told,
        )
        sides[name] = new.predict(part, write)
    together(sides)
    return written


def test_scores_go_to_the_agreed_party_by_its_own_rows(world: World) -> None:
    together(world.fits())
    written = predictions(world)
    assert written["rows"] == [0, 2, 3, 4]  # C, a, e and B of the insurer.
    assert len(written["scores"]) == 4
    assert not (world.folder / "bank-predict" / "scores").exists()


def test_parts_of_two_fits_are_not_put_together(world: World) -> None:
    together(world.fits())
    with pytest.raises(FaultySilo, match="of another fit"):
        predictions(world, {"bank": bytes(32), "insurer": bytes([1]) * 32})


def test_nothing_shared_is_said(world: World) -> None:
    sides = {
        "bank": world.flow("bank", table=table(["q", "r"])).fit(),
        "insurer": world.flow("insurer").fit(),
    }
    with pytest.raises(InputRefused, match="no record is at every party"):
        together(sides)


def test_what_was_begun_with_may_be_corrected_until_shared_records_are_kept(world: World) -> None:
    undisturbed = another(world.folder.parent / "undisturbed")
    together(undisturbed.fits())
    wrong = table(IDS["bank"], columns=("q", "p"))
    world.flow("bank", table=wrong)  # Nobody came.
    sides = {
        "bank": world.flow("bank", job(label_party="bank")).fit(),
        "insurer": world.flow("insurer").fit(),
    }
    with pytest.raises(FaultySilo, match="it has another job file"):
        together(sides)
    with pytest.raises(Killed):  # In the intersection: of the other columns nothing was said.
        together(
            {"bank": world.flow("bank", table=wrong).fit(), "insurer": world.flow("insurer").fit()},
            watch=killed_at(4),
        )
    assert world.flow("bank").work.alignment is None
    assert world.flow("bank").work.intersection_is_open
    together(world.fits())
    assert world.files() == undisturbed.files()


def test_another_table_or_job_is_not_taken_for_the_one_that_was_begun_with(world: World) -> None:
    with pytest.raises(Killed):
        together(world.fits(), watch=killed_at(10))
    assert world.flow("bank").work.alignment is not None
    other = table(IDS["bank"])
    changed = other.X.copy()
    changed[3, 1] += 1e-9
    for wrong in (
        table(IDS["bank"], X=changed),
        table(reversed(IDS["bank"])),
        table(IDS["bank"], y=np.zeros(5)),
        table(IDS["bank"], columns=("q", "p")),
    ):
        with pytest.raises(InputRefused, match="something else than when this was begun"):
            world.flow("bank", table=wrong)
    with pytest.raises(ParameterError, match="the job file says something else"):
        world.flow("bank", job(label_party="bank"))


# --- files --------------------------------------------------------------------------------------------------


def test_files_are_their_owners_alone_and_damage_is_seen(tmp_path: Path) -> None:
    files = Files(tmp_path / "work")
    assert files.read("part") is None
    files.keep("part", b"secret")
    files.keep("part", b"other")
    path = tmp_path / "work" / "part"
    assert files.read("part") == b"other"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    for damaged in (path.read_bytes()[:-1], b"", path.read_bytes() + b"x"):
        path.write_bytes(damaged)
        with pytest.raises(StateFault, match="is damaged"):
            files.read("part")
    files.forget()
    assert files.read("part") is None


def test_an_old_file_stays_where_a_new_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files(tmp_path / "work")
    files.keep("part", b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(StateFault, match=r"the disk of .* is full"):
        files.keep("part", b"new")
    assert files.read("part") == b"old"
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["part"]


def test_the_last_two_steps_are_kept(tmp_path: Path) -> None:
    checkpoints = FileCheckpoints(tmp_path / "steps")
    assert checkpoints.load() == {}
    for step in range(1, 5):
        checkpoints.save(step, bytes([step]))
    assert FileCheckpoints(tmp_path / "steps").load() == {3: b"\x03", 4: b"\x04"}
    checkpoints.save(4, b"again")
    assert checkpoints.load() == {3: b"\x03", 4: b"again"}
    checkpoints.save(2, b"back")
    assert checkpoints.load() == {2: b"back"}


def test_what_a_crash_left_of_older_steps_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = FileCheckpoints(tmp_path / "steps")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda *_, **__: None)
        for step in range(1, 4):
            checkpoints.save(step, bytes([step]))
    assert len(list((tmp_path / "steps").iterdir())) == 3
    assert FileCheckpoints(tmp_path / "steps").load() == {2: b"\x02", 3: b"\x03"}
    checkpoints.save(4, b"\x04")
    assert sorted(path.name for path in (tmp_path / "steps").iterdir()) == ["3", "4"]


def test_what_another_version_kept_is_refused(tmp_path: Path) -> None:
    work = Work(tmp_path)
    work.files.keep("alignment", b"\x81\xa1a\x01")
    with pytest.raises(StateFault, match="of another version"):
        _ = work.alignment
    assert repr(Aligned(b"12345678", bytes(32))) == "Aligned()"


# --- three parties, with the real parts ---------------------------------------------------------------------

THREE = ("bank", "insurer", "shop")


def three(folder: Path, asked: VerticalJob, **limits: Any) -> dict[SiloId, Flow]:
    """Return the flows of three parties that share 62 of 80 records; labels follow from all columns."""
    random = np.random.default_rng(3)
    columns = {name: random.normal(size=(80, 2)) for name in THREE}
    odds = sum(each @ [1.0, -1.0] for each in columns.values())
    labels = (odds > random.logistic(size=80)).astype(float)
    flows = {}
    for at, name in enumerate(THREE):
        own = random.permutation(np.setdiff1d(np.arange(80), np.arange(at * 7, at * 7 + 6)))
        table_ = OwnTable(
            X=columns[name][own],
            columns=(f"{name} 0", f"{name} 1"),
            y=labels[own] if name == "insurer" else None,
            identifiers=read_identifiers(own.tolist()),
        )
        config = SiloConfig.model_construct(
            name=name,
            state=folder / name,
            ledger=None,
            intersections=Intersections(partners=frozenset(THREE) - {name}, **limits),
        )
        work = Work(folder / name / "fit")
        work.begin(asked.digest, table_)
        flows[name] = Flow(
            silo=name,
            job=asked,
            learner=learner_of(asked),
            table=table_,
            work=work,
            intersecting=Intersection(
                config=config,
                job=asked,
                table=table_,
                parts=1,
                folder=work.session,
                source=Path("own.csv"),
                progress=lambda _: None,
            ).side,
            told=lambda *_: None,
        )
    return flows


def test_three_parties_train_what_pooled_data_do(tmp_path: Path) -> None:
    asked = job(parties=THREE, trees=None, logistic={"link": "open"})
    flows = three(tmp_path, asked)
    reports = together({name: flow.fit() for name, flow in flows.items()})
    places = {name: flow.work.alignment for name, flow in flows.items()}
    rows = {name: aligned.places for name, aligned in places.items() if aligned is not None}
    assert {len(each) for each in rows.values()} == {80 - 3 * 6}
    labels = flows["insurer"].table.y
    assert labels is not None
    pooled = PooledRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(
        np.hstack([flows[name].table.X[rows[name]] for name in THREE]), labels[rows["insurer"]]
    )
    joint = []
    for name, flow in flows.items():
        part = flow.work.part
        assert part is not None
        joint += flow.learner.shown(part.part, part.columns)["coefficients"].values()
        assert reports[name].of(name)[0].what.startswith("which of its own records are shared with")
        assert not flow.work.session.exists()
    np.testing.assert_allclose(joint, pooled.coef_[0], atol=1e-4)


@pytest.mark.parametrize(
    ("alignment", "limits"),
    [
        ({"smallest": 63}, {}),
        ({}, {"smallest_intersection": 63}),
        ({}, {"largest_set": 5}),
        ({}, {"queries": 5}),
    ],
)
def test_the_limits_of_the_job_and_of_a_silo_hold(
    tmp_path: Path, alignment: dict[str, int], limits: dict[str, int]
) -> None:
    asked = job(parties=THREE, alignment=alignment)
    if "queries" in limits:  # What was counted before counts here too.
        QueryFile(tmp_path / "bank" / "ledger", QueryLimits(queries=64)).count(bytes(32), "insurer", 64)
        limits = {"queries": 64}
    flows = three(tmp_path, asked, **limits)
    with pytest.raises(PolicyRefused):
        together({name: flow.fit() for name, flow in flows.items()})
    assert all(flow.work.alignment is None for flow in flows.values())
