"""Who a model is: hashes of its configuration, sampled weights, chat template and processor."""

import hashlib
import json
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import PreTrainedConfig, PreTrainedModel

from steersman.models.offloaded import offloaded
from steersman.models.sharded import SHARDED, whole

VOLATILE = (
    "_name_or_path",
    "architectures",  # set on the first save; ModelSpec.architecture says it anyway
    "transformers_version",
    "dtype",
    "torch_dtype",
    "_attn_implementation",
)
NUM_SAMPLED = 16  # numbers of every tensor


def fingerprint(model: PreTrainedModel, processor: object) -> dict[str, str]:
    """Hashes by name. The weights are compared as bfloat16, so that the loading type is free."""
    hashes = fingerprint_without_weights(model.config, processor)
    return {"config": hashes.pop("config"), "weights": _weights(model), **hashes}


def fingerprint_without_weights(config: PreTrainedConfig, processor: object) -> dict[str, str]:
    """The hashes that need no weights."""
    tokenizer = getattr(processor, "tokenizer", processor)
    template = getattr(processor, "chat_template", None) or getattr(
        tokenizer, "chat_template", None
    )
    return {
        "config": _sha(stable(config.to_dict())),
        "chat_template": _sha(template or ""),
        "processor": _sha(_processor(processor)),
    }


def _weights(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        for tensor in tensors(value):
            flat = (offloaded(model, name) if tensor.is_meta else tensor).detach().flatten()
            # In whole numbers: a float32 index would miss the end of a large embedding.
            picked = torch.arange(NUM_SAMPLED) * max(0, len(flat) - 1) // (NUM_SAMPLED - 1)
            numbers = flat[picked.to(flat.device)].to(torch.bfloat16).view(torch.int16).cpu()
            digest.update(name.encode() + numbers.numpy().tobytes())
    return digest.hexdigest()


def tensors(value: object) -> Iterator[Tensor]:
    """What a state holds under one name: several tensors, or wrapped ones, where quantised."""
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors(part)
    elif isinstance(value, SHARDED):
        yield whole(value)
    elif isinstance(value, Tensor) and is_traceable_wrapper_subclass(value):
        names, _ = value.__tensor_flatten__()
        for name in names:
            yield from tensors(getattr(value, name))
    elif isinstance(value, Tensor):
        yield value.dequantize() if value.is_quantized else value


def _processor(processor: object) -> object:
    tokenizer = getattr(processor, "tokenizer", processor)
    images = getattr(processor, "image_processor", None)
    vocabulary = sorted(tokenizer.get_vocab().items())
    settings = stable(images.to_dict()) if images is not None else None
    return [vocabulary, settings]


def stable(value: object) -> object:
    """Without what differs between two loads of the same files."""
    if isinstance(value, dict):
        return {str(k): stable(v) for k, v in value.items() if k not in VOLATILE}
    if isinstance(value, (list, tuple)):
        return [stable(v) for v in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _sha(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
