"""Small streams for the daemon's tests, and settings that fit them."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from connectors.topic import Message
from daemon.config import Config
from tests.sentences import sentence

#: The stream's own beginning; one text comes every minute.
START = datetime(2026, 1, 1, tzinfo=UTC)


def settings(home: Path, encoder: Path, **changes: Any) -> Config:
    """Settings for the tiny model and short streams; `changes` by section."""
    given: dict[str, Any] = {
        "home": home,
        "model": {"encoder": str(encoder), "max_tokens": 32, "device": "cpu", "precision": "float32", "threads": 1},
        "learning": {
            "learning_rate": 5e-3,
            "batch_size": 8,
            "fit_epochs": 6.0,
            "epochs": 4.0,
            "threads": 1,
            "niceness": 0,
            "ewc": {"strength": 0.1, "samples": 16},
        },
        "memory": {"gate_share": 0.25, "recent": 400, "replay": 200, "rescored": 100},
        "drift": {"reference": 60, "false_alarm_every": 1_000},
        "triggers": {
            "labels": 0,
            "drift_labels": 60,
            "min_labels": 30,
            "cooldown": 0,
            "accuracy": {"window": 50, "drop": 1.0},
        },
        "gate": {"min_examples": 10, "slice_min": 15, "max_slowdown": 10.0},
        "http": {"enabled": False},
        "logging": {"level": "warning"},
    }
    for section, values in changes.items():
        given[section] = {**given.get(section, {}), **values} if isinstance(values, dict) else values
    return Config.model_validate(given)


def text_row(number: int, *, slang: bool = False, **fields: Any) -> dict[str, Any]:
    text, _ = sentence(number, slang=slang)
    moment = START + timedelta(minutes=number)
    source = "slang" if slang else "formal"
    return {
        "id": f"t{number}",
        "text": text,
        "timestamp": moment.isoformat(),
        "source": source,
        "key": "ACME",
        **fields,
    }


def label_row(number: int, *, slang: bool = False, minutes: int = 20, **fields: Any) -> dict[str, Any]:
    _, label = sentence(number, slang=slang)
    moment = START + timedelta(minutes=number + minutes)
    return {"id": f"t{number}", "label": label, "timestamp": moment.isoformat(), **fields}


def drifting(texts: int, turn: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Formal sentences that turn into slang at text number `turn`, with their labels."""
    return (
        [text_row(number, slang=number >= turn) for number in range(texts)],
        [label_row(number, slang=number >= turn) for number in range(texts)],
    )


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def as_messages(topic: str, rows: list[dict[str, Any]]) -> Iterator[Message]:
    for offset, row in enumerate(rows):
        yield Message(topic, 0, offset, 0.0, None, json.dumps(row).encode(), {})
