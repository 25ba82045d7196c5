from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.chaos import run
from tests.kafka import Cluster

pytestmark = pytest.mark.kafka


def test_a_deployment_that_is_broken_again_and_again_scores_every_text_and_counts_every_label_once(
    start_kafka: Callable[..., Cluster], tmp_path: Path
) -> None:
    with start_kafka(3) as cluster:
        verdict = run(tmp_path, cluster, faults=8, texts=2_000, seed=5, rate=60.0)
    assert not verdict.faults, str(verdict)
