import io
import json
import logging
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
import structlog

from daemon.config import LoggingConfig
from daemon.logs import OURS, set_up, take_down


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    root, transformers = logging.getLogger(), logging.getLogger("transformers")
    level, handlers = root.level, transformers.handlers[:]
    yield
    take_down()
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.setLevel(level)
    transformers.__class__ = logging.Logger
    transformers.handlers[:] = handlers
    for name in OURS:
        logging.getLogger(name).setLevel(logging.NOTSET)


def log_to(
    stream: io.StringIO,
    kind: Literal["auto", "json", "terminal"] = "auto",
    level: Literal["debug", "info", "warning", "error"] = "info",
) -> Any:
    set_up(LoggingConfig(format=kind, level=level), stream)
    return structlog.get_logger("daemon.controller")


def rows(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_decision_is_one_json_line_that_tells_its_story() -> None:
    stream = io.StringIO()

    log_to(stream).info("promoted", version="v7", parent="v6", because="better on 412 fresh examples", at=Path("m"))

    (row,) = rows(stream)
    timestamp = row.pop("timestamp")
    assert timestamp.endswith("Z")
    assert abs(datetime.fromisoformat(timestamp) - datetime.now(UTC)) < timedelta(minutes=1)
    assert list(row.items()) == [
        ("level", "info"),
        ("logger", "daemon.controller"),
        ("event", "promoted"),
        ("version", "v7"),
        ("parent", "v6"),
        ("because", "better on 412 fresh examples"),
        ("at", "m"),
    ]


def test_auto_is_columns_on_a_terminal_and_json_elsewhere() -> None:
    terminal, file = Terminal(), io.StringIO()

    log_to(terminal).info("started")
    log_to(file).info("started")

    assert "\x1b[" in terminal.getvalue()
    assert rows(file)[0]["event"] == "started"


def test_columns_read_well_without_colours() -> None:
    stream = io.StringIO()

    log_to(stream, "terminal").info("promoted", version="v7", accuracy=0.91234567, because="better on fresh labels")

    stamp, rest = stream.getvalue().split(" ", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", stamp)
    assert rest == "info     promoted               version=v7 accuracy=0.912346 because='better on fresh labels'\n"


@pytest.mark.parametrize("kind", ["json", "terminal"])
def test_libraries_and_warnings_come_out_of_the_same_renderer(kind: Literal["json", "terminal"]) -> None:
    stream = io.StringIO()
    log_to(stream, kind)

    logging.getLogger("kafka.conn").warning("connection to %s lost", "broker:9092")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)  # catch_warnings has put its own showwarning in place
        logging.captureWarnings(True)
        warnings.warn("an old setting", FutureWarning, stacklevel=1)
        logging.captureWarnings(False)

    lost, warned = stream.getvalue().splitlines()
    if kind == "terminal":
        assert lost.endswith("warning  connection to broker:9092 lost (kafka.conn)")
        assert warned.endswith("(py.warnings)")
    else:
        assert json.loads(lost)["event"] == "connection to broker:9092 lost"
        assert json.loads(warned)["logger"] == "py.warnings"
    assert "FutureWarning: an old setting" in warned


def test_a_library_that_brings_its_own_handler_is_heard_once_and_from_us() -> None:
    stream, its_own = io.StringIO(), io.StringIO()
    logging.getLogger("transformers").addHandler(logging.StreamHandler(its_own))
    log_to(stream)

    # What transformers does when it is imported.
    library = logging.getLogger("transformers")
    library.addHandler(logging.StreamHandler(its_own))
    library.propagate = False
    logging.getLogger("transformers.modeling_utils").warning("newly initialised weights")

    assert [row["event"] for row in rows(stream)] == ["newly initialised weights"]
    assert its_own.getvalue() == ""


@pytest.mark.parametrize(
    ("level", "events"),
    [
        ("debug", ["ours debug", "ours info", "theirs info", "theirs warning"]),
        ("info", ["ours info", "theirs warning"]),
        ("error", []),
    ],
)
def test_the_level_holds_for_us_and_libraries_are_quieter(
    level: Literal["debug", "info", "error"], events: list[str]
) -> None:
    stream = io.StringIO()
    log = log_to(stream, level=level)

    log.debug("ours debug")
    log.info("ours info")
    logging.getLogger("apscheduler").debug("theirs debug")
    logging.getLogger("apscheduler").info("theirs info")
    logging.getLogger("apscheduler").warning("theirs warning")

    assert [row["event"] for row in rows(stream)] == events


def test_a_strangers_text_can_neither_forge_a_line_nor_reach_the_terminal_as_codes() -> None:
    stream = Terminal()
    log = log_to(stream)

    log.warning("bad\n2026-01-01T00:00:00Z info promoted", detail="\x1b[2Jgone\nnext", **{"key\r\n": "x"})

    assert stream.getvalue().count("\n") == 1
    assert "\x1b[2J" not in stream.getvalue()
    assert r"detail" in stream.getvalue()
    assert r"\x1b[2Jgone\nnext" in stream.getvalue()


@pytest.mark.parametrize("kind", ["json", "terminal"])
def test_an_exception_keeps_its_traceback(kind: Literal["json", "terminal"]) -> None:
    stream = io.StringIO()
    log = log_to(stream, kind)

    try:
        raise ValueError("no such topic")
    except ValueError:
        log.exception("step failed", step=3)
        logging.getLogger("library").exception("theirs")

    assert stream.getvalue().count("Traceback (most recent call last)") == 2
    assert stream.getvalue().count("ValueError: no such topic") == 2


def test_setting_up_again_moves_to_the_new_stream() -> None:
    first, second = io.StringIO(), io.StringIO()
    log_to(first)

    log_to(second).info("started")

    assert first.getvalue() == ""
    assert [row["event"] for row in rows(second)] == ["started"]


def test_importing_the_module_changes_nothing() -> None:
    program = (
        "import logging, structlog, daemon.logs\n"
        "assert not structlog.is_configured() and not logging.getLogger().handlers\n"
        "assert type(logging.getLogger('transformers')) is logging.Logger\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
