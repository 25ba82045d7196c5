from connectors.topic import Partition
from daemon.config import TopicsConfig
from daemon.losses import Losses
from daemon.metrics import Metrics

TEXTS, OTHER, LABELS = Partition("news", 0), Partition("news", 3), Partition("labels", 0)


def test_a_loss_is_told_once_with_its_exact_number() -> None:
    metrics = Metrics("0")
    losses = Losses(TopicsConfig(texts="news"), metrics)

    assert losses.notice({}, 1.0, "v1") == []
    (alert,) = losses.notice({TEXTS: 40, OTHER: 2}, 2.0, "v1")
    assert losses.notice({TEXTS: 40, OTHER: 2}, 3.0, "v1") == []
    more = losses.notice({TEXTS: 41, OTHER: 2, LABELS: 7}, 4.0, "v2")

    assert (alert.name, alert.key, alert.status, alert.severity) == ("messages-lost", "news", "firing", "critical")
    assert (alert.value, alert.baseline, alert.model, alert.starts_at.timestamp()) == (42, 0, "v1", 2.0)
    assert alert.because is not None
    assert "40 of partition 0, 2 of partition 3" in alert.because
    assert [(one.key, one.value) for one in more] == [("news", 1), ("labels", 7)]
    # By the name that the setting has, whatever the topic is called.
    for name, lost in {"texts": 43, "labels": 7, "scores": 0}.items():
        assert metrics.registry.get_sample_value("relearnd_messages_lost_total", {"topic": name}) == lost
