"""Which runs the current context has entered: what keeps threads and tasks apart."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

Threads = Literal["own", "all"]

_ENTERED: ContextVar[tuple[object, ...] | None] = ContextVar("steersman_entered", default=None)
"""None where nobody entered anything, so that runs for all threads apply; () where none applies."""


def enter(run: object) -> None:
    """Adds a run to those of this context."""
    _ENTERED.set((*(_ENTERED.get() or ()), run))


def leave(run: object) -> None:
    """Takes a run away; the last one leaves the context as if nothing had been entered."""
    left = tuple(other for other in _ENTERED.get() or () if other is not run)
    _ENTERED.set(left or None)


@contextmanager
def only(*runs: object) -> Iterator[None]:
    """Inside, these runs alone apply to what this context calls."""
    before = _ENTERED.set(runs)
    try:
        yield
    finally:
        _ENTERED.reset(before)


def applies(run: object, threads: Threads) -> bool:
    """Whether a call in this context is the run's to steer."""
    entered = _ENTERED.get()
    if entered is None:
        return threads == "all"
    return any(other is run for other in entered)


def anything() -> bool:
    """Whether this context says itself how its calls are steered."""
    return _ENTERED.get() is not None
