"""Everything that can be set, as one typed model: parsed once, at the door."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from connectors.kafka.settings import KafkaSettings
from connectors.seconds import UNITS
from connectors.seconds import Seconds as Seconds
from connectors.seconds import format_seconds as format_seconds
from connectors.seconds import parse_seconds as parse_seconds
from daemon.formats.settings import AlertsShape, Format, LabelsShape, SchemaRegistrySettings, ScoresShape, TextsShape
from learners.job import LEARNING_RATES, MERGED, Method, Tuning
from learners.methods.names import parts, starts_afresh

MINUTE, HOUR, DAY = UNITS["m"], UNITS["h"], UNITS["d"]

Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class TopicsConfig(Section):
    """What each topic is called at your connector."""

    texts: str = Field("texts", description="Texts to be scored; written by you.")
    scores: str = Field("scores", description="Scored texts.")
    labels: str = Field("labels", description="What texts truly were; written by you, minutes or days later.")
    alerts: str = Field("alerts", description="Spikes of the watched label: firing and resolved.")
    label_requests: str = Field("label-requests", description="Texts whose labels would help most.")
    dead_letters: str = Field("dead-letters", description="What could not be read, with the reason and its origin.")
    models: str = Field("models", description="Which version is champion; compacted.")


class LocalConfig(Section):
    """Topics in one SQLite file."""

    path: Path | None = Field(None, description="The log's SQLite file; `topics.db` in `home` when empty.")
    retention: Seconds = Field(
        7 * DAY,
        description="Messages older than this are deleted once every group has read them; 0 keeps all.",
    )


class JsonlConfig(Section):
    """Topics in files of JSON lines."""

    directory: Path | None = Field(
        None, description="Each topic is `TOPIC.jsonl` (or .jsonl.gz) here; `topics/` in `home` when empty."
    )
    follow: bool = Field(False, description="Keep waiting for new lines at the end of a file.")


class ConnectorConfig(Section):
    """Where the topics are."""

    kind: Literal["local", "kafka", "jsonl"] = Field(
        "local", description="`local`: one SQLite file, safe between processes. `kafka`: Apache Kafka. `jsonl`: files."
    )
    local: LocalConfig = LocalConfig()
    kafka: KafkaSettings = KafkaSettings()
    jsonl: JsonlConfig = JsonlConfig()


class RecordsConfig(Section):
    """Bounds on what is read; what breaks one goes to the dead-letters topic."""

    max_text_chars: int = Field(20_000, gt=0, description="Longest text, in characters.")
    max_record_bytes: int = Field(262_144, gt=0, description="Largest message, in bytes.")
    max_future: Seconds = Field(DAY, description="How far ahead of the clock a timestamp may be.")
    texts: TextsShape = TextsShape()
    labels: LabelsShape = LabelsShape()
    scores: ScoresShape = ScoresShape()
    alerts: AlertsShape = AlertsShape()
    registry: SchemaRegistrySettings = SchemaRegistrySettings()

    @model_validator(mode="after")
    def _schemas_have_a_registry(self) -> "RecordsConfig":
        for name, kind in self.formats.items():
            if kind != "json" and not self.registry.url:
                raise ValueError(f"records.{name}.format is {kind}, and that needs records.registry.url")
        return self

    @property
    def formats(self) -> dict[str, Format]:
        """The format of each topic that may have another than JSON."""
        return {
            "texts": self.texts.format,
            "labels": self.labels.format,
            "scores": self.scores.format,
            "alerts": self.alerts.format,
        }


class ModelConfig(Section):
    """The model and the device it runs on."""

    encoder: str = Field(
        "minilm",
        description="Where version 1 starts: `minilm` (shipped, offline), or a Hugging Face encoder's path or id.",
    )
    max_tokens: int = Field(128, gt=2, le=8192, description="Tokens of a text that the model reads.")
    device: str = Field("auto", description="`auto` (GPU when there is one), `cpu`, `cuda` or `cuda:N`.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="`auto`: bfloat16 where the GPU or CPU has instructions for it, else float32."
    )
    threads: int = Field(0, ge=0, description="CPU threads for a forward pass; 0 leaves it to torch.")


class RegistryConfig(Section):
    """Where scorers on other machines get the versions that go live."""

    url: str = Field(
        "",
        description="A folder, by path or URL (`/mnt/models`, `s3://bucket/models`), that each promoted version is "
        "copied to and that scorers fetch it from; empty where they can read `models/` in `home`.",
    )


class ScorerConfig(Section):
    """How texts are batched on their way through the model."""

    max_texts: int = Field(256, gt=0, description="Texts read and committed together, at most.")
    token_budget: int = Field(
        0, ge=0, description="Padded tokens in one forward pass, at most; 0: 2048 on a CPU, 16384 on a GPU."
    )
    queue: int = Field(2, gt=0, description="Batches that may wait between two stages.")
    sketch_share: Share = Field(1.0, description="Share of scores that carry a sketch, chosen by a hash of the id.")


class LabelsConfig(Section):
    """How labels find their scores."""

    horizon: Seconds = Field(14 * DAY, description="How long a score waits for its label, and a label for its score.")
    max_waiting: int = Field(200_000, gt=0, description="Scores that may wait for a label; the oldest expire first.")
    agreement: Share = Field(
        0.6,
        description="Share of a text's votes, by weight, that its label needs when annotators differ; with less it is "
        "set aside for review.",
    )
    # Of 5 % flipped labels on a stream of six domains, 0.05 found a quarter; two in three of those found were flipped.
    error_below: Share = Field(
        0.0,
        lt=1,
        description="Before a run, labels that a cross-check finds less likely than this are set aside for review "
        "(0.05 is a good start); 0 turns it off.",
    )
    hold: bool = Field(
        True,
        description="Hold back a sudden run of labels that contradict confident scores of a source where these used "
        "to be right, until a person has looked.",
    )


class AskingConfig(Section):
    """Asking people, on the topic `label-requests`, for the labels that would help most."""

    daily_budget: int = Field(0, ge=0, description="Requests in any 24 hours of the stream, at most; 0 asks nothing.")
    every: int = Field(100, gt=0, description="Texts from one round of requests to the next.")


class MemoryConfig(Section):
    """The labelled examples that a model learns from and is judged on."""

    recent: int = Field(2_000, gt=0, description="Newest labelled examples to learn from: a sliding window.")
    replay: int = Field(20_000, ge=0, description="Older ones kept for replay, balanced by time, class and source.")
    keep: Literal["uniform", "loss", "diversity"] = Field(
        "uniform",
        description="Which of those of one class and source stay when the older part is full: a `uniform` sample over "
        "time; with more chance the higher the `loss` of the model that scored them; or those least like each other.",
    )
    gate_share: Share = Field(0.15, description="Share of labels held out for the gate.")
    audit_share: Share = Field(0.05, description="Share of labels that nothing uses but an audit.")
    rescored: int = Field(
        2_000, ge=0, description="Latest texts that a candidate scores again: a new champion's reference and baseline."
    )
    unlabelled: int = Field(
        2_000,
        ge=0,
        description="Latest texts without a label that a run may use, where `learning.pseudo_labels` or "
        "`learning.pretraining` is on.",
    )
    held_out: int = Field(3_000, gt=0, description="Held-out examples kept, balanced like the replay part.")


DetectorName = Literal["adwin", "kswin", "page_hinkley", "ddm", "eddm", "hddm_a", "hddm_w", "mmd", "classifier"]
SignalName = Literal["uncertainty", "novelty", "error", "sketch"]


class DetectorConfig(Section):
    """One drift detector."""

    kind: DetectorName = Field(
        description="`adwin`, `kswin` or `page_hinkley` (River's; for single values), `ddm`, `eddm`, `hddm_a` or "
        "`hddm_w` (River's; for `error` alone), `mmd` (kernel two-sample test) or `classifier` (domain classifier; "
        "both for `sketch` alone)."
    )
    signal: SignalName = Field(
        description="`uncertainty` (1 less the top probability), `novelty` (sketch against the reference window), "
        "`error` (of labelled texts: 1 where the score was wrong, else 0) or `sketch` (the sketch itself)."
    )
    options: dict[str, float] = Field(
        {}, description="What that kind can be told; `relearnd check` names its options when one is wrong."
    )


class DriftConfig(Section):
    """What is watched for drift, and by what."""

    false_alarm_every: int = Field(
        10_000,
        ge=0,
        description="Texts from one false alarm to the next, on average and at least, while nothing changes; of alarms "
        "on the whole stream, its sources and its keys together. 0 turns this evidence off.",
    )
    # Of 500, 1,000 and 1,500, the last found one text in ten of something new soonest: 100 texts against 150 and 200.
    reference: int = Field(
        1_500,
        ge=30,
        description="Texts of the champion's reference window; with a twentieth of them it begins to watch.",
    )
    neighbours: int = Field(5, gt=0, description="Meaning: mean distance to this many nearest reference sketches.")
    detectors: list[DetectorConfig] = Field([], description="Other detectors beside it, and the signal each watches.")


class AccuracyDropConfig(Section):
    """When live accuracy has fallen enough to learn."""

    drop: Share = Field(0.08, description="Fall of live accuracy below the champion's own, 0 to 1.")
    window: int = Field(300, gt=0, description="Labelled texts that accuracy is taken over.")


class TriggersConfig(Section):
    """When a training run starts. Every trigger, fired or held, is recorded with its reason."""

    labels: int = Field(1_000, ge=0, description="New labels that start a run; 0 turns this off.")
    drift_labels: int = Field(
        150, gt=0, description="New labels since the drift began to show, before an alarm starts a run."
    )
    accuracy: AccuracyDropConfig = AccuracyDropConfig()
    schedule: str = Field("", description="A cron expression (`0 3 * * *`) in UTC; empty for none.")
    rehearse: Share = Field(
        0.5,
        description="Of all remembered examples, the share that has come since a run last went over all of them, at "
        "which the next one does so, once; one on the schedule always does, and one that drift or accuracy calls for "
        "does not. 0 turns this off.",
    )
    min_labels: int = Field(
        100,
        gt=0,
        description="No run with fewer new labels than this. Nor is a candidate that lacked nothing but proof judged "
        "again before so many have come, and then whenever they have doubled.",
    )
    cooldown: Seconds = Field(
        30 * MINUTE,
        description="Shortest time between the starts of two runs that learn, and before one that follows the label "
        "mix.",
    )
    daily_budget: int = Field(48, gt=0, description="Runs in any 24 hours, at most.")


class EWCConfig(Section):
    """Elastic weight consolidation, for the methods that use it."""

    # Replay does most of the remembering; at 100, whose Fisher sums grow tenfold over many runs, candidates could
    # hardly learn any more (measured: holdout macro-F1 of .66 where a plain replay loop reaches .77).
    strength: float = Field(2.0, ge=0, description="Weight of the penalty.")
    decay: Share = Field(0.9, description="What is kept of the old Fisher information at each run.")
    samples: int = Field(512, gt=0, description="Examples that the Fisher information is estimated on.")


class SIConfig(Section):
    """Synaptic intelligence: holds the weights whose moves have lowered the loss."""

    # On EWC's scale: moving every weight by a thousandth costs half the strength.
    strength: float = Field(2.0, ge=0, description="Weight of the penalty.")
    decay: Share = Field(0.9, description="What is kept of the old importances at each run.")


class MASConfig(Section):
    """Memory aware synapses: holds the weights that move the outputs most."""

    # On EWC's scale too.
    strength: float = Field(2.0, ge=0, description="Weight of the penalty.")
    decay: Share = Field(0.9, description="What is kept of the old importances at each run.")
    # One backward pass an example: half of EWC's in twice its time.
    samples: int = Field(256, gt=0, description="Examples that the importances are measured on.")


class LwFConfig(Section):
    """Learning without forgetting: on the new examples, the candidate also answers as its parent did."""

    # Both from the paper: the old task counts as much as the new one.
    strength: float = Field(1.0, ge=0, description="Weight of the parent's answers beside the labels.")
    temperature: float = Field(2.0, gt=0, description="How much both answers are softened; 1 is not at all.")


class DERConfig(Section):
    """Dark experience replay: on the replayed examples, the candidate keeps its parent's logits."""

    # The paper's choices lie between 0.1 and 1, most at 0.5.
    strength: float = Field(0.5, ge=0, description="Weight of the parent's logits beside the labels.")


