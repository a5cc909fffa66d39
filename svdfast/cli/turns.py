# SPDX-License-Identifier: BSD-3-Clause
"""Two trainings that alternate, so that other work on the machine slows both of them alike.

Elsewhere: the trainings themselves (comparison.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias, TypeVar

__all__ = ["HandOver", "in_turns"]

T = TypeVar("T")
HandOver: TypeAlias = Callable[[], None]


class _OtherFailed(Exception):
    """Ends one training because the other one failed.

    It is no StopTraining, which a checkpoint would keep as the end of the training.
    """


def in_turns(first: Callable[[HandOver], T], second: Callable[[HandOver], T]) -> tuple[T, T]:
    """Runs both functions alternately, the first one in a thread, never at the same time.

    Each gets a function to call when the other one may continue. If one fails, that call raises an
    exception in the other one, and the error is raised here. Ctrl-C does not wait for the thread.
    """
    gates = [threading.Semaphore(1), threading.Semaphore(0)]
    ended = [False, False]
    results: dict[int, T] = {}
    errors: list[BaseException] = []

    def take_part(me: int, task: Callable[[HandOver], T]) -> None:
        def hand_over() -> None:
            if not ended[1 - me]:
                gates[1 - me].release()
                gates[me].acquire()
            if errors:
                raise _OtherFailed

        try:
            gates[me].acquire()
            if not errors:
                results[me] = task(hand_over)
        except BaseException as error:  # also one of the thread
            errors.append(error)
        finally:
            ended[me] = True
            gates[1 - me].release()

    thread = threading.Thread(target=take_part, args=(0, first), daemon=True)
    thread.start()
    take_part(1, second)
    try:
        if not errors:
            thread.join()
    except KeyboardInterrupt as error:
        errors.append(error)
    if errors:
        raise errors[0]
    return results[0], results[1]
