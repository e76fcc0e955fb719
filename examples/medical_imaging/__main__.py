"""`make demo`: six hospitals train one segmentation under masks; some are lost; everything is checked.

python -m examples.medical_imaging [--scheme ckks] [--in-process] [--rounds 10] [--output demo-output]
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file

from coordinator.client import Coordinator
from examples.medical_imaging.app import APP
from examples.medical_imaging.data import Hospital, load_hospitals
from examples.medical_imaging.experiment import Course, mean_score, train_alone, train_pooled
from examples.medical_imaging.killing import Killing
from examples.medical_imaging.network import build_network, trainer_for
from examples.medical_imaging.pictures import coordinator_saw, learning_curve, segmented_slice
from examples.processes import Processes, wait_for_all
from examples.replay import CoordinatorView, Recorded, Replayed, same_sums
from secagg import FedAvg, Federation, History, Masking, Plain, Trainer
from secagg.ckks.params import CKKS
from secagg.errors import SiloLeftOut
from secagg.learning.card import model_card
from secagg.learning.panel import panel
from secagg.learning.progress import Progress
from secagg.names import RealVector
from secagg.paillier.params import Paillier, ThresholdPaillier
from secagg.policy import Policy
from secagg.scheme import Scheme
from secagg.simulation import Dropouts
from secagg.weighting import UPDATE
from silo import TorchTrainer

LOST: Dropouts = {"coast": "MaskedInput", "hill": "Unmasking"}
"""In one process: one hospital between ShareKeys and its upload, another while the masks come off."""
KILLED, PHASE = "hill", "MaskedInput"
"""As processes: who is killed, while it masks its vector. It is started again when the next round begins."""
WATCHED = "north"
WEIGHT_CAP = 64
"""Training slices of one hospital, at the most."""
EPOCHS = 3
"""Passes over the local slices a round."""


Protected: TypeAlias = Literal["masking", "paillier", "threshold-paillier", "ckks"]
PROTECTIONS: Mapping[Protected, Scheme] = {
    "masking": Masking(),
    "paillier": Paillier(),
    "threshold-paillier": ThresholdPaillier(),
    "ckks": CKKS(),
}
WORDS: Mapping[Protected, str] = dict.fromkeys(PROTECTIONS, "encrypted") | {"masking": "masked"}


def main(
    *,
    rounds: Annotated[int, typer.Option(min=5, help="Rounds of training.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of first weights, shuffling and scanners.")] = 0,
    output: Annotated[Path, typer.Option(help="Folder for model, card and pictures.")] = Path("demo-output"),
    in_process: Annotated[
        bool, typer.Option("--in-process", help="All parties in this process, over real wire bytes.")
    ] = False,
    scheme: Annotated[Protected, typer.Option("--scheme", help="The protection.")] = "masking",
) -> None:
    """Train six hospitals under masks or ciphertexts, check the sums, compare, draw."""
    console, started = Console(), time.perf_counter()
    protection, words = PROTECTIONS[scheme], WORDS[scheme]
    torch.set_num_threads(1)  # the network is small: two threads gain little and stall beside other work
    hospitals = load_hospitals(seed)
    trainers = {name: trainer_for(hospital, build_network()) for name, hospital in hospitals.items()}
    introduce(console, hospitals)
    bad_round = (rounds + 1) // 2
    recorded = {name: Recorded(trainer) for name, trainer in trainers.items()}
    seen = CoordinatorView(WATCHED)
    same_model = True
    if in_process:
        heading(console, f"Six hospitals, one model, {words} updates")
        lost: Mapping[int, Dropouts] = {bad_round: LOST}
        history = federation(recorded, protection, seed).run(rounds, dropouts=lost, view=seen)
    else:
        heading(console, f"Six hospitals and a coordinator: seven processes, mutual TLS, {words} updates")
        history = run_processes(console, trainers, rounds, seed, output / "federation", scheme)
        lost = lost_in(history)
        heading(console, "The same in one process")
        again = federation(recorded, protection, seed).run(rounds, dropouts=lost, view=seen, progress=False)
        same_model = compare_models(console, history, again)
        if scheme != "masking":
            history = again  # With the metrics, which hospitals alone could read.
    console.print()
    console.print(panel(history.records[bad_round - 1].report))

    equal = same_without(console, recorded, rounds, seed, lost, seen)

    heading(console, "What each would have reached alone")
    first = trainers[WATCHED].initial(seed).astype(np.float64)
    alone, pooled = train_without(console, hospitals, first, rounds, seed)
    models = [*(recorded[WATCHED].bases[number] for number in range(1, rounds + 1)), history.model]
    federated = Course(tuple(mean_score(hospitals, weights) for weights in models), history.model)
    console.print(comparison(trainers, federated, alone, pooled))

    output.mkdir(parents=True, exist_ok=True)
    best = max(alone, key=lambda name: alone[name].scores[-1])
    paths = [
        *write_model(trainers[WATCHED], history, output),
        draw_curve(federated, alone, pooled, output),
        draw_slices(hospitals, trainers, best, alone[best].weights, history.model, output),
    ]
    if scheme == "masking":
        paths.append(draw_view(seen, recorded[WATCHED], output))
    heading(console, "Written")
    for path in paths:
        console.print(f"  {path}", soft_wrap=True, highlight=False)
    reached = federated.scores[-1]
    gain = reached - alone[best].scores[-1]
    console.print(
        f"\nfederated {reached:.3f} mean Dice, {gain:+.3f} over the best hospital alone ({best}); "
        f"{time.perf_counter() - started:.0f} s"
    )
    if not equal:
        console.print("[red]the opened sums are not those of the unprotected run[/]")
    if not same_model:
        console.print("[red]the model of the processes is not the one of the same run in one process[/]")
    if not (equal and same_model):
        raise typer.Exit(1)


def same_without(
    console: Console,
    recorded: Mapping[str, Recorded],
    rounds: int,
    seed: int,
    lost: Mapping[int, Dropouts],
    seen: CoordinatorView,
) -> bool:
    """Sum the same updates in clear, and return whether every sum is the one that was opened."""
    heading(console, "The same updates without protection")
    unprotected = CoordinatorView(WATCHED)
    replayed = {name: Replayed(each) for name, each in recorded.items()}
    federation(replayed, Plain(), seed).run(rounds, dropouts=lost, view=unprotected, progress=False)
    equal = same_sums(seen, unprotected)
    console.print(f"{len(seen.sums)} sums, {seen.sums[0].total.size:,} integers each: ", end="")
    console.print("[green]bit for bit the same[/]" if equal else "[red]different[/]")
    return equal


def train_without(
    console: Console, hospitals: Mapping[str, Hospital], first: RealVector, rounds: int, seed: int
) -> tuple[dict[str, Course], Course]:
    """Train each hospital alone, and one model on all data in one place."""
    alone: dict[str, Course] = {}
    with console.status("training") as status:
        for name in hospitals:
            status.update(f"training {name} alone")
            alone[name] = train_alone(hospitals, name, first, rounds=rounds, epochs=EPOCHS, seed=seed)
        status.update("training on all data pooled")
        return alone, train_pooled(hospitals, first, rounds=rounds, epochs=EPOCHS, seed=seed)


def run_processes(
    console: Console,
    trainers: Mapping[str, TorchTrainer],
    rounds: int,
    seed: int,
    folder: Path,
    scheme: Protected,
) -> History:
    """Train with one process for each hospital; one of them is killed, and comes back later."""
    first = trainers[WATCHED].initial(seed)
    metrics = tuple(trainers[WATCHED].evaluate(first).metrics)
    bad_round = (rounds + 1) // 2
    hospitals = Processes(
        folder,
        tuple(trainers),
        app=APP,
        federation="brains",
        policy=Policy(
            schemes=frozenset({scheme}), min_silos=len(trainers), max_clip=8.0, min_weight_cap=WEIGHT_CAP
        ),
        data="slices",
        arguments={name: {"name": name, "seed": seed} for name in trainers},
    )
    with hospitals as processes:
        console.print(f"keys, certificates, state and logs: {folder}", soft_wrap=True, highlight=False)
        silos = Coordinator(f"grpcs://{processes.address}", credentials=processes.credentials)
        if scheme != "masking":
            with Coordinator(f"grpcs://{processes.address}", credentials=folder / "operator") as operator:
                wait_for_all(operator)  # Every silo takes part in making the key.
                console.print(operator.make_key(scheme).line, highlight=False)
        remote = federation(silos, PROTECTIONS[scheme], seed, app=APP, initial=first, metrics=metrics)
        phase = PHASE if scheme == "masking" else "EncryptedInput"
        killing = Killing(Progress(console), processes, KILLED, (bad_round, phase))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SiloLeftOut)  # It was killed on purpose.
            history = remote.run(rounds, progress=killing)
    console.print(
        f"{KILLED} was killed with SIGKILL in round {bad_round}, started again in the next one, and "
        f"{returned(history, bad_round + 1)}"
    )
    return with_model(console, history, trainers[WATCHED], folder) if history.sealed else history


def with_model(console: Console, history: History, trainer: TorchTrainer, folder: Path) -> History:
    """Return the history with the model that a hospital wrote: the coordinator has none."""
    (path,) = (folder / "silos" / WATCHED / "state").glob("model-*.safetensors")
    held = [str(found) for found in (folder / "coordinator").rglob("model*.safetensors")]
    console.print(f"the model is at the hospitals, here {path}", soft_wrap=True, highlight=False)
    console.print(f"at the coordinator: {', '.join(held) or 'ciphertexts, hashes and the signed set alone'}")
    tensors = load_file(path)
    vector = np.concatenate([tensors[entry.name].ravel() for entry in trainer.manifest.shared])
    return History(vector.astype(np.float64), history.records)


def returned(history: History, since: int) -> str:
    """Return in words from which round on the killed hospital's update is in the sums again."""
    reports = [record.report for record in history.records]
    numbers = [each.round for each in reports if KILLED in each.survivors and each.round >= since]
    if not numbers:
        return "was not back before the run ended: more rounds (--rounds) give it time"
    return f"trained from round {min(numbers)} on, from the base that it had missed"


