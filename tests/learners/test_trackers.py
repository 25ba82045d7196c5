import os
import subprocess
import sys

import pytest

from learners.errors import LearnerError
from learners.job import Progress
from learners.progress import journal
from learners.trackers import TENSORBOARD, scalars
from tests.learners.conftest import write_job
from tests.sentences import examples

ROW = Progress(step=3, steps=9, loss=0.5, penalty=0.1, learning_rate=1e-3, seconds=2.0)


# tensorboard calls what numpy and protobuf have deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_what_it_was_told(job, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with journal(tmp_path, job.model_copy(update={"tensorboard": True})) as tell:
        tell(ROW)
    read = EventAccumulator(str(tmp_path / TENSORBOARD))
    read.Reload()
    (point,) = read.Scalars("learning/loss")
    assert (point.step, point.value) == (3, 0.5)
    assert set(scalars(ROW)) == set(read.Tags()["scalars"])


def test_without_asking_there_is_the_file_alone(job, tmp_path):
    with journal(tmp_path, job) as tell:
        tell(ROW)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert Progress.model_validate_json((tmp_path / "metrics.jsonl").read_text()) == ROW


def test_weights_and_biases_is_told_where_the_user_has_set_it_up(job, tmp_path):
    pytest.importorskip("wandb")
    write_job(tmp_path / "job", job.model_copy(update={"wandb_project": "news"}), new=examples(24))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-m", "learners", str(tmp_path / "job")], env=environment, check=True, timeout=300)
    assert list((tmp_path / "job/wandb").glob("offline-run-*/run-*.wandb"))


def test_weights_and_biases_that_is_not_installed_is_told_at_once(job, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    asked = job.model_copy(update={"wandb_project": "news"})
    with pytest.raises(LearnerError, match="wandb is not installed"), journal(tmp_path, asked):
        pass
