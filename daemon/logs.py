"""Logging: one line an event, as JSON for machines or as columns for a person.

Our own code logs with structlog, libraries with the standard library; both come out of one handler and look alike.
Decisions tell their story on one line: `log.info("promoted", version=…, parent=…, because=…)`.
"""

import logging
from typing import IO, Any

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.types import EventDict, Processor

from daemon.config import LoggingConfig

#: The packages whose loggers follow `logging.level`.
OURS = ("daemon", "connectors", "learners", "__main__")

#: Events are a few words; what belongs to them lines up behind most.
_EVENT_WIDTH = 22

_HANDLER = "relearnd"

_GREY, _BOLD, _CYAN, _RESET = "\x1b[90m", "\x1b[1m", "\x1b[36m", "\x1b[0m"
_LEVELS = {"debug": _GREY, "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}


class _Handlerless(logging.Logger):
    """A library's root logger that cannot opt out: transformers, on import, adds a handler and stops propagation."""

    @property
    def propagate(self) -> bool:
        return True

    @propagate.setter
    def propagate(self, value: bool) -> None:
        pass

    def addHandler(self, hdlr: logging.Handler) -> None:  # noqa: N802  (the standard library's name)
        pass


def set_up(config: LoggingConfig, stream: IO[str]) -> None:
    """Send every log line to `stream`. May be called again: the last call wins.

    Libraries are heard from `warning` up, or from `info` when we are at `debug`.
    """
    take_down()
    level = logging.getLevelNamesMapping()[config.level.upper()]
    terminal = config.format == "terminal" or (config.format == "auto" and stream.isatty())
    structlog.configure(
        processors=[*_annotate(terminal), ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    handler = logging.StreamHandler(stream)
    handler.name = _HANDLER
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=_annotate(terminal),
            processors=[
                ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                *([Columns(colours=stream.isatty())] if terminal else [_in_order, _to_json]),
            ],
        )
    )
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO if level == logging.DEBUG else max(level, logging.WARNING))
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    transformers = logging.getLogger("transformers")
    transformers.handlers.clear()  # of an import that came before us
    transformers.__class__ = _Handlerless
    logging.captureWarnings(True)


def take_down() -> None:
    """Write no more to the stream that `set_up` was given; without a `set_up` before, nothing happens."""
    root = logging.getLogger()
    for handler in [found for found in root.handlers if found.name == _HANDLER]:
        root.removeHandler(handler)
        handler.close()
        logging.captureWarnings(False)


def _annotate(terminal: bool) -> list[Processor]:
    # A person reads seconds; machines sort by it.
    stamp = structlog.processors.TimeStamper(fmt="%Y-%m-%dT%H:%M:%SZ" if terminal else "iso", utc=True)
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        _without_marks,
        structlog.processors.StackInfoRenderer(),
        stamp,
    ]


def _without_marks(_: Any, __: str, event: EventDict) -> EventDict:
    """Drops what other handlers' formatters leave on a record, and `ExtraAdder` takes for extras."""
    if "_record" in event:
        event.pop("message", None)
        event.pop("asctime", None)
    return event


def _in_order(_: Any, __: str, event: EventDict) -> EventDict:
    first = {key: event.pop(key) for key in ("timestamp", "level", "logger", "event") if key in event}
    return {**first, **event}


# Escapes everything that is not ASCII, so that no stream's encoding can refuse a line.
_to_json = structlog.processors.JSONRenderer(default=str)


class Columns:
    """A line for a person: time, level, event, then `key=value` in the order that the code gave them.

    Control characters are escaped: events and values may quote a stranger's text, which must not forge a line or
    reach the terminal as codes. Tracebacks follow on lines of their own.
    """

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def __call__(self, _: Any, __: str, event: EventDict) -> str:
        level, logger = str(event.pop("level")), str(event.pop("logger"))
        traces = [str(event.pop(key)) for key in ("stack", "exception") if key in event]
        columns = [
            self._paint(str(event.pop("timestamp")), _GREY),
            self._paint(f"{level:<8}", _LEVELS[level]),
            self._paint(f"{_escape(str(event.pop('event'))):<{_EVENT_WIDTH}}", _BOLD),
            *(f"{self._paint(_escape(key), _CYAN)}={_word(value)}" for key, value in event.items()),
        ]
        if logger.partition(".")[0] not in OURS:
            columns.append(self._paint(f"({logger})", _GREY))
        return "\n".join([" ".join(columns).rstrip(), *traces])

    def _paint(self, text: str, code: str) -> str:
        return f"{code}{text}{_RESET}" if self._colours else text


def _escape(text: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text.strip())


def _word(value: object) -> str:
    """Bare when it reads as one word, in quotes otherwise; floats to six digits."""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text if text.isprintable() and text and not set(text) & set(" =\"'") else repr(text)
