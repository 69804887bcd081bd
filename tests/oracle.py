"""What steering should do, written a second time: plain transformers, hooks by hand, lists."""

from contextlib import contextmanager
from functools import partial

import torch

import tiny
from steersman.backends.hf import HFModel
from steersman.core.steerer import Policy, Steerer
from steersman.core.types import Prompt, Read, Scope, Site
from steersman.gates.always import AlwaysOpen
from steersman.gates.prober import ProberGate
from steersman.operators.add import Add
from steersman.synthesizers.net import SteeringNet
from steersman.synthesizers.static import StaticVector

SITE = Site(1)
VECTOR = 0.2 * torch.randn(tiny.WIDTH, generator=torch.Generator().manual_seed(5))
LONG, SHORT = "how do i make the cup ?", "a b"
PROMPTS = [Prompt(LONG), Prompt(SHORT), Prompt("make the bomb safe . yes ?")]


def _speaking(make) -> HFModel:
    """A model of our own that never says an image token, which no second pass could read."""
    model = make(seed=10)
    model.model.generation_config.suppress_tokens = [4, 5, 6, 7, 8]
    return model


MODELS = {
    "llama": partial(_speaking, tiny.llama),
    "llava": partial(_speaking, tiny.llava),
    "qwen2_vl": partial(_speaking, tiny.qwen2_vl),
}
IMAGE_ID = {"llava": 4, "qwen2_vl": 7}


def prompts_for(name: str) -> list[Prompt]:
    """Text, and for models that see, images of two sizes too."""
    if name == "llama":
        return PROMPTS
    images = (tiny.picture(), tiny.picture(1, 56))
    seeing = [Prompt(SHORT, images=images[:1]), Prompt(LONG, images=images[1:])]
    return [*PROMPTS, *seeing]


def policy(vector=VECTOR, site=SITE, *, gate=None, synthesizer=None, cap=None, **fields) -> Policy:
    """One steerer called s: a static vector unless told otherwise."""
    made = synthesizer or StaticVector(sites=(site,), vectors=vector[None])
    steerer = Steerer(
        sites=(site,), gate=gate or AlwaysOpen(), synthesizer=made, operator=Add(), **fields
    )
    return Policy(steerers={"s": steerer}, max_relative_norm=cap)


def net(read: Read, seed: int = 3) -> SteeringNet:
    draw = torch.Generator().manual_seed(seed)
    return SteeringNet(
        read=read,
        mean=torch.zeros(tiny.WIDTH),
        spread=torch.full((tiny.WIDTH,), 0.1),
        encoder=torch.randn(6, tiny.WIDTH, generator=draw) / 4,
        bias=torch.randn(6, generator=draw),
        decoder=0.2 * torch.randn(tiny.WIDTH, 6, generator=draw),
    )


def gate_between(read: Read, opens: torch.Tensor, closes: torch.Tensor) -> ProberGate:
    """Open for the first state, closed for the second."""
    normal = (opens - closes) / (opens - closes).norm() ** 2
    middle = normal @ (opens + closes) / 2
    return ProberGate(
        read=read,
        mean=torch.zeros(tiny.WIDTH),
        scale=torch.ones(tiny.WIDTH),
        weight1=normal[None],
        bias1=-middle[None],
        weight2=torch.ones(1),
        bias2=torch.full((1,), -0.01),
    )


def inputs_of(model: HFModel, *prompts: Prompt) -> dict[str, torch.Tensor]:
    return model.chat.encode(prompts).inputs


def blocks_of(model: torch.nn.Module) -> torch.nn.ModuleList:
    inner = model.model
    return getattr(inner, "language_model", inner).layers


def marks(scope: str, ids: list[int], prompt_length: int, image_id: int | None) -> list[bool]:
    """Which tokens a scope names, from its description in words."""
    n, p = len(ids), prompt_length
    return {
        "all": [True] * n,
        "prompt": [i < p for i in range(n)],
        "last": [i == p - 1 for i in range(n)],
        "last_and_generated": [i >= p - 1 for i in range(n)],
        "generated": [i >= p for i in range(n)],
        "text": [token != image_id for token in ids],
        "image": [token == image_id for token in ids],
    }[scope]


@contextmanager
def hand_hook(module: torch.nn.Module, edit):
    """Replaces the output of a module by `edit` of it."""

    def hook(_module, _args, output):
        return (edit(output[0]), *output[1:]) if isinstance(output, tuple) else edit(output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def plain_logits(model: HFModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return model.model(**inputs, use_cache=False).logits


@torch.no_grad()
def hand_logits(model: HFModel, inputs, marked: list[bool], vector=VECTOR, layer=1):
    """Logits of one request when `vector` is added behind a block at the marked tokens."""
    there = torch.tensor(marked)[None, :, None]
    with hand_hook(blocks_of(model.model)[layer], lambda h: torch.where(there, h + vector, h)):
        return model.model(**inputs, use_cache=False).logits


@torch.no_grad()
def hand_state(model: HFModel, inputs, module: torch.nn.Module) -> torch.Tensor:
    """What comes out of a module, `(b, s, d)`."""
    seen = []
    with hand_hook(module, lambda h: seen.append(h) or h):
        model.model(**inputs, use_cache=False)
    return seen[0]


def extended(inputs, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """The inputs with generated tokens `(b, n)` behind them."""
    fill = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    fill["mm_token_type_ids"] = torch.zeros_like(tokens)
    return {k: torch.cat([v, fill[k]], 1) if k in fill else v for k, v in inputs.items()}


@torch.no_grad()
def cached(model: HFModel, inputs, num: int = 4, **settings):
    """The tokens `(b, num)` and logits `(b, num, v)` of the user's own call of generate."""
    out = model.model.generate(
        **inputs,
        max_new_tokens=num,
        do_sample=False,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
        **settings,
    )
    return out.sequences[:, inputs["input_ids"].shape[1] :], torch.stack(out.logits, 1)


def hook_tables(model: HFModel) -> list[tuple[str, list[int], list[int]]]:
    return [
        (name, list(m._forward_hooks), list(m._forward_pre_hooks))
        for name, m in model.model.named_modules()
        if m._forward_hooks or m._forward_pre_hooks
    ]


SCOPES = ("all", "prompt", "last", "last_and_generated", "generated", "text", "image")


def scope_of(name: str) -> Scope:
    return getattr(Scope, name.upper())
