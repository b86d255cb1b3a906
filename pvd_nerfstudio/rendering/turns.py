"""Turns: an image in the viewer and the training of its weights, neither of which waits long for the other."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from threading import Condition, get_ident

MOMENT = 0.2
"""Seconds that a portion of an image should take."""
FIRST, FEWEST = 1024, 128
"""Rays of the first portion of an image, and the fewest of any."""


class Turns:
    """A lock whose queue nobody jumps.

    Of an ordinary one a thread that gives it back and wants it again at once, as training does, gets it nearly always.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._queue: deque[object] = deque()
        self._holder: int | None = None

    def __enter__(self) -> None:
        turn = object()
        with self._changed:
            self._queue.append(turn)
            try:
                self._changed.wait_for(lambda: self._queue[0] is turn)
            except BaseException:  # Ctrl-C: the others must not wait for one who has gone
                self._queue.remove(turn)
                self._changed.notify_all()
                raise
            self._holder = get_ident()

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._holder = None
            self._queue.popleft()
            self._changed.notify_all()

    def give_way(self) -> bool:
        """Let those who wait have their turn now; returns whether anybody did.

        The viewer interrupts images by a trace, an exception in any line: there is none meanwhile.
        """
        if self._holder != get_ident() or len(self._queue) == 1:
            return False
        trace = sys.gettrace()
        sys.settrace(None)
        self.__exit__()
        self.__enter__()
        sys.settrace(trace)
        return True


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