def compare_models(console: Console, processes: History, one: History) -> bool:
    """Print the hashes of two models, and return whether they are bit for bit the same."""
    # As it is written to files, in 32 bits.
    models = [history.model.astype(np.float32) for history in (processes, one)]
    for who, model in zip(("seven processes", "one process"), models, strict=True):
        digest = hashlib.sha256(model.tobytes()).hexdigest()[:16]
        console.print(f"{digest}  the model of {who}", highlight=False)
    same = np.array_equal(models[0], models[1])
    console.print("[green]bit for bit the same[/]" if same else "[red]different[/]")
    return same


def lost_in(history: History) -> Mapping[int, Dropouts]:
    """Return who was missing in which round, as a schedule for a run in one process."""
    return {
        record.report.round: {
            silo: "MaskedInput" for silo in record.report.dropouts if silo not in record.report.survivors
        }
        for record in history.records
    }


def federation(
    silos: Mapping[str, Trainer] | Coordinator, scheme: Scheme, seed: int, **named: Any
) -> Federation:
    """Return the federation of the demo; only where it runs and its protection differ between the runs."""
    return Federation(
        silos=silos,
        scheme=scheme,
        strategy=FedAvg(),
        epochs=EPOCHS,
        seed=seed,
        weight_cap=WEIGHT_CAP,
        least_total_weight=32,
        metric_bound=8,
        **named,
    )


