"""Keeps torch.compile out while hooks are at work.

Compiled code does not look whether hooks were added since: a model that was compiled before would
run unsteered, and nobody would notice. So compiled modules run eagerly inside the `with`.
"""

import threading
from contextlib import ExitStack

import torch


class _Uncompiled:
    """Counts who needs it; the first one in forces eager mode, the last one out restores it."""

    def __init__(self) -> None:
        self._lock, self._count, self._stance = threading.Lock(), 0, ExitStack()

    def enter(self) -> None:
        with self._lock:
            self._count += 1
            if self._count == 1:
                self._stance.enter_context(torch.compiler.set_stance("force_eager"))

    def leave(self) -> None:
        with self._lock:
            self._count -= 1
            if self._count == 0:
                self._stance.close()


uncompiled = _Uncompiled()
