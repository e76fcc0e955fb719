"""What a coordinator's log looks like: lines for people in a terminal, JSON anywhere else; on stderr.

What is logged are names, sizes, numbers and rules. Any other value is replaced by its type.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog
from structlog.typing import EventDict, WrappedLogger

Level = Literal["debug", "info", "warning", "error"]


def configure(level: Level) -> None:
    """Send logs of ``level`` and above to stderr."""
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=not terminal),
            structlog.processors.format_exc_info,
            only_words,
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def only_words(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Replace every value that is no text, number or list of texts by its type."""
    return {name: _word(value) for name, value in event.items()}


def _word(value: object) -> object:
    if isinstance(value, str | int | float | None):
        return value
    if isinstance(value, tuple | list) and all(isinstance(entry, str) for entry in value):
        return ", ".join(value)
    return f"<{type(value).__name__}>"