def heading(console: Console, text: str) -> None:
    """Print a section's title."""
    console.print(f"\n[bold]{text}[/]")


def introduce(console: Console, hospitals: Mapping[str, Hospital]) -> None:
    """Print who takes part."""
    table = Table(
        title="One averaged brain of 152 people, six simulated scanners", title_justify="left", box=None
    )
    for column in ("hospital", "scanner", "trains on", "held out"):
        table.add_column(column, header_style="dim")
    for name, hospital in hospitals.items():
        trains, held = hospital.train_slices, hospital.held_out_slices
        table.add_row(
            name, hospital.scanner.sequence, f"{len(trains)} slices", f"slices {held[0]} to {held[-1]}"
        )
    console.print(table)


def comparison(
    trainers: Mapping[str, TorchTrainer], federated: Course, alone: Mapping[str, Course], pooled: Course
) -> Table:
    """Return Dice on every hospital's held-out block and on all of them together, by who trained."""
    table = Table(box=None, header_style="dim")
    table.add_column("Dice on held-out slices of")
    for name in trainers:
        table.add_column(name, justify="right")
    table.add_column("all", justify="right")

    def row(who: str, course: Course, style: str = "") -> None:
        scores = [trainer.evaluate(course.weights).metrics["dice"] for trainer in trainers.values()]
        table.add_row(who, *(f"{value:.3f}" for value in (*scores, course.scores[-1])), style=style)

    for name, course in alone.items():
        row(f"{name} alone", course)
    row("federated", federated, "bold")
    row("all data pooled", pooled)
    return table


