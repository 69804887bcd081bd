"""Passes of continuous batching as transformers hands them in, written by hand."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from transformers.generation.configuration_utils import ContinuousBatchingConfig

import oracle
import tiny
from steersman.backends.layout import FAR
from steersman.backends.paged import SLOTS, Paged
from steersman.backends.walk import Plan, Walk
from steersman.core.errors import ModelError

STATIC = oracle.policy()
MODEL = tiny.llama()


@dataclass(eq=False)
class Blocks:
    """A cache as far as steering looks: pages of four tokens, three of them to a block."""

    block_table: dict[str, list[int]]
    tokens_per_page: int = 4
    block_physical_stride: int = 24
    use_prefix_sharing: bool = False
    max_batch_tokens: int = 64
    cache_allocators: dict[str, "Blocks"] = field(default_factory=dict)

    def __post_init__(self):
        self.cache_allocators["full_attention"] = self


def paged(policy=STATIC) -> tuple[Paged, object]:
    plan = Plan(policy, 1.0, {})

    def begin(_device, slots):
        like = torch.empty(0, tiny.WIDTH)
        return Walk([plan], [policy], [policy], repeats=slots, like=like)

    return Paged(MODEL._edge, [plan], None), begin


def a_pass(cache, positions, ends, *, asked, written=None, table=None, ids=None):
    row = torch.tensor([positions], dtype=torch.int32)
    return {
        "input_ids": row if ids is None else torch.tensor([ids], dtype=torch.int32),
        "position_ids": row,
        "cu_seq_lens_q": torch.tensor(ends, dtype=torch.int32),
        "logits_indices": torch.tensor(asked, dtype=torch.int32),
        "write_index": [torch.tensor(written)] if written else [torch.full((9,), -7)],
        "block_table": table,
        "cache": cache,
    }


def test_the_tables_of_fast_decoding_tell_whose_a_token_is():
    work, begin = paged()
    cache = Blocks({"x": [5, 2], "y": [3]})
    first = a_pass(cache, [0, 1, 0, 1], [0, 2, 4], asked=[1, 3], written=[120, 121, 72, 73])
    work.follow(first, begin)
    table = torch.tensor([[[18, -1], [30, 12], [-1, -1], [-1, -1]]], dtype=torch.int32)
    then = a_pass(cache, [2, 2, 0, 0], [0, 1, 2, 2, 2], asked=[0, 1, 0, 0], table=table)
    _, layout = work.follow(then, begin)
    assert layout.request.tolist() == [2, 1, SLOTS, SLOTS]
    assert layout.offsets[:2] == [0, 0] and layout.offsets[2:] == [-FAR, -FAR]


def test_what_transformers_makes_up_to_warm_up_belongs_to_nobody():
    work, begin = paged()
    cache = Blocks({"__warmup_PREFILLING_0__": [5], "x": [3]})
    written = [*range(120, 124), 72, 73]
    made_up = a_pass(cache, [8, 9, 10, 11, 0, 1], [0, 4, 6], asked=[3, 5], written=written)
    courses, layout = work.follow(made_up, begin)
    assert layout.request.tolist() == [SLOTS] * 4 + [1, 1]
    assert layout.offsets == [-FAR] * 4 + [-2, -1]
    assert len(courses._known) == 1


def test_zeros_behind_the_real_indices_end_no_prompt():
    work, begin = paged()
    cache = Blocks({"x": [5], "y": [3]})
    written = [120, 72, 73]
    given = a_pass(cache, [0, 0, 1], [0, 1, 3], asked=[2, 0], written=written)
    _, layout = work.follow(given, begin)
    assert layout.offsets[0] < -FAR / 2 and layout.offsets[1:] == [-2, -1]


def test_requests_that_began_before_steering_are_refused():
    work, begin = paged()
    given = a_pass(Blocks({"x": [5]}), [3], [0, 1], asked=[0], written=[123])
    with pytest.raises(ModelError, match="3 tokens of the request 'x' ran before steering began"):
        work.follow(given, begin)


@pytest.mark.parametrize("ids", [[1, 9, 8], [1, 2, 3, 4, 5, 6]], ids=["other", "longer"])
def test_an_id_that_is_used_twice_is_refused(ids):
    work, begin = paged()
    cache = Blocks({"x": [5, 2]})
    given = a_pass(cache, [0, 1, 2], [0, 3], asked=[2], written=[120, 121, 122], ids=[1, 2, 3])
    work.follow(given, begin)
    num = len(ids)
    again = a_pass(
        cache, list(range(num)), [0, num], asked=[num - 1], written=[120] * num, ids=ids
    )  # fmt: skip
    with pytest.raises(ModelError, match="Two requests have the id 'x'"):
        work.follow(again, begin)


def test_an_answer_that_runs_again_keeps_the_length_of_its_prompt():
    work, begin = paged()
    cache = Blocks({"x": [5, 2]})
    work.follow(
        a_pass(cache, [0, 1, 2], [0, 3], asked=[2], written=[120, 121, 122], ids=[1, 2, 3]), begin
    )
    work.follow(a_pass(cache, [3], [0, 1], asked=[0], written=[123], ids=[4]), begin)
    again = [1, 2, 3, 4, 7]
    given = a_pass(
        cache, list(range(5)), [0, 5], asked=[4], written=[120, 121, 122, 123, 48], ids=again
    )
    _, layout = work.follow(given, begin)
    assert layout.offsets == [-3, -2, -1, 0, 1]


@pytest.mark.parametrize("graphs, refused", [((True, False), True), ((False, False), False)])
def test_graphs_that_were_recorded_before_are_refused(monkeypatch, graphs, refused):
    kept = SimpleNamespace(
        continuous_batching_config=ContinuousBatchingConfig(use_cuda_graph=graphs)
    )
    name = "_cached_continuous_batching_manager"
    monkeypatch.setattr(MODEL.model, name, kept, raising=False)
    told = pytest.raises(ModelError, match="replays CUDA graphs") if refused else nullcontext()
    with told, MODEL.steer(STATIC, threads="all"), torch.no_grad():
        MODEL.model(torch.tensor([[9, 10, 11]]))
    with MODEL.steer(STATIC):  # calls of this thread replay nothing
        pass
