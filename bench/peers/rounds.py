"""Times and memory of the same call under several methods, fairly.

Needs torch only: the environments of the peers import it too.
"""

import gc
import random
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Runs = Mapping[str, Callable[[], object]]


def interleaved(runs: Runs, rounds: int, *, device: str, seed: int = 0) -> dict[str, list[float]]:
    """Seconds of every run in every round; each round has an order of its own.

    What drifts (heat, other jobs) meets every run alike, and values of one round belong together.
    The first round warms up and is not among them.
    """
    draw = random.Random(seed)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with settled():
        for number in range(rounds + 1):
            names = list(runs)
            draw.shuffle(names)
            for name in names:
                gc.collect()
                synchronise(device)
                began = time.perf_counter()
                runs[name]()
                synchronise(device)
                if number:
                    seconds[name].append(time.perf_counter() - began)
    return seconds


@contextmanager
def settled() -> Iterator[None]:
    """Inside, collecting garbage looks at new objects only, which takes no time to speak of."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def synchronise(device: str) -> None:
    """Waits for an accelerator; a CPU has nothing to wait for."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def peaks(runs: Runs, *, device: str) -> dict[str, int]:
    """Bytes of tensors made during each run: the most that was in use at once.

    On CUDA the allocator says it. On a CPU the storages that PyTorch's operations hand out are
    counted, without what an operation takes and gives back inside itself.
    """
    with settled():
        return {name: _peak(run, device) for name, run in runs.items()}


def _peak(run: Callable[[], object], device: str) -> int:
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with Storages() as counted:
        run()
    return counted.peak


class Storages(TorchDispatchMode):
    """Counts the bytes of storages made inside the `with`, while anything refers to them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        for given in tree_leaves((args, kwargs)):
            self._note(given, made=False)
        result = func(*args, **kwargs)
        for made in tree_leaves(result):
            self._note(made, made=True)
        self.peak = max(self.peak, self.now)
        return result

    def _note(self, value: object, *, made: bool) -> None:
        if not isinstance(value, Tensor):
            return
        storage = value.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        size = storage.nbytes() if made else 0  # what was there before is not counted
        self._seen.add(key)
        self.now += size
        weakref.finalize(storage, self._free, key, size).atexit = False

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size
