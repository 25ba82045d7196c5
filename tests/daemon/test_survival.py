import yaml

from benchmarks.survival import survive
from tests.daemon.streams import drifting, write_jsonl


def test_a_daemon_killed_again_and_again_scores_every_text_and_counts_every_label_once(config, tmp_path):
    eager = {
        "triggers": {**config.triggers.model_dump(mode="json"), "labels": 60},
        "gate": {**config.gate.model_dump(mode="json"), "alpha": 0.9, "slice_tolerance": 1.0},
        "learning": {**config.learning.model_dump(mode="json"), "epochs": 1.0},
    }
    path = tmp_path / "relearnd.yaml"
    path.write_text(yaml.safe_dump({**config.model_dump(mode="json"), **eager}), encoding="utf-8")
    texts, labels = drifting(900, 300)
    verdict = survive(
        path,
        write_jsonl(tmp_path / "texts.jsonl", texts),
        write_jsonl(tmp_path / "labels.jsonl", labels),
        kills=4,
        seed=3,
        rate=25.0,
    )
    assert not verdict.faults, str(verdict)
    assert verdict.versions > 1
