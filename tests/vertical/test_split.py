"""A split network: it learns, goes on where it was, says nothing that it should not, and names who left.

The networks are in NumPy; ``test_split_torch`` has those of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secagg import wire
from secagg.conversation import Send, Side, together
from secagg.errors import (
    EnvironmentFault,
    FaultySilo,
    InputRefused,
    ParameterError,
    UsageError,
)
from secagg.payload import Frame, Payload
from secagg.vertical import SplitNetwork, SplitSettings, align
from secagg.vertical.alignment import Alignment
from secagg.vertical.checkpoints import Checkpoints, InMemory, Standing
from secagg.vertical.party import Party
from secagg.vertical.split import training
from secagg.vertical.split.cut import Cut
from secagg.vertical.split.messages import Embeddings, Gradients, TopShared
from secagg.vertical.split.parts import SplitPart
from secagg.vertical.split.prediction import prediction_side
from secagg.vertical.split.settings import PredictionTerms, SplitTerms
from secagg.vertical.split.training import feature_side, label_side
from tests.vertical.split_networks import (
    NAMES,
    Layers,
    Small,
    aligned,
    auc,
    fixed,
    pooled_auc,
    split_task,
)

FEW = SplitSettings(width=3, rounds=3, passes=2, batch=16)
TINY = Small(hidden=5)
COUNT = 50


def clouds(parties: int, *, seed: int = 0, labels: bool = True) -> Alignment:
    """Return records of two kinds, of which each party has three columns."""
    generator = np.random.default_rng(seed)
    truth = np.arange(COUNT) % 2.0
    parts = [generator.normal(size=(COUNT, 3)) + truth[:, None] for _ in range(parties)]
    return aligned(parts, truth if labels else None, seed=seed)


def terms_of(alignment: Alignment, settings: SplitSettings = FEW) -> SplitTerms:
    return SplitTerms(
        alignment=alignment.digest,
        count=alignment.count,
        parties=alignment.names,
        label_party=NAMES[0],
        settings=settings,
    )


def sides(
    alignment: Alignment, checkpoints: Mapping[str, Checkpoints] | None = None
) -> dict[str, Side[SplitPart]]:
    kept = {name: InMemory() for name in alignment.names} if checkpoints is None else checkpoints
    terms, secret = terms_of(alignment), fixed(1)
    return {
        name: label_side(
            terms,
            alignment.features(name),
            alignment.labels(),
            networks=TINY,
            checkpoints=kept[name],
            random=secret,
        )
        if name == NAMES[0]
        else feature_side(
            terms, name, alignment.features(name), networks=TINY, checkpoints=kept[name], random=secret
        )
        for name in alignment.names
    }


# --- it learns ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "parties"),
    [
        ("breast cancer", 2),
        ("digit 8", 2),
        pytest.param("breast cancer", 3, marks=pytest.mark.full),
        pytest.param("breast cancer", 4, marks=pytest.mark.full),
        pytest.param("digit 8", 3, marks=pytest.mark.full),
        pytest.param("digit 3", 4, marks=pytest.mark.full),
    ],
)
def test_it_is_near_the_pooled_network_of_the_same_shape(task: str, parties: int) -> None:
    gaps = []
    for seed in (20, 21, 22):  # Not those that settings were chosen by.
        train, test, labels = split_task(task, parties=parties, seed=seed)
        scores = SplitNetwork(Small()).fit(train, random=fixed(seed)).predict(test)
        gaps.append(pooled_auc(train, test, labels, Small(), seed=seed) - auc(labels, scores))
    assert np.mean(gaps) <= 0.02


@pytest.mark.full
def test_bottoms_learn_from_turned_labels_where_there_are_many() -> None:
    # What tells is the distance from a plane in another party's thirty columns: four numbers may miss it.
    generator = np.random.default_rng(5)
    columns, other = generator.normal(size=(25_000, 30)), generator.normal(size=(25_000, 2))
    planes = generator.normal(size=(30, 2)) / np.sqrt(30)
    odds = 4 * np.abs(columns @ planes[:, 0]) + 3 * columns @ planes[:, 1] - 3
    labels = (generator.random(25_000) < 1 / (1 + np.exp(-odds))).astype(float)
    train = aligned([other[:20_000], columns[:20_000]], labels[:20_000])
    test = aligned([other[20_000:], columns[20_000:]], None, seed=1)
    settings = SplitSettings(width=4)

    def learned(rate: float) -> float:
        found = []
        for seed in (0, 1):
            network = SplitNetwork(Small(bottom_rate=rate), settings).fit(train, random=fixed(seed))
            found.append(auc(labels[20_000:], network.predict(test)))
        return float(np.mean(found))

    assert learned(1e-3) > learned(1e-12) + 0.03


def test_identifiers_are_aligned_trained_and_scored_in_one_flow() -> None:
    pytest.importorskip("rbcl")
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 2.0
    ids = [f"id-{number}" for number in range(60)]
    bank = Party("bank", generator.normal(size=(60, 2)) + 4 * labels[:, None], ids, y=labels)
    order = generator.permutation(60)
    insurer = Party(
        "insurer", generator.normal(size=(60, 2)) + 4 * labels[order, None], [ids[i] for i in order]
    )
    alignment = align([bank, insurer])
    network = SplitNetwork(Small(), FEW).fit(alignment)
    scores = network.predict(alignment)
    assert auc(labels[alignment.rows["bank"]], scores) > 0.9


# --- it goes on ---------------------------------------------------------------------------------------


class Killed(Exception):
    pass


class DiesAt(InMemory):
    """A party that dies when it saves ``step``: before that is kept, or just after."""

    def __init__(self, step: int, *, kept: bool) -> None:
        super().__init__()
        self._step, self._keeps = step, kept

    def save(self, step: int, state: bytes) -> None:
        if step != self._step or self._keeps:
            super().save(step, state)
        if step == self._step:
            self._step = 0
            raise Killed


def sent_by(frames: list[tuple[str, str, Frame]], kind: type[Any]) -> list[tuple[str, str, bytes]]:
    return [
        (sender, receiver, header + bytes(payload[:]))
        for sender, receiver, (header, payload) in frames
        if payload is not None and kind.__name__.encode() in header
    ]


@pytest.mark.parametrize("party", [0, 1, 2])
@pytest.mark.parametrize(("step", "kept"), [(1, True), (2, False), (2, True), (3, False), (4, True)])
def test_a_run_that_was_killed_goes_on_with_identical_output(party: int, step: int, kept: bool) -> None:
    alignment, test = clouds(3), clouds(3, seed=1, labels=False)
    frames: list[tuple[str, str, Frame]] = []
    whole = SplitNetwork(TINY, FEW).fit(alignment, random=fixed(1), watch=lambda *sent: frames.append(sent))
    checkpoints: dict[str, InMemory] = {name: InMemory() for name in alignment.names}
    checkpoints[NAMES[party]] = DiesAt(step, kept=kept)
    again: list[tuple[str, str, Frame]] = []
    with pytest.raises(Killed):
        SplitNetwork(TINY, FEW).fit(
            alignment,
            checkpoints=checkpoints,
            random=fixed(1),
            watch=lambda *sent: again.append(sent),
        )
    # Other random bytes: what was drawn before is kept.
    resumed = SplitNetwork(TINY, FEW).fit(
        alignment, checkpoints=checkpoints, random=fixed(2), watch=lambda *sent: again.append(sent)
    )
    if step == 1:  # The others had drawn nothing yet, or had and keep it.
        assert checkpoints[NAMES[party]].load()
    else:
        assert resumed.parts == whole.parts
        np.testing.assert_array_equal(resumed.predict(test), whole.predict(test))
        for kind in (Embeddings, Gradients):
            assert set(sent_by(again, kind)) == set(sent_by(frames, kind)), "noise was drawn anew"


def test_a_secret_that_was_drawn_is_kept_where_all_begin_anew() -> None:
    alignment = clouds(2)
    frames: list[tuple[str, str, Frame]] = []
    checkpoints: dict[str, InMemory] = {NAMES[0]: InMemory(), NAMES[1]: DiesAt(2, kept=False)}
    watch: Callable[[str, str, Frame], None] = lambda *sent: frames.append(sent)  # noqa: E731 - short.
    with pytest.raises(Killed):
        SplitNetwork(TINY, FEW).fit(alignment, checkpoints=checkpoints, random=fixed(1), watch=watch)
    first = sent_by(frames, Embeddings)[0]
    frames.clear()
    checkpoints[NAMES[0]] = InMemory()  # The label party lost all: all begin anew.
    SplitNetwork(TINY, FEW).fit(alignment, checkpoints=checkpoints, random=fixed(2), watch=watch)
    assert sent_by(frames, Embeddings)[0] == first


def test_no_two_embeddings_leave_with_one_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The label party loses what it kept after a round: gradients are others, and so are later embeddings."""
    alignment = clouds(2)
    noises: list[NDArray[np.float64]] = []
    made: list[NDArray[np.float64]] = []
    real = Cut.release

    def watched(self: Cut, rows: NDArray[np.float64], *, random: Any) -> Payload:
        released = real(self, rows, random=random)
        if self is FEW.embeddings:
            made.append(rows)
            noises.append(released.array().reshape(rows.shape) - self.clipped(rows))
        return released

    monkeypatch.setattr(Cut, "release", watched)
    checkpoints: dict[str, InMemory] = {NAMES[0]: InMemory(), NAMES[1]: DiesAt(3, kept=False)}
    with pytest.raises(Killed):
        SplitNetwork(TINY, FEW).fit(alignment, checkpoints=checkpoints, random=fixed(1))
    checkpoints[NAMES[0]] = InMemory()
    SplitNetwork(TINY, FEW).fit(alignment, checkpoints=checkpoints, random=fixed(2))
    first, second, first_again, second_again = made[:4]
    np.testing.assert_array_equal(first, first_again)
    np.testing.assert_array_equal(noises[0], noises[2])
    assert not np.array_equal(second, second_again)
    assert abs(noises[1] - noises[3]).mean() > FEW.embeddings.deviation / 2


