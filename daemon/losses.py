"""What retention removed before it was read: counted, logged and alerted with the exact number."""

from collections import Counter
from collections.abc import Mapping

import structlog

from connectors.topic import Partition
from daemon.config import TopicsConfig
from daemon.metrics import TOPICS, Metrics
from daemon.records import Alert, utc

log = structlog.get_logger(__name__)


class Losses:
    """Follows `Reader.lost` of one reader."""

    def __init__(self, topics: TopicsConfig, metrics: Metrics) -> None:
        self._names = {getattr(topics, name): name for name in TOPICS}
        self._metrics = metrics
        self._known: Mapping[Partition, int] = {}

    def notice(self, lost: Mapping[Partition, int], now: float, model: str) -> list[Alert]:
        """What the reader lost since the last call, `lost` being all it ever did: one alert a topic."""
        news = {part: count - self._known.get(part, 0) for part, count in lost.items()}
        self._known = dict(lost)
        by_topic: Counter[str] = Counter()
        for partition, count in news.items():
            if count:
                by_topic[partition.topic] += count
                log.error("messages lost", topic=partition.topic, partition=partition.number, messages=count)
        for topic, count in by_topic.items():
            self._metrics.messages_lost.labels(self._names[topic]).inc(count)
        return [_alert(topic, news, now, model) for topic in by_topic]


def _alert(topic: str, news: Mapping[Partition, int], now: float, model: str) -> Alert:
    places = [f"{count} of partition {part.number}" for part, count in news.items() if part.topic == topic and count]
    return Alert(
        status="firing",
        name="messages-lost",
        key=topic,
        severity="critical",
        value=sum(count for part, count in news.items() if part.topic == topic),
        baseline=0,
        starts_at=utc(now),
        model=model,
        because=f"retention removed messages of {topic} before they were read: {', '.join(places)}",
    )
