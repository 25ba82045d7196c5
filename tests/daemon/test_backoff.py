from daemon.backoff import Backoff


def test_it_waits_twice_as_long_after_each_failure_up_to_a_bound() -> None:
    now = 0.0
    backoff = Backoff(first=1.0, last=10.0, clock=lambda: now)
    assert backoff.is_over()

    waits = []
    for _ in range(6):
        waits.append(backoff.failed())
        assert not backoff.is_over()
        now += waits[-1]
        assert backoff.is_over()

    assert waits == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_something_else_is_tried_at_once_and_waits_anew() -> None:
    backoff = Backoff(first=1.0, last=10.0, clock=lambda: 0.0)
    backoff.failed()
    backoff.failed()

    backoff.reset()

    assert backoff.is_over()
    assert backoff.failed() == 1.0


def test_no_number_of_failures_is_too_many() -> None:
    backoff = Backoff(first=1.0, last=10.0)
    for _ in range(2_000):
        assert backoff.failed() <= 10.0