def test_it_does_not_go_on_with_other_data_or_a_damaged_checkpoint() -> None:
    alignment = clouds(2)
    checkpoints = {name: InMemory() for name in alignment.names}
    together(sides(alignment, checkpoints))
    changed = alignment.parties[1].X + 1.0
    moved = replace(
        alignment, parties=(alignment.parties[0], Party(NAMES[1], changed, alignment.parties[1].ids))
    )
    with pytest.raises(ParameterError, match="not those that this training was begun with"):
        together(sides(moved, checkpoints))
    turned = Party(NAMES[0], alignment.parties[0].X, alignment.parties[0].ids, y=1 - alignment.labels())
    with pytest.raises(ParameterError, match="not those that this training was begun with"):
        together(sides(replace(alignment, parties=(turned, alignment.parties[1])), checkpoints))
    with pytest.raises(EnvironmentFault, match="damaged, or of another training"):
        together(sides(replace(alignment, digest=bytes(32)), checkpoints))
    step, state = max(checkpoints[NAMES[1]].load().items())
    checkpoints[NAMES[1]].save(step, state[:-1])
    with pytest.raises(EnvironmentFault, match="damaged, or of another training"):
        together(sides(alignment, checkpoints))


def test_a_checkpoint_of_other_networks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    alignment = clouds(2)
    checkpoints = {name: InMemory() for name in alignment.names}
    together(sides(alignment, checkpoints))
    monkeypatch.setattr(TINY, "_hidden", 6)
    with pytest.raises(EnvironmentFault, match="of other networks"):
        together(sides(alignment, checkpoints))


