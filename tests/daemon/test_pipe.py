import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.pipe import Pipe

T = TypeVar("T")

#: Seconds after which a thread that should have been released counts as stuck.
STUCK = 30.0


class Task(threading.Thread, Generic[T]):
    """Calls a function in a thread; `result` is what it returned."""

    def __init__(self, work: Callable[[], T]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.result: T | None = None
        self.start()

    def run(self) -> None:
        self.result = self._work()

    def done(self) -> T | None:
        self.join(STUCK)
        assert not self.is_alive(), "it was not released"
        return self.result


def drain(pipe: Pipe[int]) -> list[int]:
    return list(iter(pipe.get, None))


def test_finishing_leaves_what_is_in_the_pipe_to_be_taken() -> None:
    pipe: Pipe[int] = Pipe(3)
    assert all(pipe.put(item) for item in (0, 1, 2))
    pipe.finish()

    assert drain(pipe) == [0, 1, 2]
    assert pipe.get() is None


def test_breaking_off_drops_what_is_in_the_pipe_and_takes_no_more() -> None:
    pipe: Pipe[int] = Pipe(3)
    pipe.put(0)
    pipe.break_off()

    assert pipe.get() is None
    assert not pipe.put(1)
    pipe.finish()
    assert pipe.get() is None


def test_a_full_pipe_waits_for_room() -> None:
    pipe: Pipe[int] = Pipe(1)
    pipe.put(0)
    giver = Task(lambda: pipe.put(1))

    assert pipe.get() == 0
    assert giver.done() is True
    assert pipe.get() == 1


def test_an_empty_pipe_waits_for_an_item() -> None:
    pipe: Pipe[int] = Pipe(1)
    taker = Task(pipe.get)
    pipe.put(5)

    assert taker.done() == 5


@pytest.mark.parametrize("end", ["finish", "break_off"])
def test_ending_releases_every_taker_that_waits(end: str) -> None:
    pipe: Pipe[int] = Pipe(1)
    takers = [Task(pipe.get) for _ in range(3)]
    getattr(pipe, end)()

    assert [taker.done() for taker in takers] == [None] * 3


def test_breaking_off_releases_every_giver_that_waits() -> None:
    pipe: Pipe[int] = Pipe(1)
    pipe.put(0)
    givers = [Task(lambda: pipe.put(1)) for _ in range(3)]
    pipe.break_off()

    assert [giver.done() for giver in givers] == [False] * 3


def test_a_giver_that_waits_is_not_released_by_the_end_of_another() -> None:
    pipe: Pipe[int] = Pipe(1)
    pipe.put(0)
    giver = Task(lambda: pipe.put(1))
    pipe.finish()

    # Whichever of the two came first, the item that was offered is not lost.
    assert pipe.get() == 0
    assert giver.done() is True
    assert pipe.get() == 1


@settings(max_examples=20, deadline=None)
@given(items=st.lists(st.integers(0, 9), max_size=60), size=st.integers(1, 5))
def test_all_items_come_through_in_order(items: list[int], size: int) -> None:
    pipe: Pipe[int] = Pipe(size)
    taker = Task(lambda: drain(pipe))
    for item in items:
        assert pipe.put(item)
    pipe.finish()

    assert taker.done() == items


@settings(max_examples=10, deadline=None)
@given(givers=st.integers(1, 4), takers=st.integers(1, 4), size=st.integers(1, 3))
def test_between_many_threads_each_item_arrives_once(givers: int, takers: int, size: int) -> None:
    pipe: Pipe[int] = Pipe(size)
    taking = [Task(lambda: drain(pipe)) for _ in range(takers)]

    def give(start: int) -> Callable[[], list[bool]]:
        return lambda: [pipe.put(start + n) for n in range(30)]

    giving = [Task(give(at * 100)) for at in range(givers)]
    assert all(all(task.done() or []) for task in giving)
    pipe.finish()

    arrived = [item for task in taking for item in task.done() or []]
    assert sorted(arrived) == [at * 100 + n for at in range(givers) for n in range(30)]
