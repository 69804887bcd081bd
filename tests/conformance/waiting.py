"""Sees every operation that makes the host wait for the device, also where host and device are one.

On a machine without an accelerator nothing waits, so what would wait is recognised by name: values
that become Python numbers, tensors whose shape depends on values, copies to the host.
"""

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

METHODS = {
    *("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__"),
    *("__array__", "__complex__", "is_nonzero", "nonzero", "argwhere", "equal", "allclose"),
    *("masked_select", "unique", "unique_consecutive", "bincount"),
}
"""What is called on a tensor, or in `torch`, and asks for its values."""
KERNELS = {
    *("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "masked_select"),
    *("_unique2", "unique_dim", "unique_consecutive", "bincount", "argwhere", "allclose"),
}
"""What those become below, where library code calls them."""


class _Calls(TorchFunctionMode):
    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in METHODS or (name == "to" and _to_host(args[1:], kwargs or {})):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


class _Kernels(TorchDispatchMode):
    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        packet = func.overloadpacket.__name__
        if packet in KERNELS or _by_mask(packet, args) or _counted(func, args):
            self.seen.append(f"aten::{packet}")
        return func(*args, **(kwargs or {}))


def _to_host(args, kwargs) -> bool:
    """Only where the host is called by name: a device may be the tensor's own."""
    return any(isinstance(a, str) and a == "cpu" for a in (*args, *kwargs.values()))


def _by_mask(packet: str, args) -> bool:
    """Indexing with a mask: how many rows come out, only the device knows."""
    if packet not in ("index", "index_put", "index_put_"):
        return False
    return any(isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1])


def _counted(func, args) -> bool:
    return func is torch.ops.aten.repeat_interleave.Tensor or (
        func.overloadpacket is torch.ops.aten.where and len(args) == 1
    )


class Waits:
    """Inside the `with`, `seen` fills with the names of what waited."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._modes = (_Calls(self.seen), _Kernels(self.seen))

    def __enter__(self) -> "Waits":
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*exception)
