"""Turns files of others into artifacts. The only module that may call `torch.load`."""

import warnings
import zipfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from steersman.core.errors import ArtifactError, RecipeError, nearest
from steersman.core.io import Artifact
from steersman.core.recipe import Recipe, parse_recipe
from steersman.core.steerer import Policy, Steerer
from steersman.core.types import ModelSpec
from steersman.gates.always import AlwaysOpen
from steersman.methods.l2s import L2S
from steersman.operators.add import Add
from steersman.synthesizers.net import SteeringNet

PRESETS: dict[str, tuple[str, str, int, int]] = {
    "l2s-safety-llava-1.5": ("llava-hf/llava-1.5-7b-hf", "LlavaForConditionalGeneration", 4096, 32),
    "l2s-pope-llava-1.5": ("llava-hf/llava-1.5-7b-hf", "LlavaForConditionalGeneration", 4096, 32),
    "l2s-safety-qwen2-vl": (
        "Qwen/Qwen2-VL-7B-Instruct",
        "Qwen2VLForConditionalGeneration",
        3584,
        28,
    ),
    "l2s-pope-qwen2-vl": ("Qwen/Qwen2-VL-7B-Instruct", "Qwen2VLForConditionalGeneration", 3584, 28),
    "autosteer-llava-onevision": (
        "llava-hf/llava-onevision-qwen2-7b-ov-hf",
        "LlavaOnevisionForConditionalGeneration",
        3584,
        28,
    ),
    "autosteer-chameleon": (
        "facebook/chameleon-7b",
        "ChameleonForConditionalGeneration",
        4096,
        32,
    ),
    "finesteer-llama3-8b": ("meta-llama/Meta-Llama-3-8B-Instruct", "LlamaForCausalLM", 4096, 32),
    "finesteer-llama3.1-8b": ("meta-llama/Llama-3.1-8B-Instruct", "LlamaForCausalLM", 4096, 32),
    "finesteer-gemma2-9b": ("google/gemma-2-9b-it", "Gemma2ForCausalLM", 3584, 42),
    "finesteer-qwen2.5-7b": ("Qwen/Qwen2.5-7B-Instruct", "Qwen2ForCausalLM", 3584, 28),
}
"""Preset name -> the model it is for: hub id, architecture, width, number of layers."""

UNREADABLE = (
    *(UnpicklingError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile, OSError),
    *(IndexError, KeyError, AttributeError, TypeError),
)
"""What `torch.load` raises for files that are no checkpoints."""
WANTED, OPTIONAL = {"encoder.weight", "encoder.bias", "decoder.weight"}, {"decoder.bias"}


def preset(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The published recipe `name`: layers, strengths, sizes and position rules of the authors.

    Raises:
        RecipeError: there is no such preset.
    """
    if name not in PRESETS:
        raise RecipeError(f"There is no preset {name!r}.{nearest(name, PRESETS)}")
    text = (files("steersman.methods") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    return parse_recipe(text, f"preset {name}", overrides)


def import_l2s(
    file: Path | str, preset_name: str, spec: ModelSpec | None = None, version: str = ""
) -> Artifact:
    """An artifact from a net that the authors of L2S released as `.pt`.

    The file holds three tensors and nothing else; layers, strength and positions come from the
    preset. Only tensors are read (`weights_only`), so no code in the file can run.

    Args:
        spec: of the model at hand; with it the artifact carries the model's fingerprint, without
            it only the model's name and sizes.

    Raises:
        ArtifactError: the file is not such a net, or its sizes are not the preset's.
        RecipeError: there is no such preset, or it is not one of L2S.
    """
    recipe = preset(preset_name)
    if not isinstance(recipe.method, L2S):
        raise RecipeError(
            f"{preset_name} is a preset of {recipe.method.part_name!r}, whose files are not "
            "imported. Choose a preset of 'l2s'."
        )
    id, architecture, width, layers = PRESETS[preset_name]
    target = spec or ModelSpec(id, architecture, width, layers, ("text", "image"))
    encoder, bias, decoder = _net(Path(file))
    hidden, d = encoder.shape
    if d != target.d_model:
        raise ArtifactError(
            f"{file} is a net for states of {d} numbers, but {preset_name} is for {target.id} "
            f"with {target.d_model}. Choose the preset that belongs to the file."
        )
    if hidden != recipe.method.net.hidden:
        raise ArtifactError(
            f"{file} has {hidden} hidden units, but {preset_name} has {recipe.method.net.hidden}. "
            "Choose the preset that belongs to the file."
        )
    method = recipe.method
    net = SteeringNet(
        read=method.context,
        mean=torch.zeros(d),
        spread=torch.ones(d),
        encoder=encoder,
        bias=bias,
        decoder=decoder,
        activation=method.net.activation,
    )
    steerer = Steerer(
        sites=(method.site,),
        gate=AlwaysOpen(),
        synthesizer=net,
        operator=Add(),
        scope=method.scope,
        strength=method.strength,
    )
    provenance = {"method": "l2s", "recipe": recipe.table, "imported_from": Path(file).name}
    return Artifact(Policy(steerers={recipe.name: steerer}), target, provenance, version)


def _plain(value: object) -> bool:
    """A dense tensor of real numbers, with data."""
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.layout == torch.strided
        and not value.is_meta
    )


def _net(file: Path) -> tuple[Tensor, Tensor, Tensor]:
    if not file.is_file():
        raise ArtifactError(f"There is no file {file}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files that are refused below anyway
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ArtifactError(
            f"{file} is damaged, or holds more than tensors, and was not read: {first}"
        ) from error
    table = loaded
    if isinstance(loaded, dict) and set(loaded) == {"steering_model"}:
        table = loaded["steering_model"]
    if not isinstance(table, dict) or not all(_plain(v) for v in table.values()):
        raise ArtifactError(f"{file} is not a table of tensors, as a released L2S net is.")
    if not WANTED <= set(table) <= WANTED | OPTIONAL:
        raise ArtifactError(
            f"{file} holds {', '.join(sorted(map(str, table))) or 'nothing'}; a released L2S net "
            f"holds {', '.join(sorted(WANTED))} and nothing else."
        )
    if "decoder.bias" in table and bool((table["decoder.bias"] != 0).any()):
        raise ArtifactError(f"{file} has a decoder bias, which the released nets do not have.")
    encoder, bias, decoder = (
        table[name].float().contiguous()
        for name in ("encoder.weight", "encoder.bias", "decoder.weight")
    )
    if encoder.dim() != 2 or bias.shape != encoder.shape[:1] or decoder.shape != encoder.T.shape:
        raise ArtifactError(
            f"{file}: the shapes {tuple(encoder.shape)}, {tuple(bias.shape)} and "
            f"{tuple(decoder.shape)} do not belong to one net (k d), (k), (d k)."
        )
    if not all(bool(torch.isfinite(t).all()) for t in (encoder, bias, decoder)):
        raise ArtifactError(f"{file} holds NaN or infinity.")
    return encoder, bias, decoder
