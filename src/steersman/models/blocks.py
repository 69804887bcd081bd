"""Finds the language model's decoder blocks by structure, never by a pattern over all names."""

import inspect
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from steersman.core.errors import ModelError
from steersman.core.types import Site
from steersman.models.halves import Halves, trace
from steersman.models.padding import padding_disturbs
from steersman.models.sharded import is_sharded


@dataclass(frozen=True)
class Tap:
    """A module and the side of it where a site lies."""

    module: nn.Module
    before: bool


@dataclass(frozen=True)
class Blocks:
    """The decoder of a model: its blocks in order, and the norm behind the last one.

    Attributes:
        halves: what each block adds to the residual stream.
        padding_disturbs: whether rows of one batch must have one length, as padding on the left
            changes what the model makes of the tokens behind it.
    """

    layers: tuple[nn.Module, ...]
    final_norm: nn.Module | None
    d_model: int
    num_heads: int
    halves: tuple[Halves, ...]
    padding_disturbs: bool = False

    def tap(self, site: Site) -> Tap:
        """Where `site` is in this model.

        Raises:
            ModelError: the block has no such point, or it is no module's output.
        """
        block = self.layers[site.layer]
        if self.halves[site.layer].stream and site.point != "head_in":
            raise ModelError(
                f"{site} is not to be had in {type(block).__name__}: "
                f"{self.halves[site.layer].stream}. This architecture cannot be steered there."
            )
        if site.point in ("resid_pre", "resid_post"):
            return Tap(block, before=site.point == "resid_pre")
        if site.point == "head_in":
            if self.final_norm is None:
                why = self.halves[-1].reason
                raise ModelError(
                    "head_in needs a norm that runs once, behind the last block, and none was "
                    f"found{f' ({why})' if why else ''}. Use resid_post of layer "
                    f"{len(self.layers) - 1}."
                )
            return Tap(self.final_norm, before=False)
        return self._half(site, block)

    def _half(self, site: Site, block: nn.Module) -> Tap:
        halves = self.halves[site.layer]
        role = "mlp" if site.point == "mlp_out" else "attention"
        found = [a for a in halves.addends if a.role == role]
        heads = site.point == "attn_heads"
        path = (found[0].heads if heads else found[0].path) if len(found) == 1 else None
        if path is not None:
            module = block.get_submodule(path)
            if heads and is_sharded(module):
                raise ModelError(
                    f"{site} is not to be had with tensor parallelism: each process computes some "
                    "of the heads only. Load the model with device_map instead of tp, or use "
                    "attn_out."
                )
            return Tap(module, before=heads)
        raise ModelError(
            f"{site} is not to be had in {type(block).__name__}: {_told(halves, role, heads)}. "
            "Use resid_pre or resid_post."
        )


def find_blocks(model: PreTrainedModel, path: str | None = None) -> Blocks:
    """The decoder blocks of the language model inside `model`.

    Args:
        path: the list of blocks as a path from `model`, such as "model.layers", where structure
            alone does not tell it.

    Raises:
        ModelError: there is none, or more than one list of blocks could be it.
    """
    config = model.config.get_text_config(decoder=True)
    if model.config.is_encoder_decoder or config.is_encoder_decoder:
        raise ModelError(
            f"{type(model).__name__} is an encoder-decoder: its prompt and its answer run through "
            "different blocks, and one site would mean two places. Use a decoder-only model."
        )
    decoder = model.get_decoder()
    if not _lists(decoder):  # ModernBERT's decoder calls its output head so
        decoder = model.base_model
    name, layers = _only_list(model, decoder, config) if path is None else _named(model, path)
    owner = decoder if path is None else model
    beside = owner.get_submodule(name.rpartition(".")[0]).children()
    norms = [child for child in beside if "norm" in type(child).__name__.lower()]
    traced = trace(decoder, tuple(layers), norms)
    positions = "position_ids" in inspect.signature(model.forward).parameters
    return Blocks(
        tuple(layers),
        traced.final_norm,
        config.hidden_size,
        _num_heads(config),
        traced.halves,
        padding_disturbs(decoder, layers[-1], positions=positions),
    )


def _only_list(
    model: PreTrainedModel, decoder: nn.Module, config: PreTrainedConfig
) -> tuple[str, nn.ModuleList]:
    num = config.num_hidden_layers
    lists = _lists(decoder)
    fitting = {n: m for n, m in lists.items() if len(m) == num}
    outer = {n: m for n, m in fitting.items() if not any(n.startswith(f"{o}.") for o in fitting)}
    nearest = min((n.count(".") for n in outer), default=0)
    outer = {n: m for n, m in outer.items() if n.count(".") == nearest}  # not an image's encoder
    if len(outer) == 1:
        return next(iter(outer.items()))
    raise ModelError(
        f"The decoder blocks of {type(model).__name__} could not be told apart: {num} blocks are "
        f"expected, and the lists found are: {_shown(_lists(model))}. Name the right one: "
        'HFModel(..., blocks="model.layers"), or report the architecture.'
    )


def _named(model: PreTrainedModel, path: str) -> tuple[str, nn.ModuleList]:
    lists = _lists(model)
    if path in lists:
        return path, lists[path]
    raise ModelError(
        f"{type(model).__name__} has no list of blocks at {path!r}. The lists found are: "
        f"{_shown(lists)}. Name one of them."
    )


def _lists(root: nn.Module) -> dict[str, nn.ModuleList]:
    """Lists of blocks: modules with modules of their own, whether or not all are of one class."""
    return {
        name: module
        for name, module in root.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) > 0
    }


def _shown(lists: dict[str, nn.ModuleList]) -> str:
    kinds = {n: " or ".join(sorted({type(b).__name__ for b in m})) for n, m in lists.items()}
    return ", ".join(f"{n}: {len(m)} x {kinds[n]}" for n, m in lists.items()) or "none"


def _num_heads(config: PreTrainedConfig) -> int:
    heads = getattr(config, "num_attention_heads", 0)
    return heads if isinstance(heads, int) else 0


def _told(halves: Halves, role: str, heads: bool) -> str:
    if halves.reason:
        return halves.reason
    found = [a for a in halves.addends if a.role == role]
    if heads and len(found) == 1 and found[0].path is not None:
        return f"no projection of heads was found in {found[0].told}"
    added = ", ".join(a.told for a in halves.addends) or "nothing"
    return f"it adds {added}, and exactly one {role} among them, as a module's output, is needed"
