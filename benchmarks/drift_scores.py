"""The texts that drift is measured on, scored once by a version 1, and the signals of streams made of them."""

import gzip
import hashlib
import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

import daemon
import learners
from benchmarks.drift_streams import Ints, Pool, Stream, View, wrong
from benchmarks.stretches import DOMAINS
from daemon.config import Config
from daemon.drift.monitor import STRIDE
from daemon.drift.signals import INPUTS, Signals, Texts
from daemon.fit import fit
from daemon.registry import Registry
from daemon.rows import labelled
from daemon.state import open_state
from learners.device import resolve
from learners.judging import TOKEN_BUDGET
from learners.model import load
from learners.scoring import forward_batches

#: What is scored, and the sources that the texts of the last two get; the domains' own are in the rows.
FILES = ("domains.texts", "domains.holdout", "crash2020.texts", "gold.texts")
CRASH, GOLD = "crash2020", "gold 2000 to 2017"

#: Streams that come on their true days, and the files that their labels are in.
RECORDED = {"crash2020.texts": CRASH, "gold.texts": GOLD}

#: The code that decides what a score is: scores are kept by its hash.
CODE = (Path(learners.__file__).parent / "model.py", Path(learners.__file__).parent / "scoring.py")

_HERE, _DRIFT = Path(__file__).parent, Path(daemon.__file__).parent / "drift"

#: The code that decides what a stream is, and a signal: what others make of them is kept by its hash.
SIGNALS = (_HERE / "drift_streams.py", *(_DRIFT / name for name in ("signals.py", "wording.py", "novelty.py")))

#: The code that decides when we alarm: our figures are kept by its hash.
DETECTION = (_HERE / "drift_ours.py", _DRIFT)


def digest(paths: Sequence[Path]) -> str:
    """Of these files, and of the modules in these folders: 12 hexadecimal digits."""
    found = hashlib.sha256()
    for path in paths:
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            found.update(file.read_bytes())
    return found.hexdigest()[:12]


def pool(data: Path, out: Path, say: Console) -> Pool:
    """All of `FILES` as version 1 scores them. It is fitted, and they are scored, unless that was done in `out`."""
    home = out / "home"
    if not Registry(home / "models").manifests():
        say.log("fitting version 1 on domains.base")
        base = labelled(data / "domains.base.jsonl.gz")
        home.mkdir(parents=True, exist_ok=True)
        fit(base, open_state(home / "state.db"), Config(home=home), show=lambda progress: None)  # noqa: ARG005
    labels = Registry(home / "models").manifests()[0].labels
    rows = [row for name in FILES for row in _rows(data, name)]
    scores = [_scored(home, data, name, out, say) for name in FILES]
    return Pool(
        texts=[row["text"] for row in rows],
        source=np.array([row["domain"] for row in rows]),
        labels=labels,
        truth=np.array([labels.index(row["label"]) if row["label"] in labels else -1 for row in rows]),
        probabilities=np.concatenate([probabilities for probabilities, _ in scores]),
        sketches=np.concatenate([sketches for _, sketches in scores]),
        moments=np.array([row["moment"] for row in rows]),
    )


def _scored(home: Path, data: Path, name: str, out: Path, say: Console) -> tuple[npt.NDArray[np.float32], ...]:
    kept = out / digest(CODE) / f"{name}.npz"
    if not kept.exists():
        say.log(f"scoring {name}")
        compute = resolve("auto", "auto")
        model = load(home / "models" / "v1", compute.device)
        tokens = model.tokenise([row["text"] for row in _rows(data, name)])
        scores = forward_batches(model, tokens, TOKEN_BUDGET, compute)
        kept.parent.mkdir(parents=True, exist_ok=True)
        # Sketches as they are in a score's record.
        np.savez(kept, probabilities=scores.probabilities, sketches=scores.sketches.astype(np.float16))
    with np.load(kept, allow_pickle=False) as file:
        return file["probabilities"], file["sketches"].astype(np.float32)


def _rows(data: Path, name: str) -> list[dict[str, Any]]:
    """Rows with a `domain`, a `label` ("" for none) and a `moment` in POSIX seconds (0 for none)."""
    label_file = data / f"{name.removesuffix('.texts')}.labels.jsonl.gz"
    labels = {row["id"]: row["label"] for row in _read(label_file)} if label_file.exists() else {}
    return [
        {
            "text": row["text"],
            "label": row.get("label") or labels.get(row["id"], ""),
            "domain": RECORDED.get(name) or row.get("domain") or DOMAINS[row["source"]],
            "moment": datetime.fromisoformat(row["timestamp"]).timestamp() if "timestamp" in row else 0.0,
        }
        for row in _read(data / f"{name}.jsonl.gz")
    ]


def _read(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def texts(pool: Pool, places: Ints) -> Texts:
    probabilities = pool.probabilities[places].astype(np.float64)
    return Texts([pool.texts[at] for at in places], pool.sketches[places], probabilities)


def views(pool: Pool, streams: Sequence[Stream], nearest: int) -> list[View]:
    """Each stream's signals, as any detector may have them.

    `meaning` and `novelty` are the daemon's own scores of a text's sketch, and of its sketch and wording, over what is
    usual; `uncertainty` is 1 less the top probability; `sentiment` 0 (negative for certain) to 1; `error` 0 or 1.
    `sketch` is the sketch itself. What compares with neighbours is warmed up with the reference texts that are none.
    """
    negative, positive = pool.labels.index("negative"), pool.labels.index("positive")
    known: dict[str, tuple[Signals, dict[str, npt.NDArray[np.floating]]]] = {}

    def inputs(signals: Signals, places: Ints) -> dict[str, npt.NDArray[np.floating]]:
        values = signals.values(texts(pool, places))
        return {name: values[:, at] / signals.centre[at] for at, name in enumerate(INPUTS) if name in COMPARED}

    def others(places: Ints, flipped: npt.NDArray[np.bool_] | None = None) -> dict[str, npt.NDArray[np.floating]]:
        chances = pool.probabilities[places].astype(np.float64)
        return {
            "uncertainty": 1 - chances.max(axis=1),
            "sentiment": (1 + chances[:, positive] - chances[:, negative]) / 2,
            "error": wrong(pool, places, flipped),
            "sketch": pool.sketches[places],
        }

    found = []
    for stream in streams:
        if stream.window not in known:
            neighbour = np.arange(len(stream.reference)) % STRIDE == 0
            signals = Signals.of(texts(pool, stream.reference[neighbour]), nearest)
            warm = inputs(signals, stream.reference[~neighbour]) | others(stream.reference)
            known[stream.window] = signals, warm
        signals, warm = known[stream.window]
        found.append(View(stream, warm, inputs(signals, stream.texts) | others(stream.texts, stream.flipped)))
    return found


#: The signals that compare a text with its neighbours in the reference window.
COMPARED = ("meaning", "novelty")