# --- what leaves --------------------------------------------------------------------------------------


class Watched(Small):
    """Networks that note every array that comes out."""

    def __init__(self) -> None:
        super().__init__(hidden=5)
        self.noted: list[NDArray[np.float64]] = []

    def bottom(self, columns: int, width: int, *, seed: int) -> Layers:
        return self._watched(super().bottom(columns, width, seed=seed))

    def top(self, width: int, *, seed: int) -> Layers:
        return self._watched(super().top(width, seed=seed))

    def _watched(self, network: Layers) -> Layers:
        for name in ("forward", "backward"):
            real = getattr(network, name)

            def noting(array: NDArray[np.float64], real: Any = real) -> NDArray[np.float64]:
                result: NDArray[np.float64] = real(array)
                self.noted += [np.array(result), result * len(result)]
                return result

            setattr(network, name, noting)
        return network


@pytest.mark.parametrize("parties", [2, 3, 4])
def test_no_row_in_clear_label_or_identifier_is_on_the_wire(
    parties: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    alignment, networks = clouds(parties), Watched()
    frames: list[bytes] = []
    received: list[float] = []
    real = Cut.release

    def noting(self: Cut, rows: NDArray[np.float64], *, random: Any) -> Payload:
        networks.noted.extend((rows, self.clipped(rows)))
        return real(self, rows, random=random)

    def watch(_sender: str, _receiver: str, frame: Frame) -> None:
        header, payload = frame
        frames.append(header + (b"" if payload is None else bytes(payload[:])))
        if b"Embeddings" in header or b"Gradients" in header:
            assert payload is not None
            received.extend(np.frombuffer(payload[:], np.float64).tolist())

    monkeypatch.setattr(Cut, "release", noting)
    network = SplitNetwork(networks, FEW).fit(alignment, watch=watch)
    network.predict(clouds(parties, seed=1, labels=False), watch=watch)
    assert len(received) == FEW.width * COUNT * (parties - 1) * (2 * FEW.rounds + 1)
    made = np.concatenate([array.reshape(-1) for array in networks.noted])
    assert not np.isin(np.array(received), made).any()
    labels = alignment.labels()
    for form in (labels, labels.astype(np.uint8), labels.astype(np.uint32), labels.astype(np.float32)):
        assert form.tobytes() not in b"".join(frames)
    for column in (alignment.features(name)[:, 0] for name in alignment.names):
        assert not np.isin(np.array(received), column).any()
    for party in alignment.parties:
        assert "".join(map(str, party.ids)).encode() not in b"".join(frames)


def gradients_of(alignment: Alignment) -> list[bytes]:
    found: list[bytes] = []

    def watch(_sender: str, receiver: str, frame: Frame) -> None:
        if receiver != NAMES[0]:
            found.append(frame[0] + (b"" if frame[1] is None else bytes(frame[1][:])))

    together(sides(alignment), watch=watch)
    return found


def test_what_leaves_depends_on_labels_only_through_what_was_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    alignment = clouds(3)
    turned = np.arange(COUNT) % 3 == 0
    monkeypatch.setattr(training, "flipped", lambda *_, **__: turned.astype(float))
    other = np.roll(alignment.labels(), 1)
    bank = alignment.parties[0]
    changed = replace(
        alignment, parties=(Party(bank.name, bank.X, bank.ids, y=other), *alignment.parties[1:])
    )
    assert gradients_of(alignment) == gradients_of(changed)
    before = gradients_of(alignment)
    monkeypatch.setattr(training, "flipped", lambda *_, **__: 1.0 - turned)
    assert gradients_of(alignment) != before


def test_what_leaves_depends_on_no_column_of_the_label_party() -> None:
    alignment = clouds(3)
    bank = alignment.parties[0]
    changed = Party(bank.name, bank.X**2, bank.ids, y=bank.y)
    assert gradients_of(alignment) == gradients_of(
        replace(alignment, parties=(changed, *alignment.parties[1:]))
    )


@pytest.mark.parametrize("to", NAMES[:3])
def test_only_the_agreed_party_gets_what_scores_are_made_from(to: str) -> None:
    train, test, labels = split_task("breast cancer", parties=3, seed=0)
    network = SplitNetwork(Small()).fit(train, random=fixed(3))
    told: list[tuple[str, type[Any]]] = []

    def watch(_sender: str, receiver: str, frame: Frame) -> None:
        message = wire.decode_as(*frame, Standing | Embeddings | TopShared | Gradients)
        told.append((receiver, type(message)))

    scores = network.predict(test, to=to, watch=watch)
    assert auc(labels, scores) > 0.97
    assert {receiver for receiver, kind in told if kind is not Standing} == {to}
    assert sum(kind is TopShared for _, kind in told) == (to != NAMES[0])
    assert sum(kind is Embeddings for _, kind in told) == 2
    assert any(seen.party == to and "score" in seen.what for seen in network.report().seen)
    assert any(note.startswith(f"{to} got the weights") for note in network.report().notes) == (
        to != NAMES[0]
    )


def test_records_that_are_scored_again_leave_with_the_same_noise() -> None:
    network = SplitNetwork(TINY, FEW).fit(clouds(2))
    test = clouds(2, seed=1, labels=False)
    np.testing.assert_array_equal(network.predict(test), network.predict(test))


# --- who leaves the protocol is named -----------------------------------------------------------------


def changing(side: Side[Any], kind: type[Any], change: Callable[[Any], Any]) -> Side[Any]:
    """Run ``side``, with its first message of a kind changed."""
    given: Frame | None = None
    done = False
    while True:
        try:
            action = side.send(given)
        except StopIteration as end:
            return end.value
        if isinstance(action, Send) and kind.__name__.encode() in action.frame[0] and not done:
            done = True
            message = change(wire.decode_as(*action.frame, kind))
            action = Send(action.to, wire.encode(message))
        given = yield action


def of(kind: type[Any], alter: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[Any], Any]:
    return lambda message: kind(Payload.of(alter(message.rows.array().copy())))


def with_one(value: float) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def alter(rows: NDArray[Any]) -> NDArray[Any]:
        rows[7] = value
        return rows

    return alter


BAD_ROWS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "not a number": with_one(np.nan),
    "infinite": with_one(np.inf),
    "too large": with_one(1e6),
    "off the grid": with_one(1e-9),
    "a row less": lambda rows: rows[3:].copy(),
    "another type": lambda rows: rows.astype(np.uint32),
}