class AGEMConfig(Section):
    """Averaged gradient episodic memory: steps that would harm the replayed examples are bent."""

    # Two batches' worth, so a step costs three; the gradient of fewer says little about all that is replayed.
    samples: int = Field(32, gt=0, description="Replayed examples that each step is checked against.")


class PseudoLabelsConfig(Section):
    """Learning from texts without a label, under the one that the champion gives them, where it is surely right."""

    enabled: bool = Field(False, description="For streams with few labels.")
    precision: Share = Field(
        0.95,
        gt=0,
        description="A label is taken from the confidence on at which the champion is right this often, on a third of "
        "the held-out examples; the gate judges on the others.",
    )
    forms: int = Field(
        2, gt=0, description="Other ways of writing a text (misspelt, words missing, …) that must get the same label."
    )
    # Half of a true label's: what the champion says already, moves it little, and a wrong one is to harm no more.
    weight: float = Field(0.5, gt=0, lt=1, description="What such an example counts beside a labelled one.")
    ratio: float = Field(2.0, gt=0, description="Such examples for each newly labelled one of the same label, at most.")


class PretrainingConfig(Section):
    """Reading before learning: the encoder guesses hidden words of the latest texts, labelled or not."""

    enabled: bool = Field(False, description="For streams whose language moves away from what the encoder knows.")
    epochs: float = Field(1.0, gt=0, description="Passes over the texts.")
    max_steps: int = Field(500, gt=0, description="Optimiser steps, at most.")
    learning_rate: float = Field(5e-5, gt=0, description="Peak learning rate.")
    mask_share: float = Field(0.15, gt=0, lt=1, description="Share of the words that are hidden; BERT's own.")


