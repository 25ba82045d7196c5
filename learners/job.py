"""What passes between the daemon and a learner: a directory.

The daemon writes, then starts `python -m learners JOB_DIR`:

    job.json          a `Job`
    new.jsonl         `Example` rows to learn: labelled since the parent learned. A job that leaves the parent `as-is`
                      judges it on these too
    replay.jsonl      `Example` rows to keep: the balanced memory of what is older
    gate.jsonl        `Example` rows held out from learning, on which champion and candidate are compared; fresh are
                      those that were labelled since the champion learned
    audit.jsonl       `Example` rows that nothing is learned or decided from, to check afterwards. May be missing
    recent.jsonl      `Recent` rows: the stream's latest texts, to be scored again by the candidate. The daemon replaces
                      it as the stream goes on; the learner reads it last
    unlabelled.jsonl  `Recent` rows without a label, none of them held out: to be read, or learned under the parent's
                      word; to `priors`, what the label mix is by now. Not there in a job that does none of these

The learner leaves:

    metrics.jsonl     `Progress` rows as it goes
    checkpoint.safetensors  training as far as it has come, until the job is done: see `learners.checkpoint`
    candidate/        the model (see `learners.model`) and what its method carries to the next job: `ewc.safetensors`
                      and its like; the adapter that was merged into it
    judged.jsonl      `Judged` rows: both models on every gate example, in the order of gate.jsonl
    audited.jsonl     `Judged` rows: both models on every audit example, in the order of audit.jsonl
    rescored.jsonl    `Rescored` rows: the candidate on every recent text, in the order of recent.jsonl
    tensorboard/      the same as metrics.jsonl for TensorBoard, in a job that asks for it
    report.json       a `Report`, written last: its presence means that the job is done
    error.json        a `Failure` instead, when it cannot be done
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from learners.methods.names import UNLEARNING, canonical, of_a_run, parts, starts_afresh

#: A way to learn: parts joined by `+`, see `learners.methods.names`.
Method = Annotated[str, AfterValidator(canonical)]

#: What a run does: learn by a method; or `priors`, which moves the parent's bias, see `learners.priors`; or `as-is`,
#: which moves nothing.
RunMethod = Annotated[str, AfterValidator(of_a_run)]

#: Which weights are learned, see `learners.tuning`.
Tuning = Literal["full", "lora", "adalora", "ia3", "prefix", "prompt", "adapter"]

#: Learning rates that each takes: the fewer weights, the further each must move.
LEARNING_RATES: dict[Tuning, float] = {
    "full": 5e-5,
    "lora": 5e-4,
    "adalora": 1e-3,
    "ia3": 3e-3,
    "prefix": 3e-3,
    "prompt": 3e-3,
    "adapter": 1e-3,
}

#: Ways of tuning that learn other weights than those that are saved.
MERGED = frozenset({"lora", "adalora", "ia3"})

#: Where a learner leaves the candidate, in the job's directory.
CANDIDATE = "candidate"

Row = TypeVar("Row", bound=BaseModel)


class _Strict(BaseModel):
    # A model that answers NaN is told so by the gate; as null, its rows and its report could not even be read.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class Example(_Strict):
    """A labelled text. `group` says how the gate reads it: fresh from the stream, or kept from before."""

    id: str
    text: str
    label: str
    source: str | None = None
    key: str | None = None
    timestamp: float = 0.0
    weight: float = Field(default=1.0, gt=0)
    group: Literal["fresh", "old"] = "fresh"


class Recent(_Strict):
    """A text of the recent stream, without its label."""

    id: str
    text: str
    key: str | None = None
    source: str | None = None
    timestamp: float = 0.0


class EWC(_Strict):
    """Online elastic weight consolidation (Schwarz et al. 2018, "Progress & Compress")."""

    strength: float = Field(ge=0)
    decay: float = Field(ge=0, le=1)
    samples: int = Field(gt=0)


class SI(_Strict):
    """Synaptic intelligence (Zenke et al. 2017)."""

    strength: float = Field(ge=0)
    decay: float = Field(ge=0, le=1)


class MAS(_Strict):
    """Memory aware synapses (Aljundi et al. 2018)."""

    strength: float = Field(ge=0)
    decay: float = Field(ge=0, le=1)
    samples: int = Field(gt=0)


class LwF(_Strict):
    """Learning without forgetting (Li & Hoiem 2017)."""

    strength: float = Field(ge=0)
    temperature: float = Field(gt=0)


class DER(_Strict):
    """Dark experience replay (Buzzega et al. 2020)."""

    strength: float = Field(ge=0)


class AGEM(_Strict):
    """Averaged gradient episodic memory (Chaudhry et al. 2019)."""

    samples: int = Field(gt=0)


class Adapter(_Strict):
    """How large an adapter is: of LoRA's kind, its rank; prompt or prefix, its tokens; bottlenecks, their width."""

    rank: int = Field(gt=0)
    tokens: int = Field(gt=0)
    width: int = Field(gt=0)


