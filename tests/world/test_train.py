"""Training: packing, resuming, and what is written at the end."""

from random import Random

import pytest
import torch
from safetensors.torch import load_file

from steersman.world.build import ModelShape, build_model, encode
from steersman.world.packing import IMAGE_BLOCK, grounding_batch, mixture_batch
from steersman.world.train import PHASES, TrainConfig, train

MICRO = TrainConfig(
    vision_steps=2,
    grounding_steps=2,
    mixture_steps=2,
    polish_steps=1,
    company_steps=2,
    vision_images=2,
    images=2,
    turns=2,
    checkpoint_every=1,
    threads=1,
    shape=ModelShape(
        width=32, layers=2, heads=2, inner=32, vision_width=32, vision_layers=1, vision_heads=2
    ),
)


class Killed(Exception):
    """Stands for the machine going away."""


def _weights(folder):
    return load_file(folder / "model.safetensors")


def _micro_model():
    torch.manual_seed(0)
    model = build_model(MICRO.shape)
    model.set_attn_implementation("eager")
    return model.eval()


@pytest.mark.parametrize("stop", [("vision", 1), ("grounding", 2), ("mixture", 2), ("company", 1)])
def test_killed_and_resumed_run_ends_in_the_same_model(tmp_path, stop) -> None:
    whole = train(tmp_path / "whole", 0, config=MICRO)

    def kill(event) -> None:
        if (event["phase"], event["step"]) == stop:
            raise Killed

    with pytest.raises(Killed):
        train(tmp_path / "parts", 0, config=MICRO, on_event=kill)
    assert not (tmp_path / "parts" / "model").exists()
    parts = train(tmp_path / "parts", 0, config=MICRO)
    expected, got = _weights(whole), _weights(parts)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_seed_changes_the_model_and_events_tell_progress(tmp_path) -> None:
    events = []
    first = train(tmp_path / "0", 0, config=MICRO, on_event=events.append)
    second = train(tmp_path / "1", 1, config=MICRO)
    name = "model.text_model.embed_tokens.weight"
    assert not torch.equal(_weights(first)[name], _weights(second)[name])
    assert [event["phase"] for event in events] == [
        p for p in PHASES for _ in range(MICRO.steps(p))
    ]
    assert all(event["loss"] > 0 and event["steps"] >= event["step"] for event in events)


def test_another_runs_checkpoint_is_refused(tmp_path) -> None:
    train(tmp_path, 0, config=MICRO)
    with pytest.raises(ValueError, match="another run"):
        train(tmp_path, 1, config=MICRO)


def test_packed_turns_are_blind_to_each_other() -> None:
    model, batch = _micro_model(), mixture_batch(Random(3), 4, 3)
    with torch.no_grad():
        packed = model(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            pixel_values=batch.pixels,
        ).logits
    seen = []
    for b in range(4):
        ends = batch.ask_ends[b].tolist()
        head = batch.ids[b].tolist().index(IMAGE_BLOCK[0]) + len(IMAGE_BLOCK)
        start = head
        for k, end in enumerate(ends, start=1):
            ask = batch.ids[b, start : end + 1]
            sees = int(batch.positions[b, start]) == head
            prompt = batch.ids[b, : head if sees else head - len(IMAGE_BLOCK)]
            ids = torch.cat([prompt, ask])[None]
            pixels = batch.pixels[b : b + 1] if sees else None
            with torch.no_grad():
                alone = model(input_ids=ids, pixel_values=pixels).logits[0, -1]
            assert torch.allclose(alone, packed[b, end], atol=1e-5)
            seen.append(sees)
            start = int((batch.answer_of[b] == k).nonzero()[-1]) + 1
    assert set(seen) == {True, False}


def test_grounding_labels_follow_the_scene() -> None:
    batch = grounding_batch(Random(0), 8)
    assert batch.ids.shape == batch.labels.shape
    no = encode("no")[0]
    assert (batch.labels == no).any(1).all()