class AdapterConfig(Section):
    """How large an adapter is, where `learning.tuning` learns one."""

    rank: int = Field(8, gt=0, description="Of `lora`; of `adalora` on average.")
    tokens: int = Field(16, gt=0, description="Of a `prompt` or a `prefix`: they count towards what the encoder reads.")
    width: int = Field(48, gt=0, description="Of the bottleneck of an `adapter`.")


class LearningConfig(Section):
    """How a candidate is trained."""

    # Of those that cost the live stream nothing, the one that knows most at its end: docs/results.md has the table.
    method: Method = Field(
        "der",
        description="`finetune` (the new examples alone), `joint` (afresh from the encoder, on everything), or one or "
        "more of `replay`, `er-ace`, `der`, `lwf`, `ewc`, `si`, `mas` and `agem`, joined by `+`.",
    )
    tuning: Tuning = Field(
        "full",
        description="Which weights are learned: `full` (all of them), or the head and an adapter: `lora`, `adalora` or "
        "`ia3`, which are merged into the weights, or `prefix`, `prompt` or `adapter` (a bottleneck behind each "
        "layer), which stay parts of the model.",
    )
    adapter: AdapterConfig = AdapterConfig()
    interpolate: bool = Field(
        False,
        description="Go back from the trained weights towards the champion's as far as is best on a third of the "
        "held-out examples (WiSE-FT); the gate judges on the others.",
    )
    calibrate: bool = Field(
        True,
        description="Fit one temperature to a third of the held-out examples, so that probabilities mean what they say "
        "(Guo et al. 2017); the gate judges on the others, and on these only what was forgotten.",
    )
    epochs: float = Field(2.0, gt=0, description="Passes over new and replayed examples together.")
    min_steps: int = Field(
        100, ge=0, description="Optimiser steps of a small run, at least: it takes more passes for them, up to eight."
    )
    max_steps: int = Field(0, ge=0, description="Optimiser steps of a large run, at most; 0 is no limit.")
    early_stopping: bool = Field(
        False,
        description="Look at a third of the held-out examples while learning, keep the weights that answer them best, "
        "and stop when these stay the best; the gate judges on the others.",
    )
    patience: float = Field(1.0, gt=0, description="Passes without anything better after which early stopping stops.")
    fit_epochs: float = Field(4.0, gt=0, description="Passes over the rows of `relearnd fit`.")
    replay_ratio: float = Field(1.0, ge=0, description="Replayed examples for each new one.")
    focus: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the new and replayed examples that a run goes over: drawn, with more chance the more the "
        "champion loses on them. `epochs` are passes over these.",
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of each label that is spread over all labels, so that wrong ones weigh less (Szegedy et al. "
        "2016); not under `er-ace`, whose loss leaves labels out.",
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="Peak learning rate of AdamW. Unless set, what `tuning` takes: "
        + ", ".join(f"{rate:g} for `{tuning}`" for tuning, rate in LEARNING_RATES.items())
        + ".",
    )
    warmup_share: Share = Field(0.1, description="Share of the steps in which the rate rises to its peak.")
    weight_decay: float = Field(0.01, ge=0, description="Of AdamW.")
    batch_size: int = Field(16, gt=0, description="Examples in an optimiser step.")
    accumulate: int = Field(
        1, gt=0, description="Parts that a batch is learned in, one after the other, which takes less memory."
    )
    checkpoint_every: Seconds = Field(
        60.0, gt=0, description="Seconds between two checkpoints: a run that is cut off goes on from the latest."
    )
    threads: int = Field(0, ge=0, description="CPU threads of the learner; 0 leaves it to torch.")
    processes: int = Field(
        1, gt=0, description="Processes of this machine that learn together, one for each GPU; each has `threads`."
    )
    tensorboard: bool = Field(
        False, description="Also write progress for TensorBoard, in `jobs/` (`tensorboard --logdir HOME/jobs`)."
    )
    wandb_project: str | None = Field(
        None,
        description="Also send progress to this project of Weights & Biases, as its own settings say (`wandb login`, "
        "`WANDB_MODE`).",
    )
    niceness: int = Field(10, ge=0, le=19, description="The learner gives way to scoring by this much.")
    timeout: Seconds = Field(6 * HOUR, gt=0, description="A run that takes longer is stopped.")
    ewc: EWCConfig = EWCConfig()
    si: SIConfig = SIConfig()
    mas: MASConfig = MASConfig()
    lwf: LwFConfig = LwFConfig()
    der: DERConfig = DERConfig()
    agem: AGEMConfig = AGEMConfig()
    augmentation: Share = Field(
        0.0,
        description="Share of the labelled examples that are learned in another form: misspelt, words missing, …",
    )
    pseudo_labels: PseudoLabelsConfig = PseudoLabelsConfig()
    pretraining: PretrainingConfig = PretrainingConfig()


