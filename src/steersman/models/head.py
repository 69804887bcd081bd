"""What a model's output head makes of final states, found out once instead of believed."""

from dataclasses import dataclass
from itertools import product
from threading import get_ident

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from steersman.core.errors import ModelError
from steersman.models.blocks import Blocks
from steersman.models.offloaded import offloaded, runs_on
from steersman.models.sharded import whole

FACTORS = ("logit_scale", "lm_head_multiplier")
DIVISORS = ("logits_scaling",)
CAPS = ("final_logit_softcapping", "logits_soft_cap")
"""What configurations call a factor on the logits, a divisor, and a soft limit to them."""
IDS = (3, 2, 1)
TOLERANCE = 0.05  # of the largest logit: what bfloat16 may do


@dataclass(frozen=True)
class Head:
    """weight h + bias, times `factor`, under a soft `cap` where there is one.

    Configurations name factors and caps that some models apply and others, which wrap the same
    language model, do not: `find_head` compares with the model's own logits.
    """

    weight: Float[Tensor, "v d"]
    bias: Float[Tensor, " v"] | None
    factor: float = 1.0
    cap: float | None = None

    def __call__(self, states: Float[Tensor, "t d"]) -> Float[Tensor, "t v"]:
        """The logits in float32; gradients flow to `states` alone."""
        given = states.to(self.weight.device, self.weight.dtype)
        made = nn.functional.linear(given, self.weight, self.bias).float() * self.factor
        return made if self.cap is None else self.cap * torch.tanh(made / self.cap)


def find_head(model: PreTrainedModel, blocks: Blocks) -> Head:
    """The head of `model`, which is the innermost one that has it.

    Raises:
        ModelError: it has none, or something lies between it and the final states or behind it.
    """
    layer = model.get_output_embeddings()
    if layer is None or blocks.final_norm is None:
        raise ModelError(
            f"{type(model).__name__} has no output head behind a final norm. Load it with its "
            "head, or use a method that does not ask for logits."
        )
    if not isinstance(layer.weight, Tensor):
        raise ModelError(
            f"The output head of {type(model).__name__} is quantised, and a method asks for its "
            "weights. Load the model without that."
        )
    weight, bias = _numbers(layer, "weight"), getattr(layer, "bias", None)
    plain = Head(weight, None if bias is None else _numbers(layer, "bias"))
    states, logits = _watched(model, blocks.final_norm)
    if weight.shape[1] == states.shape[-1] and len(weight) == logits.shape[-1]:
        for factor, cap in product(_factors(model), _caps(model)):
            head = Head(plain.weight, plain.bias, factor, cap)
            if _close(head(states), logits):
                return head
    raise ModelError(
        f"What {type(model).__name__} makes of its final states (width {states.shape[-1]}) is not "
        f"its output head alone ({tuple(weight.shape)}): something lies in between or behind. Use "
        "a method that does not ask for logits."
    )


def _numbers(layer: nn.Module, name: str) -> Tensor:
    """A weight of the head wherever it is kept: offloaded, or shared among processes."""
    kept: Tensor = getattr(layer, name).detach()
    return whole(offloaded(layer, name) if kept.is_meta else kept)


def _watched(model: PreTrainedModel, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Final states of three tokens, and the model's own logits for them."""
    seen: list[Tensor] = []
    thread = get_ident()

    def keep(_module: object, _args: object, out: Tensor) -> None:
        if get_ident() == thread:  # others may be running the model at the same time
            seen.append(out.detach())

    handle = norm.register_forward_hook(keep)
    try:
        ids = torch.tensor([IDS], device=runs_on(model) or model.device)
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
    return seen[-1].reshape(len(IDS), -1), logits[0].float()


def _factors(model: PreTrainedModel) -> list[float]:
    config, found = model.config.get_text_config(decoder=True), 1.0
    for name in FACTORS:
        found *= getattr(config, name, None) or 1.0
    for name in DIVISORS:
        found /= getattr(config, name, None) or 1.0
    return list(dict.fromkeys([found, 1.0]))


def _caps(model: PreTrainedModel) -> list[float | None]:
    config = model.config.get_text_config(decoder=True)
    named = [getattr(config, name, None) for name in CAPS]
    return [*(cap for cap in named if cap), None]


def _close(made: Tensor, wanted: Tensor) -> bool:
    told = wanted > torch.finfo(wanted.dtype).min / 2  # tokens that a model never says
    limit = TOLERANCE * wanted[told].abs().max().clamp_min(1e-6)
    return bool(((made.to(wanted.device) - wanted)[told].abs() <= limit).all())