@pytest.mark.parametrize("bad", BAD_ROWS)
@pytest.mark.parametrize(("sender", "kind"), [(NAMES[1], Embeddings), (NAMES[0], Gradients)])
def test_rows_that_cannot_be_name_who_sent_them(sender: str, kind: type[Any], bad: str) -> None:
    running = sides(clouds(2))
    running[sender] = changing(running[sender], kind, of(kind, BAD_ROWS[bad]))
    with pytest.raises(FaultySilo) as fault:
        together(running)
    assert fault.value.silo == sender


def test_another_message_and_other_terms_name_who_sent_them() -> None:
    running = sides(clouds(3))
    running[NAMES[2]] = changing(running[NAMES[2]], Embeddings, lambda said: Gradients(said.rows))
    with pytest.raises(FaultySilo) as fault:
        together(running)
    assert fault.value.silo == NAMES[2]
    running = sides(clouds(3))
    running[NAMES[1]] = changing(running[NAMES[1]], Standing, lambda said: Standing(bytes(32), said.steps))
    with pytest.raises(FaultySilo, match="other records, settings or parties") as fault:
        together(running)
    assert fault.value.silo == NAMES[1]


def bytes_of(message: TopShared, change: Callable[[bytes], bytes]) -> TopShared:
    content = change(bytes(message.weights.buffer()[:]))
    return TopShared(Payload.of(np.frombuffer(content, np.uint8)))