class PseudoLabels(_Strict):
    """Labels that the parent gives (Sohn et al. 2020, "FixMatch"). `forms` of each text must get the same one."""

    precision: float = Field(gt=0, le=1)
    weight: float = Field(gt=0, le=1)
    ratio: float = Field(gt=0)
    forms: int = Field(gt=0)


class Pretraining(_Strict):
    """Guessing hidden words before learning (Gururangan et al. 2020, "Don't stop pretraining")."""

    epochs: float = Field(gt=0)
    learning_rate: float = Field(gt=0)
    mask_share: float = Field(gt=0, lt=1)
    max_steps: int = Field(gt=0)


class Job(_Strict):
    """One training run. Paths are absolute.

    It goes on from `parent`, and is judged beside `champion`: the parent itself unless that is a candidate that never
    went live, or what learned the weights of a champion that follows the label mix.

    A batch is learned in `accumulate` parts. `max_steps` of 0 is no limit; after `patience` passes without anything
    better on held-out examples training stops, 0 is never; `checkpoint_every` is in seconds. `focus` is the share of
    the new and replayed examples that is gone over, see `learners.focus`. `since` is when the label mix moved, in
    seconds since the epoch, for `priors`. One that `rehearses` has everything remembered among its new examples.
    """

    id: str
    method: RunMethod
    labels: list[str] = Field(min_length=2)
    parent: Path | None = None
    champion: Path | None = None
    since: float = 0.0
    rehearses: bool = False
    encoder: str
    epochs: float = Field(gt=0)
    learning_rate: float = Field(gt=0)
    warmup_share: float = Field(ge=0, le=1)
    weight_decay: float = Field(ge=0)
    batch_size: int = Field(gt=0)
    accumulate: int = Field(default=1, gt=0)
    min_steps: int = Field(default=0, ge=0)
    max_steps: int = Field(default=0, ge=0)
    patience: float = Field(default=0.0, ge=0)
    checkpoint_every: float = Field(default=60.0, gt=0)
    max_tokens: int = Field(gt=2)
    processes: int = Field(default=1, gt=0)
    tensorboard: bool = False
    wandb_project: str | None = None
    ewc: EWC
    si: SI
    mas: MAS
    lwf: LwF
    der: DER
    agem: AGEM
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    focus: float = Field(default=1.0, gt=0, le=1)
    tuning: Tuning = "full"
    adapter: Adapter = Adapter(rank=8, tokens=16, width=48)
    interpolate: bool = False
    calibrate: bool = False
    pseudo_labels: PseudoLabels | None = None
    pretraining: Pretraining | None = None
    augmentation: float = Field(default=0.0, ge=0, le=1)
    seed: int
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _plain_weights_are_followed(self) -> "Job":
        if "si" in parts(self.method) and self.tuning in MERGED:
            raise ValueError(f"si follows plain weights as they learn, and {self.tuning} learns others; use ewc or mas")
        return self

    @model_validator(mode="after")
    def _there_is_a_parent_to_keep(self) -> "Job":
        if self.method in UNLEARNING and self.parent is None:
            raise ValueError(f"{self.method} keeps the weights of a parent, and there is none; learn one by a method")
        return self

    @model_validator(mode="after")
    def _there_is_a_way_between(self) -> "Job":
        if self.interpolate and starts_afresh(self.method):
            raise ValueError(f"interpolate goes back towards the parent, and {self.method} does not start from it")
        return self


