# SPDX-License-Identifier: BSD-3-Clause
"""Tracks which threads use networks and optimizers: each can have one writer or many readers.

No one blocks: a conflicting use is refused. The record belongs to the process, not to the network,
so copies and pickles do not contain it. Arrays that were taken from a network before belong to
NumPy and are not tracked.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

__all__ = ["changes", "changing", "check", "reading", "reads", "training"]

P = ParamSpec("P")
T = TypeVar("T")

_NOBODY = 0  # no thread has this number


class _Use:
    """One use of one object, from its beginning to its end, by a thread."""

    __slots__ = ("alone", "changes", "thing", "thread")

    def __init__(self, thing: object, *, changes: bool, alone: bool = False):
        self.thing, self.changes = thing, changes
        self.alone = alone  # even its own thread may not use it at the same time
        self.thread = threading.get_ident()

    def allows(self, other: _Use) -> bool:
        if self.thing is not other.thing:
            return True
        if self.thread == other.thread:
            return not (self.alone or other.alone)
        return not (self.changes or other.changes)


# Uses are added under the lock and removed by one call of `discard`. No signal can come before that
# call once the body of a `try` was left.
_uses: set[_Use] = set()
# The lock is held while the process forks, so that a child finds it free. It is reentrant, as a
# signal's handler may use networks, too.
_lock = threading.RLock()


def _refuse(new: _Use) -> None:
    for use in list(_uses):
        if use.allows(new):
            continue
        if new.alone:
            raise RuntimeError(
                "optimizer: in use by another training, which continues; give each training an optimizer of its own (copy.deepcopy)"
            )
        if use.thread == _NOBODY:
            raise RuntimeError("network: another thread was changing it when this process was forked; fork with a copy of it")
        doing = "is training or changing it" if use.changes else "is reading it"
        raise RuntimeError(
            f"network: another thread {doing}; give each thread a network of its own, a copy made before or in a callback of the training "
            "(Network.copy)"
        )


def _begin(*uses: _Use) -> None:
    with _lock:
        for use in uses:
            _refuse(use)
        _uses.update(uses)


def check(net: object) -> None:
    """Raises an error if another thread is changing a network.

    Raises
    ------
    RuntimeError
    """
    for use in tuple(_uses):  # a copy, as other threads change it; an empty set makes none
        if use.changes and use.thing is net and use.thread != threading.get_ident():
            _refuse(_Use(net, changes=False))


@contextmanager
def _used(thing: object, changes: bool) -> Iterator[None]:
    use = _Use(thing, changes=changes)
    try:
        _begin(use)
        yield
    finally:
        _uses.discard(use)


def reading(net: object) -> Any:
    """A context in which no other thread can change a network; RuntimeError if one is doing so."""
    return _used(net, False)


def changing(net: object) -> Any:
    """A context in which no other thread can use a network; RuntimeError if one is doing so."""
    return _used(net, True)


def reads(method: Callable[P, T]) -> Callable[P, T]:
    """Decorates a method that reads a network."""
    return _guarded(method, False)


def changes(method: Callable[P, T]) -> Callable[P, T]:
    """Decorates a method that changes a network."""
    return _guarded(method, True)


def _guarded(method: Callable[P, T], changes: bool) -> Callable[P, T]:
    @functools.wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        use = _Use(args[0], changes=changes)
        try:
            _begin(use)
            return method(*args, **kwargs)
        finally:
            _uses.discard(use)

    return guarded


@contextmanager
def training(net: object, optimizer: object) -> Iterator[None]:
    """A context with exclusive use of a network and an optimizer.

    RuntimeError is raised if another thread uses the network, or another training the optimizer.
    """
    uses = _Use(net, changes=True), _Use(optimizer, changes=True, alone=True)
    try:
        _begin(*uses)
        yield
    finally:
        _uses.difference_update(uses)


def _in_child() -> None:
    """Frees networks that other threads read, which are gone in a child.

    Networks that they were changing stay as they left them, and belong to no thread.
    """
    try:
        me = threading.get_ident()
        for use in list(_uses):
            if use.thread != me:
                if use.changes:
                    use.thread = _NOBODY
                else:
                    _uses.discard(use)
    finally:
        _lock.release()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_in_child)
