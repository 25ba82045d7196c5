import re
from collections import Counter
from datetime import timedelta
from functools import cache
from itertools import pairwise

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from daemon.alerts import Scored, SpikeWatch
from daemon.config import AlertsConfig
from daemon.demo.grammar import (
    COMPANIES,
    FORUM,
    LABELS,
    MIX,
    NEWSWIRE,
    STRETCHES,
    DemoStream,
    Grammar,
    GrammarError,
    Stretch,
    generate,
)
from daemon.records import Label, Text


@cache
def demo() -> DemoStream:
    return generate(0)


def all_texts(stream: DemoStream) -> list[str]:
    return [row.text for rows in (stream.base, stream.texts, stream.holdout) for row in rows]


def true_labels() -> dict[str, str]:
    return {label.id: label.label for label in demo().labels}


def texts_of(source: str) -> tuple[list[str], list[str]]:
    labels = true_labels()
    rows = [text for text in demo().texts if text.source == source]
    return [row.text for row in rows], [labels[row.id] for row in rows]


def fitted(texts: list[str], labels: list[str]) -> Pipeline:
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    return make_pipeline(vectorizer, LogisticRegression(C=10, max_iter=500)).fit(texts, labels)


def accuracy(model: Pipeline, domain: str) -> float:
    rows = [row for row in demo().holdout if row.domain == domain]
    return float(model.score([row.text for row in rows], [row.label for row in rows]))


def test_a_seed_gives_the_same_demo_and_another_seed_another() -> None:
    small = (Stretch(50, 0.0), Stretch(50, 1.0), Stretch(300, 0.5))
    once, again = (generate(5, base=20, holdout=10, stretches=small) for _ in range(2))
    other = generate(6, base=20, holdout=10, stretches=small)
    assert once == again
    assert len({text.text for text in once.texts} & {text.text for text in other.texts}) < 40


def test_no_text_comes_twice() -> None:
    texts = all_texts(demo())
    bare = [re.sub(r"\W", "", text.casefold()) for text in texts]
    assert len(set(bare)) == len(bare)


@pytest.mark.parametrize("seed", range(3))
def test_no_text_has_an_open_slot_or_a_slip_of_the_pen(seed: int) -> None:
    for text in all_texts(generate(seed)):
        assert text == text.strip()
        assert not re.search(r"[{}|_]|  | [,.?!]|[?!],|\bthe the\b|\ba [aeio]\w|s's ", text), text


def test_the_stream_goes_from_news_to_forum_to_both() -> None:
    sources = [text.source for text in demo().texts]
    news, forum, both = (stretch.texts for stretch in STRETCHES)
    assert set(sources[:news]) == {NEWSWIRE}
    assert set(sources[news : news + forum]) == {FORUM}
    assert 0.25 < sources[news + forum :].count(FORUM) / both < 0.45


def test_texts_come_in_order_and_every_label_follows_its_text_by_20_to_90_minutes() -> None:
    texts, labels = demo().texts, demo().labels
    assert all(earlier.timestamp < later.timestamp for earlier, later in pairwise(texts))
    written = {text.id: text.timestamp for text in texts}
    assert [label.id for label in sorted(labels, key=lambda label: label.id)] == sorted(written)
    assert [label.timestamp for label in labels] == sorted(label.timestamp for label in labels if label.timestamp)
    for label in labels:
        assert label.timestamp is not None
        assert timedelta(minutes=20) <= label.timestamp - written[label.id] <= timedelta(minutes=90)


def test_the_records_are_those_of_the_topics() -> None:
    for text in demo().texts[::100]:
        assert Text.model_validate_json(text.model_dump_json()) == text
    for label in demo().labels[::100]:
        assert Label.model_validate_json(label.model_dump_json()) == label


