"""Puts a function at a site of a transformers model."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from steersman.core.errors import ModelError
from steersman.core.types import Site
from steersman.models.blocks import Blocks


def attach(blocks: Blocks, site: Site, act: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Calls `act` with the state at `site`; what it returns, if anything, takes its place."""
    tap = blocks.tap(site)
    if tap.before:

        def before(
            _module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object] | None = None
        ) -> tuple[tuple[object, ...], dict[str, object]] | None:
            if kwargs is None:  # torch does so in one thread while another removes the hook
                return None
            name = None if args else next(n for n, v in kwargs.items() if isinstance(v, Tensor))
            h = args[0] if name is None else kwargs[name]
            assert isinstance(h, Tensor)
            changed = act(h)
            if changed is None:
                return None
            if name is None:
                return (changed, *args[1:]), kwargs
            return args, {**kwargs, name: changed}

        return tap.module.register_forward_pre_hook(before, with_kwargs=True)

    def after(module: nn.Module, _args: object, output: object) -> object:
        if isinstance(output, Tensor):
            return act(output)
        if not isinstance(output, (tuple, list)) or not isinstance(output[0], Tensor):
            raise ModelError(
                f"{type(module).__name__} at {site} gives {type(output).__name__}, and steering "
                "needs a tensor or a tuple that begins with one. Choose another point."
            )
        changed = act(output[0])
        return None if changed is None else type(output)((changed, *output[1:]))

    return tap.module.register_forward_hook(after)
