"""A detector from its configuration."""

from collections.abc import Mapping
from types import MappingProxyType

from daemon.config import DetectorConfig, DetectorName, SignalName
from daemon.drift.classifier import Classifier, ClassifierOptions
from daemon.drift.detector import Detector
from daemon.drift.mmd import Mmd, MmdOptions
from daemon.drift.river import Adwin, AdwinOptions, Kswin, KswinOptions, PageHinkley, PageHinkleyOptions
from daemon.drift.river_binary import (
    Ddm,
    DdmOptions,
    Eddm,
    EddmOptions,
    HddmA,
    HddmAOptions,
    HddmW,
    HddmWOptions,
)

#: The one signal that a kind can watch, where its test is made for no other; the rest watch any but `sketch`.
_MADE_FOR: Mapping[DetectorName, SignalName] = MappingProxyType(
    {"ddm": "error", "eddm": "error", "hddm_a": "error", "hddm_w": "error", "mmd": "sketch", "classifier": "sketch"}
)


def build(config: DetectorConfig, seed: int) -> Detector:
    """The detector that `config` asks for.

    Raises:
        ValueError: the kind cannot watch the signal, or an option is unknown or out of range; the message names the
            option and those there are.
    """
    name = f"{config.kind} on {config.signal}"
    _refuse_other_signals(config)
    match config.kind:
        case "adwin":
            return Adwin(name, AdwinOptions.of(config))
        case "kswin":
            return Kswin(name, KswinOptions.of(config), seed)
        case "page_hinkley":
            return PageHinkley(name, PageHinkleyOptions.of(config))
        case "ddm":
            return Ddm(name, DdmOptions.of(config))
        case "eddm":
            return Eddm(name, EddmOptions.of(config))
        case "hddm_a":
            return HddmA(name, HddmAOptions.of(config))
        case "hddm_w":
            return HddmW(name, HddmWOptions.of(config))
        case "mmd":
            return Mmd(name, MmdOptions.of(config), seed)
        case "classifier":
            return Classifier(name, ClassifierOptions.of(config), seed)


def _refuse_other_signals(config: DetectorConfig) -> None:
    made_for = _MADE_FOR.get(config.kind)
    if made_for is not None and config.signal != made_for:
        raise ValueError(f"{config.kind} on {config.signal}: it can watch {made_for} alone; set `signal: {made_for}`")
    if made_for is None and config.signal == "sketch":
        others = " or ".join(kind for kind, signal in _MADE_FOR.items() if signal == "sketch")
        raise ValueError(
            f"{config.kind} on sketch: it watches one number a text; use {others} for sketches, or another signal"
        )