def write_model(trainer: TorchTrainer, history: History, output: Path) -> tuple[Path, Path]:
    """Write ``model.safetensors`` and its card."""
    model, card = output / "model.safetensors", output / "model.card.json"
    trainer.save(history.model, model)
    card.write_text(
        json.dumps(model_card(history.records, model, parameters=history.model.size), indent=2) + "\n",
        encoding="utf-8",
    )
    return model, card


def draw_curve(federated: Course, alone: Mapping[str, Course], pooled: Course, output: Path) -> Path:
    """Draw mean Dice over rounds."""
    path = output / "learning_curve.png"
    lone = {name: course.scores for name, course in alone.items()}
    learning_curve(federated.scores, lone, pooled.scores, path)
    return path


def draw_slices(
    hospitals: Mapping[str, Hospital],
    trainers: Mapping[str, TorchTrainer],
    best: str,
    own: RealVector,
    federated: RealVector,
    output: Path,
) -> Path:
    """Draw what the best lone hospital and the federation make of other hospitals' scans."""
    shown = [hospital for name, hospital in hospitals.items() if name != best][:3]
    predictions = {}
    for hospital in shown:
        middle = len(hospital.held_out_slices) // 2
        image = torch.from_numpy(hospital.held_out_images[middle : middle + 1])
        by = []
        for weights in (own, federated):
            network = trainers[hospital.name].load(weights).eval()
            with torch.inference_mode():
                by.append(network(image).argmax(dim=1)[0].numpy())
        predictions[hospital.name] = (by[0], by[1])
    path = output / "segmented_slice.png"
    segmented_slice(shown, best, predictions, path)
    return path


def draw_view(seen: CoordinatorView, watched: Recorded, output: Path) -> Path:
    """Draw one update before masking, as uploaded, and as opened in the mean."""
    terms, total = seen.terms[0], seen.sums[0].total
    update = watched.updates[1]
    base = watched.bases[1]
    weight = update.examples / terms.encoding.weight_cap
    # The upload is w * x in fixed point, read back as if there were no mask on it.
    uploaded = terms.encoding.decode(seen.uploads[0][:-1])[UPDATE] / weight
    sums = terms.encoding.decode(total)
    path = output / "what_the_coordinator_saw.png"
    coordinator_saw(
        np.asarray(update.weights, dtype=np.float64) - base,
        uploaded,
        sums[UPDATE] / sums["weight"][0],
        silo=WATCHED,
        silos=len(seen.sums[0].survivors),
        path=path,
    )
    return path


if __name__ == "__main__":
    typer.run(main)
