"""What a model computes with, down to each weight: for caches, where a fingerprint is too coarse.

A fingerprint samples a few numbers of each weight, as a policy may still fit a model that was
changed a little. What was read of the model does not.
"""

import hashlib
import json

import tokenizers
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from steersman.models.fingerprint import stable, tensors
from steersman.models.offloaded import offloaded

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}
AUTOCAST = ("cpu", "cuda")
PASSING = ("truncation", "padding")  # what a tokenizer's last call has set


class Contents:
    """A digest of all weights, of how text and images are prepared, and of the libraries.

    Weights are read when it is first asked for, and again once one was replaced or changed in
    place. A change behind autograd's back (`weight.data.mul_(2)`) is not noticed after that.
    Settings are looked at each time: configurations, the chat template, which adapters are at work.
    """

    def __init__(
        self, model: nn.Module, processor: ProcessorMixin | PreTrainedTokenizerBase
    ) -> None:
        self._model = model
        self._processor = processor
        self._made: tuple[int, str] | None = None

    def digest(self) -> str:
        """16 hexadecimal digits."""
        state = _state(self._model)
        if self._made is None or self._made[0] != state:
            self._made = (state, self._digest())
        settings = json.dumps(_settings(self._model, self._processor), sort_keys=True)
        return hashlib.sha256((self._made[1] + settings).encode()).hexdigest()[:16]

    def _digest(self) -> str:
        versions = [torch.__version__, transformers.__version__, tokenizers.__version__]
        digest = hashlib.sha256(json.dumps([versions, *_prepared(self._processor)]).encode())
        for name, value in sorted(self._model.state_dict().items()):
            for tensor in tensors(value):
                whole = offloaded(self._model, name) if tensor.is_meta else tensor
                digest.update(f"{name} {whole.dtype} {tuple(whole.shape)}".encode())
                digest.update(_sums(whole))
        return digest.hexdigest()


def _sums(tensor: Tensor) -> bytes:
    """The exact sums of the bits in the rows of a weight: reading it once is all that this costs.

    Two numbers that change places within a row are not noticed.
    """
    flat = tensor.detach().contiguous()
    flat = flat.reshape(-1, 1) if flat.dim() < 2 else flat.flatten(1)
    wide = flat.shape[1] * flat.element_size() % 8 == 0
    whole = flat.view(torch.int64 if wide else BITS[flat.element_size()])
    return whole.sum(1, dtype=torch.int64).cpu().numpy().tobytes()


def _state(model: nn.Module) -> int:
    """Changes with the memory in which the weights are, and with every edit in place."""
    return hash(
        tuple(
            (p.data_ptr(), 0 if p.is_inference() else p._version)  # pyright: ignore[reportPrivateUsage]  # how autograd itself counts edits
            for p in model.parameters()
        )
    )


def _settings(
    model: nn.Module, processor: ProcessorMixin | PreTrainedTokenizerBase
) -> list[object]:
    """What decides the numbers beside the weights, and may be set to something else at any time."""
    templates = [
        getattr(part, "chat_template", None)
        for part in (processor, getattr(processor, "tokenizer", processor))
    ]
    configs = [getattr(model, name, None) for name in ("config", "generation_config")]
    adapters = [
        (name, module.active_adapters, module.disable_adapters, module.merged_adapters)
        + (getattr(module, "scaling", None),)
        for name, module in model.named_modules()
        if "merged_adapters" in vars(module)  # a layer of PEFT's
    ]
    kinds = [kind for kind in AUTOCAST if torch.is_autocast_enabled(kind)]
    autocast = [(kind, str(torch.get_autocast_dtype(kind))) for kind in kinds]
    told = [config.to_dict() for config in configs if config is not None]
    return [stable(part) for part in (templates, told, adapters, autocast)]


def _prepared(processor: ProcessorMixin | PreTrainedTokenizerBase) -> list[object]:
    tokenizer = getattr(processor, "tokenizer", processor)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules: object = None
    if backend is not None:
        told = json.loads(backend.to_str())
        rules = {name: value for name, value in told.items() if name not in PASSING}
    settings = stable(processor.to_dict()) if isinstance(processor, ProcessorMixin) else None
    images = getattr(processor, "image_processor", None)
    kinds = [type(part).__qualname__ for part in (processor, tokenizer, images)]
    return [kinds, rules, settings]