class GateConfig(Section):
    """What a candidate must show before it goes live."""

    alpha: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Chance of promoting a model that is no better on fresh labels; half of it whenever one that "
        "lacked nothing but proof is judged again.",
    )
    min_examples: int = Field(30, gt=0, description="Fresh held-out examples without which nothing is promoted.")
    slice_tolerance: Share = Field(
        0.03, description="Accuracy that any slice of the old examples, or the fresh ones together, may lose."
    )
    slice_min: int = Field(30, gt=0, description="Smaller slices are too noisy to judge.")
    calibration_tolerance: Share = Field(
        0.05, description="Rise of the expected calibration error, 0 to 1, that is let through."
    )
    invariance_tolerance: Share = Field(
        0.03,
        description="Share of the texts that the champion gets right, beyond its own, whose label may move when the "
        "companies, tickers and people in them are swapped for others.",
    )
    max_slowdown: float = Field(1.5, ge=1, description="Candidate's scoring time over the champion's, at most.")


class ProbationConfig(Section):
    """A promoted model is watched: live labels that it gets wrong and its parent got right bring the parent back."""

    labels: int = Field(500, ge=0, description="Labels that probation lasts; 0 turns it off.")
    alpha: float = Field(0.01, gt=0, lt=1, description="Chance of rolling back a model that is no worse.")


