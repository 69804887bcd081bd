"""Weights of which each process holds a part: tensor parallelism through transformers.

The states between the blocks are whole, and the same, in every process.
"""

import os

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.distributed import DistributedConfig

from steersman.core.errors import ModelError

PARTS = ("num_attention_heads", "num_key_value_heads")


def _kinds() -> tuple[type[Tensor], ...]:
    if not torch.distributed.is_available():
        return ()
    from torch.distributed.tensor import DTensor  # a torch without torch.distributed has none

    return (DTensor,)


SHARDED = _kinds()


def whole(tensor: Tensor) -> Tensor:
    """The numbers of all processes, which must all ask; a tensor that is not shared as it is."""
    return tensor.full_tensor() if isinstance(tensor, SHARDED) else tensor


def is_sharded(module: nn.Module) -> bool:
    """Whether other processes hold parts of this module's weights."""
    return any(isinstance(p, SHARDED) for p in module.parameters())


def among_processes(config: PreTrainedConfig) -> DistributedConfig:
    """How transformers is to share the weights among the processes that torchrun started.

    Raises:
        ModelError: this is the only process, or the heads cannot be dealt out evenly.
    """
    num = _num_processes()
    if num < 2:
        raise ModelError(
            'tp="auto" shares the weights among several processes, and this one is alone. Start '
            "the script with: torchrun --nproc-per-node 2 script.py"
        )
    text = config.get_text_config(decoder=True)
    for name in PARTS:
        heads = getattr(text, name, None)
        if isinstance(heads, int) and heads % num:
            raise ModelError(
                f"{num} processes cannot share {name} = {heads} evenly. Start torchrun with a "
                "number of processes that divides it."
            )
    return DistributedConfig(tp_size=num, tp_plan="auto")


def refuse_copies(model: PreTrainedModel) -> None:
    """Some plans of transformers share the output head and no more; some models have no plan.

    Raises:
        ModelError: every process holds all weights of the blocks.
    """
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    apart = {id(p) for end in ends if end is not None for p in end.parameters()}
    if not any(isinstance(p, SHARDED) for p in model.parameters() if id(p) not in apart):
        raise ModelError(
            f"transformers has no plan for sharing the blocks of {type(model).__name__} among "
            'processes: each would hold all of them. Load it without tp="auto"; '
            'device_map="auto" spreads it over devices.'
        )


def _num_processes() -> int:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    started = {"RANK", "LOCAL_RANK"} <= os.environ.keys()
    return int(os.environ.get("WORLD_SIZE", "1")) if started else 1