@pytest.mark.parametrize(
    "change",
    [
        lambda _: b"no tensors",
        lambda content: content[:-8],
        lambda content: content[:-8] + np.array([np.nan]).tobytes(),
        lambda content: content.replace(b"first", b"third"),
        lambda content: content + b"more",
    ],
)
def test_a_top_that_is_none_names_the_label_party(change: Callable[[bytes], bytes]) -> None:
    alignment, test = clouds(2), clouds(2, seed=1, labels=False)
    network = SplitNetwork(TINY, FEW).fit(alignment)
    terms = PredictionTerms(training=network.terms, alignment=test.digest, count=COUNT, to=NAMES[1])
    running: dict[str, Side[Any]] = {
        name: prediction_side(
            terms,
            name,
            SplitPart.from_bytes(content, network.terms, TINY),
            test.features(name),
            networks=TINY,
        )
        for name, content in network.parts.items()
    }
    running[NAMES[0]] = changing(running[NAMES[0]], TopShared, lambda said: bytes_of(said, change))
    with pytest.raises(FaultySilo, match="no weights of a top") as fault:
        together(running)
    assert fault.value.silo == NAMES[0]


# --- parts and reports --------------------------------------------------------------------------------


def test_parts_are_stored_per_party_and_predict_as_before() -> None:
    alignment, test = clouds(3), clouds(3, seed=1, labels=False)
    network = SplitNetwork(TINY, FEW).fit(alignment)
    terms = PredictionTerms(training=network.terms, alignment=test.digest, count=COUNT, to=NAMES[0])
    parts = {
        name: SplitPart.from_bytes(content, network.terms, TINY) for name, content in network.parts.items()
    }
    assert [name for name, part in parts.items() if part.top is not None] == [NAMES[0]]
    scores = together(
        {
            name: prediction_side(terms, name, part, test.features(name), networks=TINY)
            for name, part in parts.items()
        }
    )
    np.testing.assert_array_equal(scores[NAMES[0]], network.predict(test))
    assert scores[NAMES[1]] is None
    assert {name: part.to_bytes() for name, part in parts.items()} == network.parts
    assert "seed" not in repr(parts[NAMES[1]])


