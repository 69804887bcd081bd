"""Which runs the current context has entered: what keeps threads and tasks apart."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Literal
from weakref import WeakSet

from steersman.core.errors import ModelError, NotSteeredError

Threads = Literal["own", "all"]

_ENTERED: ContextVar[tuple[object, ...] | None] = ContextVar("steersman_entered", default=None)
"""None where nobody entered anything, so that runs for all threads apply; () where none applies."""


_LEFT: WeakSet[object] = WeakSet()
"""Runs that were left; contexts may still list them: copies, and those of closed generators."""

_FOR_ALL: list[tuple[object, object]] = []
"""Runs for all threads that are at work, each with its model."""

_LOCK = Lock()


def _entered() -> tuple[object, ...] | None:
    entered = _ENTERED.get()
    if not entered or not _LEFT:
        return entered
    return tuple(run for run in entered if run not in _LEFT) or None


def enter(run: object, *, everywhere: object | None = None) -> None:
    """Adds a run to those of this context.

    Args:
        everywhere: the model, if the run is for all threads.

    Raises:
        ModelError: a run of another context is for all threads of this model.
    """
    before = _entered() or ()
    if everywhere is not None:
        with _LOCK:
            mine = {id(other) for other in before}
            if any(model is everywhere and id(other) not in mine for other, model in _FOR_ALL):
                raise ModelError(
                    'Another `with` with threads="all" is at work on this model, so the threads '
                    "of one would be steered by both. Leave threads out, and start each worker "
                    "inside its `with` by Thread(target=contextvars.copy_context().run, "
                    "args=(model.generate,), kwargs=...)."
                )
            _FOR_ALL.append((run, everywhere))
    _LEFT.discard(run)
    _ENTERED.set((*before, run))


def leave(run: object) -> None:
    """Takes a run away; the last one leaves the context as if nothing had been entered."""
    with _LOCK:
        _FOR_ALL[:] = [(other, model) for other, model in _FOR_ALL if other is not run]
    _LEFT.add(run)
    if _ENTERED.get():
        _ENTERED.set(_entered())


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
    entered = _entered()
    if entered is None:
        return threads == "all"
    return any(other is run for other in entered)


def anything() -> bool:
    """Whether this context says itself how its calls are steered."""
    return _entered() is not None


def refuse_idle(threads: Threads, elsewhere: int) -> None:
    """Of a run that steered nothing, while the model ran `elsewhere` in other threads.

    Raises:
        NotSteeredError: it was meant to.
    """
    if threads == "all":
        raise NotSteeredError(
            "The `with` was left before the model ran. Stay inside until the other threads are "
            "done: read the streamer and join the thread there."
        )
    if elsewhere:
        raise NotSteeredError(
            f"The model ran {elsewhere} times in other threads, and this `with` steers only its "
            "own. Streamers and generate_batch work that way: write "
            'model.steer(..., threads="all").'
        )
