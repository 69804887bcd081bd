"""Finds the language model's decoder blocks by structure, never by a pattern over all names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from steersman.core.errors import ModelError
from steersman.core.types import Point, Site

ATTENTION = ("self_attn", "attn", "attention", "self_attention")
MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe")
PROJECTION = ("o_proj", "out_proj", "c_proj", "dense", "wo")  # of the attention heads


@dataclass(frozen=True)
class Tap:
    """A module and the side of it where a site lies."""

    module: nn.Module
    before: bool


@dataclass(frozen=True)
class Blocks:
    """The decoder of a model: its blocks in order, and the norm behind the last one."""

    layers: tuple[nn.Module, ...]
    final_norm: nn.Module | None
    d_model: int
    num_heads: int = 0

    def tap(self, site: Site) -> Tap:
        """Where `site` is in this model.

        Raises:
            ModelError: the block has no such point.
        """
        block = self.layers[site.layer]
        if site.point in ("resid_pre", "resid_post"):
            return Tap(block, before=site.point == "resid_pre")
        if site.point == "head_in":
            if self.final_norm is None:
                raise ModelError(
                    "head_in needs a final norm, and none was found behind the blocks."
                )
            return Tap(self.final_norm, before=False)
        if site.point == "attn_heads":
            return Tap(_child(_child(block, "attn_out", ATTENTION), site.point, PROJECTION), True)
        wanted = ATTENTION if site.point == "attn_out" else MLP
        return Tap(_child(block, site.point, wanted), before=False)


def find_blocks(model: PreTrainedModel) -> Blocks:
    """The decoder blocks of the language model inside `model`.

    Raises:
        ModelError: there is none, or more than one list of blocks could be it.
    """
    config = model.config.get_text_config(decoder=True)
    decoder = model.get_decoder()
    lists = {
        name: module
        for name, module in decoder.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) > 0 and _alike(module)
    }
    fitting = {n: m for n, m in lists.items() if len(m) == config.num_hidden_layers}
    outer = {n: m for n, m in fitting.items() if not any(n.startswith(f"{o}.") for o in fitting)}
    if len(outer) != 1:
        found = ", ".join(
            f"{n or '(root)'}: {len(m)} x {type(m[0]).__name__}" for n, m in lists.items()
        )
        raise ModelError(
            f"The decoder blocks of {type(model).__name__} could not be told apart: "
            f"{config.num_hidden_layers} blocks are expected, and the lists found are: "
            f"{found or 'none'}. Pass the decoder itself, or report the architecture."
        )
    name, layers = next(iter(outer.items()))
    parent = decoder.get_submodule(name.rpartition(".")[0])
    return Blocks(tuple(layers), _final_norm(parent), config.hidden_size, _num_heads(config))


def _num_heads(config: PreTrainedConfig) -> int:
    heads = getattr(config, "num_attention_heads", 0)
    return heads if isinstance(heads, int) else 0


def _alike(layers: nn.ModuleList) -> bool:
    return len({type(layer) for layer in layers}) == 1


def _final_norm(parent: nn.Module) -> nn.Module | None:
    norms = [child for child in parent.children() if "norm" in type(child).__name__.lower()]
    return norms[-1] if norms else None


def _child(block: nn.Module, point: Point, wanted: Sequence[str]) -> nn.Module:
    children: Mapping[str, nn.Module] = dict(block.named_children())
    for name in wanted:
        if name in children:
            return children[name]
    raise ModelError(
        f"{type(block).__name__} has no {point}: its children are {', '.join(children)}, and one "
        f"of {', '.join(wanted)} is needed. Use resid_pre or resid_post."
    )