def test_a_part_that_is_damaged_or_of_another_training_is_refused() -> None:
    network = SplitNetwork(TINY, FEW).fit(clouds(2))
    content, terms = network.parts[NAMES[0]], network.terms
    with pytest.raises(EnvironmentFault, match="damaged"):
        SplitPart.from_bytes(content[:-1], terms, TINY)
    with pytest.raises(EnvironmentFault, match="another training"):
        SplitPart.from_bytes(content, replace(terms, alignment=bytes(32)), TINY)
    with pytest.raises(EnvironmentFault, match="of other networks"):
        SplitPart.from_bytes(content, terms, Small(hidden=6))
    part = SplitPart.from_bytes(content, terms, TINY)
    other = PredictionTerms(
        training=replace(terms, alignment=bytes(32)), alignment=bytes(32), count=COUNT, to=NAMES[0]
    )
    with pytest.raises(ParameterError, match="another training"):
        next(prediction_side(other, NAMES[0], part, clouds(2).features(NAMES[0]), networks=TINY))


def test_parts_of_two_trainings_on_the_same_records_do_not_go_together() -> None:
    records = clouds(2)
    first, second = (SplitNetwork(TINY, FEW).fit(records) for _ in range(2))
    terms = PredictionTerms(training=first.terms, alignment=records.digest, count=COUNT, to=NAMES[0])
    mixed = {
        name: SplitPart.from_bytes(network.parts[name], first.terms, TINY)
        for name, network in zip(NAMES, (first, second), strict=False)
    }
    with pytest.raises(FaultySilo, match="agreed on other records, settings or parties"):
        together(
            {
                name: prediction_side(terms, name, part, records.features(name), networks=TINY)
                for name, part in mixed.items()
            }
        )


def test_the_report_says_who_saw_what_and_how_much_noise_there_was() -> None:
    network = SplitNetwork(TINY, FEW).fit(clouds(3))
    network.predict(clouds(3, seed=1, labels=False))
    report = network.report()
    text = str(report)
    assert "over 50 records, and a prediction" in text
    assert len(report.of(NAMES[0])) == 5
    assert len(report.of(NAMES[1])) == 1
    assert report.of(NAMES[1])[0].clear == 50 * 3 * 3
    assert "turned round once with probability 0.47" in report.of(NAMES[1])[0].what
    assert "epsilon 0.12, delta 0" in text
    assert "an AUC of 0.53 at the most" in text
    assert "noise of 0.075 times its largest norm" in text
    assert "hides details, and not who a record is of" in text
    strong = replace(FEW, embedding_noise=20.0)
    noted = str(SplitNetwork(TINY, strong).fit(clouds(2)).report())
    assert "hides details" not in noted


