"""Times in settings: `"15m"` is 900 seconds."""

from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_seconds(value: object) -> object:
    """`"90s"`, `"15m"`, `"6h"`, `"7d"` or a number of seconds, as a number of seconds."""
    if isinstance(value, str) and value[-1:] in UNITS:
        return float(value[:-1]) * UNITS[value[-1]]
    return value


def format_seconds(value: float) -> str:
    """The largest unit that holds `value` whole: 5400 is `"90m"`."""
    for unit in ("d", "h", "m"):
        if value and value % UNITS[unit] == 0:
            return f"{value / UNITS[unit]:g}{unit}"
    return f"{value:g}s"


Seconds = Annotated[float, BeforeValidator(parse_seconds), PlainSerializer(format_seconds), Field(ge=0)]
