"""Whether the candidate's probabilities still mean what they say."""

import numpy as np

from daemon.config import GateConfig
from daemon.gate.answers import Answers
from daemon.gate.slices import HAIR, Comparison
from learners.evaluation import calibration_errors

#: Random swaps of the test: each one sorts all the examples again, and at p = 0.1 the error is 0.01.
SWAPS = 1_000


def judge_calibration(answers: Answers, config: GateConfig, seed: int) -> Comparison | None:
    """Expected calibration errors, lower being better; None with too few examples to judge.

    It fails when the candidate's is higher by more than the tolerance, and that beyond chance: the two models'
    answers are swapped at random, example by example (Yeh 2000), and each time the bins are drawn anew.
    """
    if len(answers) < config.slice_min:
        return None
    confidence = np.stack([answers.parent.max(axis=1), answers.candidate.max(axis=1)])
    right = np.stack(answers.right())
    swapped = np.random.default_rng(seed).integers(0, 2, size=(SWAPS, len(answers)), dtype=np.int8).astype(bool)
    parents, candidates = (
        calibration_errors(
            np.vstack([confidence[own], np.where(swapped, confidence[1 - own], confidence[own])]),
            np.vstack([right[own], np.where(swapped, right[1 - own], right[own])]),
        )
        for own in (0, 1)
    )
    rises = candidates - parents
    p_worse = float((1 + np.count_nonzero(rises[1:] >= rises[0] - 1e-12)) / (1 + SWAPS))
    passed = bool(rises[0] <= config.calibration_tolerance + HAIR or p_worse > config.alpha)
    return Comparison("calibration error", len(answers), float(parents[0]), float(candidates[0]), p_worse, passed)
