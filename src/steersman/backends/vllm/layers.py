"""Taps: where the sites of a policy lie in the modules that vLLM makes of a model."""

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from steersman.core.serving import RefusedError
from steersman.core.types import Site

Act = Callable[[Tensor, Tensor | None], None]
"""Gets the stream as `hidden + residual`, and works in place."""

ATTENTION = ("self_attn", "attn", "attention", "self_attention", "linear_attn")
MLP = ("mlp", "feed_forward", "block_sparse_moe", "moe", "ffn")
BOTH = re.compile(r"norm\w*\(\s*hidden_states\s*,\s*residual\s*,?\s*\)")
"""A norm that adds the residual first: how vLLM fuses the sum of a block's halves."""
HEADS = ("o_proj", "out_proj", "dense", "c_proj", "wo", "proj")


@dataclass(frozen=True)
class Decoder:
    """The decoder blocks of a model in vLLM."""

    layers: tuple[nn.Module, ...]
    name: str

    def width(self, site: Site, d_model: int) -> int:
        """Of the states at a site."""
        if site.point != "attn_heads":
            return d_model
        module = self._child(self._child(self.layers[site.layer], ATTENTION, site), HEADS, site)
        size = getattr(module, "input_size", None) or getattr(module, "in_features", None)
        if not isinstance(size, int):
            raise self._absent(site, f"{type(module).__name__} does not tell how wide it is")
        return size

    def _child(self, module: nn.Module, names: Collection[str], site: Site) -> nn.Module:
        found = [child for name, child in module.named_children() if name in names]
        if len(found) == 1:
            return found[0]
        has = ", ".join(name for name, _ in module.named_children())
        raise self._absent(
            site,
            f"{type(module).__name__} has {has}, and exactly one of {', '.join(names)} is needed",
        )

    def _check_halves(self, site: Site, block: nn.Module) -> None:
        """That two tensors that a block hands on are summed: where a norm takes both, they are, and
        else either may be the stream."""
        if "residual" not in inspect.signature(block.forward).parameters:
            return
        source = inspect.getsource(type(block).forward)
        if not BOTH.search(source):
            raise self._absent(
                site,
                f"{type(block).__name__} hands on two tensors, and it cannot be told that the "
                "stream is their sum",
            )

    def _absent(self, site: Site, why: str) -> RefusedError:
        return RefusedError(
            "E_POINT",
            f"{site} is not to be had in {self.name} as vLLM runs it: {why}. Use another point, or "
            "`steersman serve` without vLLM.",
        )

    def attach(self, site: Site, act: Act, *, ranks: int = 1) -> None:
        """Calls `act` with the stream at a site, each time that it is computed.

        Args:
            ranks: of tensor parallelism.

        Raises:
            RefusedError: the model has no such site, or it cannot be told what is there.
        """
        block = self.layers[site.layer]
        if site.point in ("resid_pre", "resid_post"):
            self._check_halves(site, block)
        if site.point == "resid_post":
            block.register_forward_hook(lambda _, __, output: _after(output, act))
        elif site.point == "resid_pre":
            names = tuple(inspect.signature(block.forward).parameters)
            if not {"hidden_states", "residual"} & set(names):
                raise self._absent(site, f"{type(block).__name__} does not name its input")
            block.register_forward_pre_hook(
                lambda _, args, kwargs: _before(names, args, kwargs, act), with_kwargs=True
            )
        elif site.point == "attn_heads":
            module = self._child(self._child(block, ATTENTION, site), HEADS, site)
            module.register_forward_pre_hook(lambda _, args: act(args[0], None))
        else:
            names = ATTENTION if site.point == "attn_out" else MLP
            module = self._child(block, names, site)
            if ranks > 1 and any(_is_partial(part) for part in module.modules()):
                raise self._absent(
                    site, "with tensor parallelism each rank has a share of it, summed up later"
                )
            module.register_forward_hook(lambda _, __, output: _after(output, act))


def _after(output: Any, act: Act) -> None:
    if isinstance(output, Tensor):
        return act(output, None)
    if not isinstance(output, tuple) or not isinstance(output[0], Tensor):
        raise RefusedError("E_POINT", f"A block hands on {type(output).__name__}, not its states.")
    hidden, *rest = output
    residual = rest[0] if rest and isinstance(rest[0], Tensor) else None
    if residual is not None and residual.shape != hidden.shape:
        residual = None
    return act(hidden, residual)


def _before(
    names: tuple[str, ...],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    act: Act,
) -> None:
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    act(given["hidden_states"], given.get("residual"))


def _is_partial(module: nn.Module) -> bool:
    return getattr(module, "reduce_results", True) is False


def find_decoder(model: nn.Module, num_layers: int) -> Decoder:
    """The blocks of the language model inside of `model`, as vLLM names them.

    Raises:
        RefusedError: there is no such list of blocks, or more than one.
    """
    language = getattr(model, "get_language_model", None)
    root = language() if callable(language) else model
    assert isinstance(root, nn.Module)
    found = [
        module
        for name, module in root.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == num_layers
        and name.rpartition(".")[2] in ("layers", "h", "blocks")
    ]
    name = type(model).__name__
    if len(found) != 1:
        raise RefusedError(
            "E_ARCHITECTURE",
            f"The decoder blocks of {name} could not be told apart: {len(found)} lists of "
            f"{num_layers} blocks were found, and 1 is needed. Use `steersman serve` without vLLM.",
        )
    return Decoder(tuple(found[0]), name)