class AlertsConfig(Section):
    """When a key's share of the watched label is a spike."""

    enabled: bool = Field(True, description="Watch for spikes at all.")
    label: str = Field("negative", description="The label whose spikes matter.")
    window: Seconds = Field(HOUR, gt=0, description="The time that a share is taken over.")
    baseline: Seconds = Field(7 * DAY, gt=0, description="The past that it is compared with.")
    min_count: int = Field(8, gt=0, description="Watched texts in the window below which nothing fires.")
    min_rise: Share = Field(0.2, description="Rise of the share over the baseline below which nothing fires.")
    fire: float = Field(1e-5, gt=0, lt=1, description="Fires when chance explains the count with less than this.")
    resolve: float = Field(0.05, gt=0, lt=1, description="Resolves when chance explains it with more than this.")
    critical: float = Field(1e-8, gt=0, lt=1, description="Below this the severity is critical.")
    max_keys: int = Field(10_000, gt=0, description="Keys watched at once; the longest silent are forgotten first.")


class HttpConfig(Section):
    """Metrics, health and steering over HTTP."""

    enabled: bool = Field(True, description="Serve at all.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(9464, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")


class LoggingConfig(Section):
    """What is logged, and how it looks."""

    format: Literal["auto", "json", "terminal"] = Field(
        "auto", description="`auto`: terminal on a terminal, else json."
    )
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")


