"""Make the folders of the compose example: python -m examples.compose.setup FOLDER, once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from safetensors.numpy import save_file

from coordinator.development import write_development_federation
from examples.compose.app import APP, FEATURES
from secagg.policy import Policy
from silo.app import source_hash

PATIENTS = {"north": 400, "south": 250, "west": 900}


def main(
    folder: Path,
    *,
    host: Annotated[str, typer.Option(help="Name by which silos dial the coordinator.")] = "localhost",
    port: Annotated[int, typer.Option(help="Port of the coordinator.")] = 7443,
    owner: Annotated[int | None, typer.Option(help="User who is to own the files.")] = None,
) -> None:
    """Make keys, certificates and configuration, unless they are there."""
    made = folder / "README.txt"
    if made.exists():
        print(f"{folder} is there already")
        return
    new = folder / "new"
    shutil.rmtree(new, ignore_errors=True)
    write_development_federation(
        new,
        tuple(PATIENTS),
        federation="compose",
        hosts=(host, "localhost", "127.0.0.1"),
        listen=f"0.0.0.0:{port}" if host != "localhost" else f"127.0.0.1:{port}",
        policy=Policy(min_silos=3, max_clip=8.0, min_weight_cap=1000.0),
        apps={APP: source_hash(APP)},
        data="patients",
        arguments={name: {"seed": seed, "patients": n} for seed, (name, n) in enumerate(PATIENTS.items())},
    )
    save_file({"weights": np.zeros(FEATURES + 1, np.float32)}, new / "scientist" / "initial.safetensors")
    for part in sorted(new.iterdir(), key=lambda path: path == new / "README.txt"):
        part.rename(folder / part.name)  # The file that says all is there comes last.
    new.rmdir()
    if owner is not None:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, owner, owner)
    print(made.read_text(encoding="utf-8"))


if __name__ == "__main__":
    typer.run(main)
