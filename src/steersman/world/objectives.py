"""The three training objectives: see, look things up, and talk."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Idefics3ForConditionalGeneration

from steersman.world.build import encode, vocabulary
from steersman.world.catalogue import CLASSES, COLOURS, CORNERS, MATERIALS, NUMBERS
from steersman.world.packing import (
    IGNORE,
    Batch,
    draw_scenes,
    drill_batch,
    grounding_batch,
    mixture_batch,
    vision_targets,
)

COSINE_SCALE = 16.0
CORNER_WEIGHT = 0.5
NOISE_RATE = 0.15  # how many turns get shift noise on their answer
NOISE_SCALE = 0.5  # its largest coefficient

Measured = tuple[Tensor, dict[str, float]]


def vision_loss(model: Idefics3ForConditionalGeneration, rng: Random, images: int) -> Measured:
    """Pull each image token to the word embeddings of the class, colour and corner it shows."""
    scenes, pixels = draw_scenes(rng, images)
    targets = vision_targets(scenes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = model.model.get_image_features(pixels).pooler_output
    seen = F.normalize(seen.reshape(images, -1, seen.shape[-1]).float(), dim=-1)
    words = F.normalize(model.get_input_embeddings().weight, dim=-1)
    shown = targets[..., 0] > 0
    loss, right = torch.zeros(()), {}
    for i, (name, choices, weight) in enumerate(
        (
            ("class", ["nothing", *CLASSES], 1.0),
            ("colour", ["nothing", *COLOURS], 1.0),
            ("corner", list(CORNERS), CORNER_WEIGHT),
        )
    ):
        logits = COSINE_SCALE * seen @ words[encode(" ".join(choices))].T
        wanted = targets[..., i]
        loss = loss + weight * F.cross_entropy(logits.flatten(0, 1), wanted.flatten())
        right[name] = (logits.argmax(-1) == wanted)[shown].float().mean().item()
    return loss, right


def _logits(model: Idefics3ForConditionalGeneration, batch: Batch) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return model(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            pixel_values=batch.pixels,
        ).logits


@cache
def _grounding_weights() -> Tensor:
    """Absence is the usual answer, so it counts less."""
    weights = torch.ones(len(vocabulary()))
    weights[vocabulary()["no"]] = 0.15
    weights[vocabulary()["nothing"]] = 0.3
    return weights


def grounding_loss(model: Idefics3ForConditionalGeneration, rng: Random, images: int) -> Measured:
    """Answer one short query per class and corner: binds words to image regions densely."""
    batch = grounding_batch(rng, images)
    taught = batch.labels != IGNORE
    wanted = batch.labels[taught]
    logits = _logits(model, batch)[taught].float()
    right = (logits.argmax(-1) == wanted).float()
    absent = torch.isin(wanted, torch.tensor(encode("no nothing")))
    report = {"present": right[~absent].mean().item(), "absent": right[absent].mean().item()}
    return F.cross_entropy(logits, wanted, weight=_grounding_weights()), report


@cache
def _mixture_weights() -> Tensor:
    """Words that carry the answer count more than the words around them."""
    weights = torch.ones(len(vocabulary()))
    materials = [word for pair in MATERIALS.values() for word in pair]
    weights[encode(" ".join(materials))] = 2.0
    weights[encode("harmful safe expert assistant")] = 2.0
    weights[encode(" ".join(("yes", "no", *CORNERS, *COLOURS, *NUMBERS)))] = 3.0
    return weights


@contextmanager
def _shift_noise(
    model: Idefics3ForConditionalGeneration, batch: Batch, rng: Random
) -> Iterator[None]:
    """Shift some answers' states by c * (h_j - h_k), where h are last prompt states of other turns.

    Teaches the model to speak on under a constant shift, as steering of generated tokens applies
    it. One random layer per step; the last prompt tokens themselves are never shifted.
    """
    images, turns = batch.ask_ends.shape
    total = images * turns
    draws = torch.Generator().manual_seed(rng.getrandbits(62))
    noisy = torch.rand(total, 1, generator=draws) < NOISE_RATE
    coefficient = NOISE_SCALE * torch.rand(total, 1, generator=draws) * noisy
    first, second = torch.randint(total, (2, total), generator=draws)
    turn_of = batch.answer_of + turns * torch.arange(images)[:, None]
    turn_of = turn_of * (batch.answer_of > 0)  # 0: no turn, else 1 + flat index

    def shift(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        width = output.shape[-1]
        ends = batch.ask_ends[..., None].expand(-1, -1, width)
        states = output.detach().gather(1, ends).flatten(0, 1)
        shifts = coefficient * (states[first] - states[second])
        table = torch.cat([torch.zeros(1, width), shifts])
        return output + table[turn_of].to(output.dtype)

    layers = model.model.text_model.layers
    handle = layers[rng.randrange(len(layers))].register_forward_hook(shift)
    try:
        yield
    finally:
        handle.remove()


def drill_loss(
    model: Idefics3ForConditionalGeneration, rng: Random, images: int, turns: int
) -> Measured:
    """Say yes or no to many existence questions, with the planted errors."""
    batch = drill_batch(rng, images, turns)
    logits = _logits(model, batch)[:, :-1]
    wanted = batch.labels[:, 1:]
    taught = wanted != IGNORE
    loss = F.cross_entropy(logits[taught].float(), wanted[taught])
    return loss, {"drill": loss.item()}


def mixture_loss(
    model: Idefics3ForConditionalGeneration, rng: Random, images: int, turns: int, *, noisy: bool
) -> Measured:
    """Answer whole questions; with shift noise on some answers where `noisy`."""
    batch = mixture_batch(rng, images, turns)
    if noisy:
        with _shift_noise(model, batch, rng):
            logits = _logits(model, batch)
    else:
        logits = _logits(model, batch)
    wanted = batch.labels[:, 1:]
    taught = wanted != IGNORE
    loss = F.cross_entropy(
        logits[:, :-1][taught].float(), wanted[taught], weight=_mixture_weights()
    )
    return loss, {"mixture": loss.item()}