class Config(Section):
    """relearnd's settings."""

    home: Path = Field(Path("relearnd-home"), description="Where state.db, models/, jobs/ and the local log live.")
    seed: int = Field(0, ge=0, description="Seed of everything random.")
    topics: TopicsConfig = TopicsConfig()
    connector: ConnectorConfig = ConnectorConfig()
    records: RecordsConfig = RecordsConfig()
    model: ModelConfig = ModelConfig()
    registry: RegistryConfig = RegistryConfig()
    scorer: ScorerConfig = ScorerConfig()
    labels: LabelsConfig = LabelsConfig()
    asking: AskingConfig = AskingConfig()
    memory: MemoryConfig = MemoryConfig()
    drift: DriftConfig = DriftConfig()
    triggers: TriggersConfig = TriggersConfig()
    learning: LearningConfig = LearningConfig()
    gate: GateConfig = GateConfig()
    probation: ProbationConfig = ProbationConfig()
    alerts: AlertsConfig = AlertsConfig()
    http: HttpConfig = HttpConfig()
    logging: LoggingConfig = LoggingConfig()

    @model_validator(mode="after")
    def _shares_leave_something_to_learn(self) -> "Config":
        if self.memory.gate_share + self.memory.audit_share >= 1:
            raise ValueError("memory.gate_share and memory.audit_share leave nothing to learn from")
        return self

    @model_validator(mode="after")
    def _there_is_a_way_between(self) -> "Config":
        if self.learning.interpolate and starts_afresh(self.learning.method):
            raise ValueError(
                f"learning.interpolate goes back towards the champion, and learning.method {self.learning.method} "
                "does not start from it; turn one of them off"
            )
        return self

    @model_validator(mode="after")
    def _plain_weights_are_followed(self) -> "Config":
        learning = self.learning
        if "si" in parts(learning.method) and learning.tuning in MERGED:
            raise ValueError(
                f"learning.method {learning.method}: si follows plain weights as they learn, and learning.tuning "
                f"{learning.tuning} learns others; use ewc or mas"
            )
        return self

    @model_validator(mode="after")
    def _pseudo_labels_have_texts(self) -> "Config":
        if self.learning.pseudo_labels.enabled and not self.memory.unlabelled:
            raise ValueError("learning.pseudo_labels needs texts: set memory.unlabelled above 0")
        return self

    @model_validator(mode="after")
    def _requests_have_sketches(self) -> "Config":
        if self.asking.daily_budget and not self.scorer.sketch_share:
            raise ValueError("asking.daily_budget needs sketches to choose by: set scorer.sketch_share above 0")
        return self
