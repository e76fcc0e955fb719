"""The log of a process: words and numbers, one JSON object a line where no person watches."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from secagg.logs import only_words

WRITE = """
import structlog
from secagg import logs
logs.configure({level!r}, extra="silo")
log = structlog.get_logger("silo")
structlog.contextvars.bind_contextvars(silo="north")
log.debug("fine", key=b"secret"); log.info("plain", rounds=3); log.warning("bad")
"""


@pytest.mark.parametrize(
    "value",
    [b"secret", bytearray(b"secret"), np.zeros(3), {"key": "secret"}, ["secret"], object(), np.uint32(7)],
)
def test_a_value_that_could_be_a_key_or_data_is_replaced_by_its_type(value: object) -> None:
    assert only_words(None, "info", {"event": "text", "value": value}) == {
        "event": "text",
        "value": f"<{type(value).__name__}>",
    }


def test_words_and_numbers_stay() -> None:
    event = {"event": "text", "count": 3, "seconds": 0.5, "done": True, "none": None}
    assert only_words(None, "info", dict(event)) == event


@pytest.mark.parametrize(("level", "events"), [("debug", 3), ("info", 2), ("warning", 1), ("error", 0)])
def test_lines_are_json_on_stderr_with_their_context(level: str, events: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRITE.format(level=level)], capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["fine", "plain", "bad"][3 - events :]
    assert all(line["silo"] == "north" and line["level"] and line["timestamp"] for line in lines)
    assert "secret" not in done.stderr
    assert not done.stdout
