"""Steering a token never makes the host wait: what waits in a step waits without steering too."""

import functools
from collections import Counter
from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
from transformers import DynamicCache, StaticCache

from conformance.cases import CASES, COMPOSED, PROMPTS, Case
from conformance.engine import weights
from conformance.waiting import Waits
from steersman.backends import caches
from steersman.backends.hf import HFModel


@functools.cache
def without_values() -> HFModel:
    model = HFModel(deepcopy(weights().model), weights().chat.processor)
    model.model.set_attn_implementation("eager")  # the other looks whether a mask is needed
    model.model.to("meta")
    return model


each_case = pytest.mark.parametrize("case", CASES, ids=str)
STRENGTHS = [1.0, -0.5, 0.0]


def cache(kind: str, model: HFModel):
    if kind == "dynamic":
        return DynamicCache(config=model.model.config)
    return StaticCache(config=model.model.config, max_cache_len=32)


@torch.no_grad()
def third_step(model: HFModel, kept, inside: Waits | None = None) -> torch.Tensor:
    """A batch of two padded prompts and one whole one, and three tokens behind each."""
    ids, mask = torch.zeros(2, 3, 9, dtype=torch.long)
    for row, prompt in enumerate(PROMPTS[:3]):
        ids[row, -len(prompt) :], mask[row, -len(prompt) :] = torch.tensor(prompt), 1
    device = model.model.device
    ids, mask = ids.to(device), mask.to(device)
    place = (mask.cumsum(1) - 1).clamp(min=0)
    model.model(input_ids=ids, attention_mask=mask, position_ids=place, past_key_values=kept)
    for step in range(3):
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        place = place[:, -1:] + 1
        with inside if inside is not None and step == 2 else nullcontext():
            out = model.model(
                input_ids=ids[:, step : step + 1], attention_mask=mask, position_ids=place,
                past_key_values=kept,
            )  # fmt: skip
    return out.logits


def steered(model: HFModel, case: Case):
    vectors = [case.vectors(row) for row in range(3)]
    return model.steer([case.policy] * 3, STRENGTHS, vectors=vectors)


@each_case
@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_step_waits_as_often_as_it_does_unsteered(case, kind, monkeypatch):
    monkeypatch.setattr(caches, "at_hand", lambda _value: False)  # as it is on a device
    model, plain, waits = weights(), Waits(), Waits()
    without = third_step(model, cache(kind, model), plain)
    with steered(model, case) as run:
        made = third_step(model, cache(kind, model), waits)
        assert any(t.tokens_written for row in run.traces() for t in row.values())
    assert Counter(waits.seen) == Counter(plain.seen)
    assert torch.equal(made[2], without[2])


@pytest.mark.parametrize("case", COMPOSED, ids=str)
def test_a_step_runs_on_a_device_that_has_no_values(case):
    """Whatever would ask for one raises there, in library code too."""
    model, reached = without_values(), False
    with pytest.raises(NotImplementedError, match="out of meta tensor"), steered(model, case):
        logits = third_step(model, cache("dynamic", model))
        assert logits.device.type == "meta" and logits.shape[:2] == (3, 1)
        reached = True  # and the trace, at the end, cannot be read
    assert reached