def test_every_label_and_company_has_its_share_before_and_after_the_drift() -> None:
    labels, spike = true_labels(), demo().spike
    for source in (NEWSWIRE, FORUM):
        calm = [t for t in demo().texts if t.source == source and not spike.starts_at <= t.timestamp <= spike.ends_at]
        shares = Counter(labels[text.id] for text in calm)
        for label in LABELS:
            assert shares[label] / len(calm) == pytest.approx(MIX[label], abs=0.04)
        keys = Counter(text.key for text in calm)
        assert set(keys) == {company.ticker for company in COMPANIES}
        assert min(keys.values()) > 0.08 * len(calm)


def test_one_company_has_bad_news_for_an_hour() -> None:
    labels, spike = true_labels(), demo().spike
    during = [text for text in demo().texts if spike.starts_at <= text.timestamp <= spike.ends_at]
    share = {
        key: sum(labels[text.id] == "negative" for text in during if text.key == key)
        / sum(text.key == key for text in during)
        for key in {text.key for text in during}
    }
    assert timedelta(minutes=50) < spike.ends_at - spike.starts_at < timedelta(minutes=70)
    assert sum(text.key == spike.key for text in during) > 80
    assert share.pop(spike.key) > 0.75
    assert max(share.values()) < 0.6
    assert {text.source for text in during} == {NEWSWIRE, FORUM}


@pytest.mark.parametrize("seed", range(3))
def test_the_alert_rule_finds_the_bad_news_and_nothing_else(seed: int) -> None:
    stream = generate(seed)
    labels = {label.id: label.label for label in stream.labels}
    watch = SpikeWatch(AlertsConfig(fire=1e-5), "truth")
    rows = [Scored(t.key, labels[t.id], t.timestamp.timestamp(), "truth", t.text) for t in stream.texts]
    alerts = watch.update(rows) + watch.advance(rows[-1].timestamp + 7200)
    assert {alert.key for alert in alerts} == {stream.spike.key}
    assert [alert.status for alert in alerts] == ["firing"] * (len(alerts) - 1) + ["resolved"]
    assert stream.spike.starts_at < alerts[0].starts_at < stream.spike.ends_at


def test_a_model_of_the_news_reads_the_news_but_not_the_forum() -> None:
    model = fitted([row.text for row in demo().base], [row.label for row in demo().base])
    assert 0.78 < accuracy(model, NEWSWIRE) < 0.95
    assert accuracy(model, FORUM) < 0.5


def test_a_model_of_the_forum_reads_the_forum_but_not_the_news() -> None:
    texts, labels = texts_of(FORUM)
    model = fitted(texts[:800], labels[:800])
    assert 0.75 < accuracy(model, FORUM) < 0.95
    assert accuracy(model, NEWSWIRE) < 0.5


def test_a_model_of_both_reads_both() -> None:
    texts, labels = texts_of(FORUM)
    model = fitted([row.text for row in demo().base] + texts[:900], [row.label for row in demo().base] + labels[:900])
    assert accuracy(model, NEWSWIRE) > 0.78
    assert accuracy(model, FORUM) > 0.75


def test_the_words_that_tell_good_from_bad_are_not_shared() -> None:
    def words(texts: list[str]) -> set[str]:
        found = (word for text in texts for word in set(re.findall(r"[a-z]{4,}", text.casefold())))
        return {word for word, count in Counter(found).items() if count >= 5}

    news, forum = (words(texts_of(source)[0]) for source in (NEWSWIRE, FORUM))
    shared = (news & forum) - {company.short.casefold() for company in COMPANIES}
    assert len(shared) < 0.2 * len(forum)
    assert not shared & {"rose", "fell", "profit", "loss", "raised", "printing", "shambles", "bagholders", "cooked"}


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["hello"], "odd:1: text before the first"),
        (["[a]", "x", "[a]"], r"odd:3: \[a\] is already there"),
        (["[a]", "x {b}"], r"odd: \[a\] uses \{b\}, which is no rule"),
    ],
)
def test_a_malformed_grammar_says_where(lines: list[str], complaint: str) -> None:
    with pytest.raises(GrammarError, match=complaint):
        Grammar("odd", lines)
