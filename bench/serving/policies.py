"""The models that are served, and policies for them with random weights.

What a policy costs does not depend on what it learned, only on its shape.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from generate import autosteer, finesteer, l2s, static
from peers.shapes import Shape, build
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import steersman
from steersman import Artifact, Policy, Scope, Site, Steerer, save_artifact
from steersman.core.types import ModelSpec, Read
from steersman.models.load import bundled_path
from steersman.synthesizers.net import SteeringNet

NUM_POLICIES = 64
CHAT = (
    "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


@dataclass(frozen=True)
class Served:
    """A model's folder, and what its loads need to know.

    Attributes:
        ids: lowest id of prompts, and one more than the highest: no special token.
        positions: tokens that fit.
    """

    name: str
    folder: Path
    shape: Shape
    ids: tuple[int, int]
    positions: int


LLAMA = Shape(768, 12, 12, 12, 2048, 8192)
TINY = Shape(64, 4, 2, 2, 96, 512)
BUNDLED = Shape(192, 6, 6, 6, 512, 223)
MODELS = ("bundled", "llama-100m", "tiny")


def served(name: str, folder: Path) -> Served:
    """Writes the model below `folder`."""
    path = folder / name
    if name == "bundled":
        shutil.copytree(bundled_path(), path)
        endless(path)
        return Served(name, path, BUNDLED, (8, 223), 256)
    shape = LLAMA if name == "llama-100m" else TINY
    build(shape, "cpu", dtype=torch.float32).save_pretrained(path)
    endless(path)
    words(shape.vocabulary).save_pretrained(path)
    return Served(name, path, shape, (3, shape.vocabulary), 1024)


def endless(path: Path) -> None:
    """A model that never ends an answer by itself, so that all are of one length."""
    file = path / "generation_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in settings.items() if k != "eos_token_id"}))


def words(vocabulary: int) -> PreTrainedTokenizerFast:
    """One word for every token."""
    known = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, vocabulary)}}
    core = Tokenizer(models.WordLevel(known, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    made.chat_template = CHAT
    return made


def reading_above(steerer: Steerer, layer: int) -> Steerer:
    """The same net, which reads behind a later block than it writes: needs a pass before."""
    net = steerer.synthesizer
    assert isinstance(net, SteeringNet)
    return replace(steerer, synthesizer=replace(net, read=Read(Site(layer))))


def steerers(shape: Shape) -> Mapping[str, Steerer]:
    """By id. All write the last prompt token and what is generated, unless the id says more."""
    usual = replace(finesteer(shape), scope=Scope.LAST_AND_GENERATED)
    made = {
        "static": static(shape),
        "static_all": replace(static(shape), scope=Scope.ALL),
        "static_generated": replace(static(shape), scope=Scope.GENERATED),
        "l2s": l2s(shape),
        "l2s_probe": reading_above(l2s(shape), shape.layers - 1),
        "autosteer": autosteer(shape),
        "finesteer": usual,
    }
    return made | {f"l2s_{n:02}": l2s(shape, seed=n + 1) for n in range(NUM_POLICIES)}


def write_policies(model: Served, folder: Path) -> Path:
    """One artifact for each; all of them are served."""
    spec: ModelSpec = steersman.load(str(model.folder)).spec
    for name, steerer in steerers(model.shape).items():
        artifact = Artifact(Policy(steerers={name: steerer}), spec, {"method": name})
        save_artifact(artifact, folder / name)
    return folder
