"""The axes of the report's plots: from texts, times and values to pixels, and from many points to as many as show."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from daemon.records import utc

Floats = npt.NDArray[np.float64]

#: The plots' coordinate system, in pixels: all share it, so that one moment is one vertical line down the page.
WIDTH, LEFT, RIGHT = 1000.0, 84.0, 916.0

#: A plot is some 830 pixels wide; with two points a pixel, more would fall on each other.
POINTS = 800

_TWO_DAYS = 2 * 86_400


class Tick(NamedTuple):
    """A mark on an axis: where it is, in pixels, and what it says."""

    at: float
    label: str
    date: str = ""


class TimeAxis:
    """The horizontal axis: a text's place in the stream, and the stream's clock beside it."""

    def __init__(self, texts: int, index: npt.ArrayLike, at: npt.ArrayLike) -> None:
        """`index` and `at` `[anchors]` say what time it was (seconds since the epoch) at which text; one at least."""
        self.texts = max(texts, 1)
        order = np.argsort(np.asarray(index), kind="stable")
        self._index = np.asarray(index, np.float64)[order]
        # Texts may arrive a little out of order, and interpolation needs a clock that never goes back.
        self._at = np.maximum.accumulate(np.asarray(at, np.float64)[order])

    def x(self, index: npt.ArrayLike) -> Floats:
        """Where text number `index` is, in pixels; what lies outside the stream is at its edge."""
        share = np.clip(np.asarray(index, np.float64) / self.texts, 0, 1)
        return np.asarray(LEFT + share * (RIGHT - LEFT), np.float64)

    def x_at(self, at: float) -> float:
        """Where the stream was at the time `at`, in pixels."""
        return float(self.x(np.interp(at, self._at, self._index)))

    def ticks(self) -> list[Tick]:
        form = "%d %b %Y" if self._at[-1] - self._at[0] > _TWO_DAYS else "%d %b %H:%M"
        places = [place for place in steps(0, self.texts, 8) if place <= self.texts and place == int(place)]
        times = np.interp(places, self._index, self._at)
        return [
            Tick(float(self.x(place)), f"{place:,.0f}", utc(float(at)).strftime(form).lstrip("0"))
            for place, at in zip(places, times, strict=True)
        ]


class Scale:
    """A vertical axis, from the least of `values` near the pixel `bottom` to the greatest near `top`.

    With `logarithmic`, it is so if the values are positive and span more than a factor of a thousand.
    """

    def __init__(self, values: Floats, top: float, bottom: float, *, logarithmic: bool = False) -> None:
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        # Evidence of a martingale grows exponentially; on a linear axis only its last moment would show.
        self.logarithmic = logarithmic and low > 0 and high / low > 1000
        if self.logarithmic:
            low, high = np.floor(np.log10(low)), np.ceil(np.log10(high))
        if high - low < 1e-9 * max(abs(low), 1):
            high = low + max(abs(low), 1e-6)
        self._places = steps(low, high, 3 if bottom - top < 100 else 5)
        self._top, self._bottom = top, bottom

    def y(self, values: npt.ArrayLike) -> Floats:
        """Where `values` are, in pixels, which grow downwards."""
        return self._y(np.log10(values) if self.logarithmic else np.asarray(values, np.float64))

    def ticks(self) -> list[Tick]:
        form = "1e{:g}" if self.logarithmic else "{:g}"
        return [Tick(float(self._y(np.float64(place))), form.format(place)) for place in self._places]

    def _y(self, drawn: npt.NDArray[np.float64] | np.float64) -> Floats:
        share = (drawn - self._places[0]) / (self._places[-1] - self._places[0])
        return np.asarray(self._bottom - share * (self._bottom - self._top), np.float64)


def steps(low: float, high: float, most: int) -> list[float]:
    """Some `most` round numbers, evenly apart, from one at or below `low` to one at or above `high` > `low`."""
    rough = (high - low) / most
    size = float(10.0 ** np.floor(np.log10(rough)))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10, 20) if size * factor >= rough)
    # A number that is round but for its last bits is round.
    first, last = int(np.floor(low / step + 1e-9)), int(np.ceil(high / step - 1e-9))
    return [float(f"{place * step:.12g}") for place in range(first, max(last, first + 1) + 1)]


def rolling_share(right: npt.NDArray[np.bool_], window: int) -> Floats:
    """`[n]`: the share of true among each element and the up to `window` - 1 before it."""
    total = np.concatenate([[0], np.cumsum(right)])
    ends = np.arange(1, len(right) + 1)
    starts = np.maximum(ends - window, 0)
    return np.asarray((total[ends] - total[starts]) / (ends - starts), np.float64)


def evenly(start: int, stop: int) -> npt.NDArray[np.intp]:
    """At most `POINTS` positions from `start` to before `stop`, evenly apart, the first and the last among them."""
    return np.unique(np.linspace(start, stop - 1, min(POINTS, stop - start)).round().astype(np.intp))


def envelope(values: Floats) -> npt.NDArray[np.intp]:
    """At most `POINTS` positions in `values`, in order, that keep every peak and trough in sight."""
    if len(values) <= POINTS:
        return np.arange(len(values))
    chosen: set[int] = set()
    for bucket in np.array_split(np.arange(len(values)), POINTS // 2):
        chosen |= {int(bucket[values[bucket].argmin()]), int(bucket[values[bucket].argmax()])}
    return np.array(sorted(chosen), np.intp)


def polyline(x: Floats, y: Floats) -> str:
    """The `points` of an SVG polyline."""
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def between(x: Floats, y: Floats, base: Floats) -> str:
    """The `points` of the SVG polygon between two lines."""
    return polyline(np.concatenate([x, x[::-1]]), np.concatenate([y, base[::-1]]))


def apart(ys: Sequence[float], distance: float) -> tuple[float, float]:
    """Two heights, moved away from each other until they are `distance` apart."""
    first, second = ys
    push = max(0.0, distance - abs(second - first)) / 2 * (1 if second >= first else -1)
    return first - push, second + push
