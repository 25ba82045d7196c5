from pathlib import Path
from typing import Literal

import pytest
from pydantic import ValidationError

from daemon.config import Config
from daemon.learning import job_settings
from learners.job import LEARNING_RATES, Job


def job(*, method_of_run: Literal["priors"] | None = None, **learning: object) -> Job:
    config = Config.model_validate({"learning": learning})
    parent = Path("/models/v1")
    return job_settings(
        config, id="job-1", labels=["down", "up"], parent=parent, seed=0, method=method_of_run, since=12.5
    )


@pytest.mark.parametrize("tuning", LEARNING_RATES)
def test_each_tuning_has_a_rate_of_its_own_unless_one_is_set(tuning: str) -> None:
    assert job(tuning=tuning).learning_rate == LEARNING_RATES[job(tuning=tuning).tuning]
    assert job(tuning=tuning, learning_rate=3e-4).learning_rate == 3e-4


@pytest.mark.parametrize(
    ("learning", "epochs"), [({}, 1.0), ({"epochs": 0.5}, 0.5), ({"method": "joint", "fit_epochs": 3.0}, 3.0)]
)
def test_a_run_over_everything_goes_over_it_once_unless_it_starts_afresh(
    learning: dict[str, object], epochs: float
) -> None:
    config = Config.model_validate({"learning": learning})
    parent = Path("/models/v1")
    rehearsal = job_settings(config, id="job-1", labels=["down", "up"], parent=parent, seed=0, rehearses=True)
    assert rehearsal.epochs == epochs


def test_labels_are_not_smoothed_under_a_loss_that_leaves_some_out() -> None:
    assert job(method="replay", label_smoothing=0.1).label_smoothing == 0.1
    assert job(method="er-ace+ewc", label_smoothing=0.1).label_smoothing == 0.0


def test_si_under_an_adapter_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValidationError, match="lora learns others; use ewc or mas"):
        job(method="replay+si", tuning="lora")
    assert job(method="replay+si", tuning="prompt").tuning == "prompt"


def test_a_run_that_follows_the_label_mix_learns_nothing_whatever_learning_is_set_to() -> None:
    followed = job(
        method_of_run="priors",
        method="si+replay",
        tuning="prompt",
        interpolate=True,
        pseudo_labels={"enabled": True},
        pretraining={"enabled": True},
        processes=2,
    )

    assert (followed.method, followed.since, followed.parent) == ("priors", 12.5, Path("/models/v1"))
    assert (followed.tuning, followed.interpolate, followed.calibrate, followed.processes) == ("full", False, False, 1)
    assert (followed.pseudo_labels, followed.pretraining) == (None, None)