# --- what cannot be asked for -------------------------------------------------------------------------


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(ParameterError, match="TorchNetworks"):
        SplitNetwork(object())  # type: ignore[arg-type] # As a caller may.
    with pytest.raises(ParameterError, match="no party has labels"):
        SplitNetwork(TINY, FEW).fit(clouds(2, labels=False))
    generator = np.random.default_rng(0)
    columns = [generator.normal(size=(8, 2))] * 2
    for labels, text in (([0, 1, 2, 0, 1, 2, 0, 1], "neither 0 nor 1"), ([1] * 8, "all labels are the same")):
        with pytest.raises(InputRefused, match=text):
            SplitNetwork(TINY, FEW).fit(aligned(columns, np.array(labels)))
    six = aligned([*columns] * 2 + columns[:1], np.arange(8) % 2)
    assert len(six.parties) == 5
    SplitNetwork(TINY, FEW).fit(six)


def test_what_cannot_be_predicted_is_refused() -> None:
    network = SplitNetwork(TINY, FEW)
    for call in (network.report, lambda: network.parts, lambda: network.predict(clouds(2))):
        with pytest.raises(UsageError, match="nothing is trained yet"):
            call()
    network.fit(clouds(2))
    with pytest.raises(ParameterError, match="trained by bank, insurer"):
        network.predict(clouds(3))
    with pytest.raises(ParameterError, match="none of the parties"):
        network.predict(clouds(2), to="gym")
    wide = aligned([np.ones((4, 3)), np.ones((4, 4))], None)
    with pytest.raises(InputRefused, match="4 columns where 3 were trained on"):
        network.predict(wide)


def test_networks_that_run_away_are_refused() -> None:
    class Wild(Small):
        def bottom(self, columns: int, width: int, *, seed: int) -> Layers:
            network = super().bottom(columns, width, seed=seed)
            network.parameters["second_bias"] = np.full(width, np.nan)
            return network

    with pytest.raises(InputRefused, match="lower its learning rate"):
        SplitNetwork(Wild(hidden=4), FEW).fit(clouds(2))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"width": 0}, "width"),
        ({"width": 2000}, "width"),
        ({"rounds": 0}, "rounds"),
        ({"passes": 1.5}, "passes"),
        ({"batch": 0}, "batch"),
        ({"label_flip": 0.0}, "label_flip"),
        ({"label_flip": 0.5}, "label_flip"),
        ({"embedding_clip": -1.0}, "embedding_clip"),
        ({"embedding_noise": 0.0}, "embedding_noise"),
        ({"embedding_noise": 1e9}, "noise"),
        ({"gradient_clip": np.inf}, "gradient_clip"),
        ({"gradient_clip": 1e30}, "clip"),
        ({"gradient_noise": "much"}, "gradient_noise"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        SplitSettings(**change)


def test_terms_out_of_range_are_refused_and_each_is_in_the_digest() -> None:
    terms = terms_of(clouds(3))
    for change, text in (
        ({"alignment": b"short"}, "32 bytes"),
        ({"count": 1}, "too few records"),
        ({"parties": ("bank",)}, "2 to 5 parties"),
        ({"parties": ("bank", "bank")}, "2 to 5 parties"),
        ({"parties": ("bank", *"abcde")}, "2 to 5 parties"),
        ({"label_party": "gym"}, "label party is none"),
    ):
        with pytest.raises(ParameterError, match=text):
            replace(terms, **change)
    names = [field.name for field in fields(SplitSettings)]
    values: dict[str, Any] = dict(zip(names, (4, 4, 3, 17, 0.4, 1.0, 1.0, 1.0, 2.0), strict=True))
    changes: tuple[dict[str, Any], ...] = (
        {"alignment": bytes(32)},
        {"count": 51},
        {"parties": ("insurer", "bank", "shop")},
        {"label_party": "shop"},
        *({"settings": replace(FEW, **{name: value})} for name, value in values.items()),
    )
    digests = {terms.digest, *(replace(terms, **change).digest for change in changes)}
    assert len(digests) == len(changes) + 1
    with pytest.raises(ParameterError, match="gym is none"):
        terms.others("gym")
