"""Puts a function at a site of a transformers model."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from steersman.core.types import Site
from steersman.models.blocks import Blocks


def attach(blocks: Blocks, site: Site, act: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Calls `act` with the state at `site`; what it returns, if anything, takes its place."""
    tap = blocks.tap(site)
    if tap.before:

        def before(
            _module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
        ) -> tuple[tuple[object, ...], dict[str, object]] | None:
            h = args[0] if args else kwargs["hidden_states"]
            assert isinstance(h, Tensor)
            changed = act(h)
            if changed is None:
                return None
            if args:
                return (changed, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": changed}

        return tap.module.register_forward_pre_hook(before, with_kwargs=True)

    def after(_module: nn.Module, _args: object, output: object) -> object:
        if isinstance(output, tuple):
            changed = act(output[0])
            return None if changed is None else (changed, *output[1:])
        assert isinstance(output, Tensor)
        return act(output)

    return tap.module.register_forward_hook(after)