class Progress(_Strict):
    """One line of metrics.jsonl; `step` of `steps` optimiser steps of the phase are done."""

    step: int
    steps: int
    loss: float
    penalty: float
    learning_rate: float
    seconds: float
    phase: Literal["pretraining", "learning"] = "learning"


class Swapped(_Strict):
    """What each model says of an example when the names in it are swapped for others, see `learners.renaming`.

    `parent` is the champion, as in all that is judged.
    """

    parent: list[float] | None
    candidate: list[float]


class Judged(_Strict):
    """One held-out example and the probability that each model gave to each of the job's labels, in their order.

    `selected` says that it was used to choose something about the candidate, so that it proves nothing any more;
    `tempered` that the candidate's temperature was fitted to it, so that it proves nothing of how sure that is.
    """

    id: str
    label: str
    source: str | None
    key: str | None
    group: Literal["fresh", "old"]
    parent: list[float] | None
    candidate: list[float]
    selected: bool = False
    tempered: bool = False
    swapped: Swapped | None = None


class Rescored(_Strict):
    """A recent text under the candidate: probabilities in the order of the job's labels, and its sketch."""

    id: str
    key: str | None
    source: str | None
    timestamp: float
    probabilities: list[float]
    sketch: list[float]


class Quality(_Strict):
    """A model on the gate examples; `seconds` is the time to score all of them.

    `calibration_error` is the expected one, see `learners.evaluation`.
    """

    accuracy: float
    macro_f1: float
    loss: float
    calibration_error: float
    seconds: float


class Report(_Strict):
    """`interpolation` is the candidate's share of the way from its parent's weights to the trained ones, if chosen.

    `temperature` is what its logits are divided by. `kept_step` is the one whose weights were kept, where early
    stopping chose one. `samples` are examples that were gone over, each as often as it was.
    `pseudo_labelled` texts were learned under the parent's word, at `pseudo_label_threshold` of its confidence or more;
    None if no confidence was good enough. `passed_over` were in the job and not gone over. `pretraining_steps` came
    before `steps`. `trained_weights` are how many numbers training could change; `tuning` says which. `old_priors` and
    `new_priors`, by label, are those that a run of `priors` has told; `odds` how much likelier its candidate takes each
    label to be than what learned its weights.
    """

    job: str
    method: RunMethod
    examples: int
    replayed: int
    steps: int
    samples: int
    seconds: float
    parent: Quality | None
    candidate: Quality
    interpolation: float | None = None
    temperature: float = 1.0
    pseudo_labelled: int = 0
    pseudo_label_threshold: float | None = None
    pretraining_steps: int = 0
    kept_step: int | None = None
    passed_over: int = 0
    tuning: Tuning = "full"
    trained_weights: int = 0
    old_priors: dict[str, float] | None = None
    new_priors: dict[str, float] | None = None
    odds: dict[str, float] | None = None
    data_sha256: str
    seed: int


class Failure(_Strict):
    """Why a job could not be done: the error and what to do about it."""

    error: str
    detail: str


def write_rows(path: Path, rows: Iterable[BaseModel]) -> None:
    """Write one JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(row.model_dump_json())
            file.write("\n")


def read_rows(path: Path, kind: type[Row]) -> Iterator[Row]:
    """Read what `write_rows` wrote. Raises pydantic.ValidationError on a row that is not a `kind`."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield kind.model_validate_json(line)
