"""Turns: an image in the viewer and the training of its weights, neither of which waits long for the other."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from threading import Condition, get_ident

MOMENT = 0.2
"""Seconds that a portion of an image should take."""
FIRST, FEWEST = 1024, 128
"""Rays of the first portion of an image, and the fewest of any."""


class Turns:
    """A lock whose queue nobody jumps.

    Of an ordinary one a thread that gives it back and wants it again at once, as training does, gets it nearly always.
    A thread has one place in the queue at most, so that one which an exception has left there does no harm.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._queue: deque[int] = deque()

    def __enter__(self) -> None:
        thread = get_ident()
        with self._changed:
            self._leave(thread)
            self._queue.append(thread)
            try:
                self._changed.wait_for(lambda: self._queue[0] == thread)
            except BaseException:  # Ctrl-C: the others must not wait for one who has gone
                self._leave(thread)
                raise

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._leave(get_ident())

    def give_way(self, aside: Callable[[], AbstractContextManager[None]]) -> None:
        """Let those who wait have their turn now, if this thread has its own.

        The viewer interrupts images by a trace, an exception in any line: there is none meanwhile.

        Args:
            aside: entered meanwhile.
        """
        if len(self._queue) < 2 or self._queue[0] != get_ident():  # noqa: PLR2004
            return
        trace = sys.gettrace()
        sys.settrace(None)
        try:
            with aside():
                self.__exit__()
                self.__enter__()
        finally:
            sys.settrace(trace)

    def _leave(self, thread: int) -> None:
        if thread in self._queue:
            self._queue.remove(thread)
            self._changed.notify_all()


def portions(total: int, most: int, between: Callable[[], object]) -> Iterator[slice]:
    """Parts of a whole, each as large as about `MOMENT` seconds of work, by how long the one before took.

    Args:
        total: how many there are in all.
        most: how many may be in one part.
        between: called before each part; its time does not count.
    """
    begin, size = 0, min(FIRST, most)
    while begin < total:
        between()
        started = time.perf_counter()
        yield slice(begin, begin + size)
        begin, rate = begin + size, size / max(time.perf_counter() - started, 1e-6)
        size = min(max(int(rate * MOMENT), FEWEST), most)
