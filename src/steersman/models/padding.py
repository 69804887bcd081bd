"""Whether padding on the left changes what a model makes of the tokens behind it.

Attention masks padding out. Some recurrent layers and some learned positions of transformers do
not, and a prompt would mean something else in a batch than alone. No configuration says so.
"""

from typing import Any

import torch
from torch import Tensor, nn

from steersman.models.halves import FAILURES
from steersman.models.offloaded import runs_on

TOLERANCE = {torch.float32: 0.01, torch.float64: 0.01}  # where it disturbs, it is 0.1 and more
COARSE = 0.05  # what rounding may do through many blocks at lower precision
IDS, PADS = (3, 2, 1), 4


def padding_disturbs(decoder: nn.Module, last: nn.Module, *, positions: bool) -> bool:
    """Compares the last token behind block `last`, alone and padded; False where neither runs.

    Args:
        positions: whether the model's own forward takes position ids, which then tell padding.
    """
    device = runs_on(decoder)
    if device is None:
        return False
    seen: list[Tensor] = []

    def keep(_module: object, _args: object, made: Any) -> None:
        seen.append((made if isinstance(made, Tensor) else made[0])[0, -1].float())

    hook = last.register_forward_hook(keep)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            for num in (0, PADS):
                decoder(**_padded(num, device, positions), use_cache=False)
    except FAILURES:
        return False  # a decoder that does not take plain ids; its own first pass will tell
    finally:
        hook.remove()
    if len(seen) != 2:
        return False
    tolerance = TOLERANCE.get(next(decoder.parameters()).dtype, COARSE)
    return bool((seen[0] - seen[1]).norm() > tolerance * seen[0].norm())


def _padded(num: int, device: torch.device, positions: bool) -> dict[str, Tensor]:
    mask = torch.tensor([[0] * num + [1] * len(IDS)], device=device)
    ids = torch.tensor([[0] * num + list(IDS)], device=device)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if positions:
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    return inputs
