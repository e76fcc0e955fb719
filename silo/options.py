"""What several commands of ``silo`` take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

Config: TypeAlias = Annotated[
    Path, typer.Option("--config", help="The silo's configuration.", show_default=True)
]
LogLevel: TypeAlias = Annotated[
    Literal["debug", "info", "warning", "error"], typer.Option("--log-level", help="What to log, on stderr.")
]
SILO_TOML = Path("silo.toml")
