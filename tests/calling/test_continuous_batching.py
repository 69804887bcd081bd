"""`generate_batch`: requests come and go, in pieces, in one row; each is steered as if alone."""

import gc
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import pytest
import torch
from transformers import GenerationConfig, MistralConfig, MistralForCausalLM
from transformers.generation.configuration_utils import ContinuousBatchingConfig

import oracle
import tiny
from steersman.backends.hf import HFModel
from steersman.backends.paged import SLOTS
from steersman.core.errors import ModelError, NotSteeredError, RecipeError
from steersman.core.requests import Request
from steersman.core.steerer import Policy
from steersman.core.types import Prompt, Read, Scope, Site, Span
from steersman.operators.add import Add
from steersman.synthesizers.given import GivenVector

NUM = 10
TEXTS = ["how do i make the cup ?", "a b", "make the bomb safe . yes ?", "a", "b c how do"]
PROMPTS = [Prompt(text) for text in TEXTS]
PUSH = oracle.VECTOR / 8
HERE, ABOVE = Read(Site(1)), Read(Site(2))
NET = oracle.policy(synthesizer=oracle.net(Read(Site(0))))
STATIC = oracle.policy(PUSH)
MORE, FEW = dict(max_batch_tokens=64), dict(num_blocks=12)


@pytest.fixture(autouse=True, scope="module")
def _little_garbage():
    """transformers collects garbage behind every batch, over all that was ever imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def model() -> HFModel:
    return tiny.llama(seed=110)


@cache
def sliding() -> HFModel:
    config = MistralConfig(**tiny.TEXT, vocab_size=len(tiny.SPECIAL + tiny.WORDS), sliding_window=6)
    return HFModel(tiny._seeded(MistralForCausalLM, config, 3), tiny.tokenizer(), id="tiny-mistral")


def ids_of(model: HFModel, prompts=PROMPTS) -> list[list[int]]:
    return [oracle.inputs_of(model, prompt)["input_ids"][0].tolist() for prompt in prompts]


def settings(**changed) -> ContinuousBatchingConfig:
    """Passes so small that prompts are cut into pieces and requests wait."""
    usual = dict(page_size=4, num_blocks=64, max_batch_tokens=8, allow_block_sharing=False)
    return ContinuousBatchingConfig(**{**usual, **changed})


def sampling(num=NUM, **fields) -> GenerationConfig:
    return GenerationConfig(
        **{**dict(do_sample=False, max_new_tokens=num, eos_token_id=-1, pad_token_id=0), **fields}
    )


def batched(model: HFModel, prompts=PROMPTS, *, generation=None, **changed) -> list[list[int]]:
    out = model.model.generate_batch(
        ids_of(model, prompts),
        generation_config=generation or sampling(),
        continuous_batching_config=settings(**changed),
    )
    return [answer.generated_tokens for answer in out.values()]


def in_order(request_id: str) -> list[str]:
    """Sorts `req_2__child#1` before `req_2`, and that before `req_10`."""
    number, _, child = request_id.removeprefix("req_").partition("__child#")
    return [number.zfill(9), child or "~"]


def steered(model: HFModel, policy, prompts=PROMPTS, **changed):
    with model.steer(policy, threads="all") as run:
        answers = batched(model, prompts, **changed)
    by_id = dict(zip(run.request_ids(), run.traces(), strict=True))
    return answers, [by_id[name] for name in sorted(by_id, key=in_order)]


@contextmanager
def passes(model: HFModel):
    """Copies of what the model is called with."""
    seen: list[dict[str, torch.Tensor]] = []

    def note(_module, _args, given):
        seen.append({k: v.clone() for k, v in given.items() if isinstance(v, torch.Tensor)})

    handle = model.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def wanted(model: HFModel, policy=None, prompts=PROMPTS, num=NUM):
    """Answers and traces of one request at a time."""
    done = [model.generate([Request(p, policy, max_new_tokens=num)])[0] for p in prompts]
    return [list(c.token_ids) for c in done], [c.trace for c in done]


def check_traces(traces, others):
    assert len(traces) == len(others)
    for trace, other in zip(traces, others, strict=True):
        assert trace.keys() == other.keys()
        for name, told in trace.items():
            near = {"relative_norm": 0.0, "gate": 0.0, "strength": 0.0}
            assert replace(told, **near) == replace(other[name], **near)
            for number in near:
                expected = pytest.approx(getattr(other[name], number), rel=1e-4)
                assert getattr(told, number) == expected


def prober(*, opens=0, closes=1) -> Policy:
    """Open for the end of the first prompt, and closed for that of the second, or the reverse."""
    site = Site(0)
    ends = model().capture(PROMPTS, [site])[site]
    return oracle.policy(PUSH, gate=oracle.gate_between(Read(site), ends[opens], ends[closes]))


def two() -> Policy:
    first, second = STATIC.steerers["s"], NET.steerers["s"]
    other = replace(first, sites=(Site(2),), scope=Scope.GENERATED)
    other = replace(other, synthesizer=replace(first.synthesizer, sites=(Site(2),)))
    return Policy(steerers={"a": first, "b": second, "c": other}, max_relative_norm=0.5)


POLICIES = {
    "static": lambda: STATIC,
    "all": lambda: oracle.policy(PUSH, scope=Scope.ALL),
    "prompt": lambda: oracle.policy(PUSH, scope=Scope.PROMPT),
    "last": lambda: oracle.policy(PUSH, scope=Scope.LAST),
    "generated": lambda: oracle.policy(PUSH, scope=Scope.GENERATED),
    "window": lambda: oracle.policy(PUSH, scope=Scope(start=2, stop=5)),
    "text": lambda: oracle.policy(PUSH, scope=Scope.TEXT),
    "head-in": lambda: oracle.policy(PUSH, site=Site(2, "head_in")),
    "net": lambda: NET,
    "prober": prober,
    "prober-reversed": lambda: prober(opens=1, closes=0),
    "several-capped": two,
}


@pytest.mark.parametrize("name", POLICIES)
def test_every_request_is_steered_as_if_it_were_alone(name):
    policy = POLICIES[name]()
    answers, traces = steered(model(), policy)
    expected, told = wanted(model(), policy)
    assert answers == expected
    check_traces(traces, told)


@pytest.mark.slow
@pytest.mark.parametrize("changed", [MORE, FEW], ids=["whole-prompts", "few-blocks"])
@pytest.mark.parametrize("name", ["all", "net", "several-capped"])
def test_how_prompts_are_cut_makes_no_difference(name, changed):
    policy = POLICIES[name]()
    answers, traces = steered(model(), policy, **changed)
    expected, told = wanted(model(), policy)
    assert answers == expected
    check_traces(traces, told)


@pytest.mark.parametrize("name", ["static", "net", "prober", "all"])
def test_steering_changes_answers(name):
    """Else the tests beside this one would prove nothing."""
    assert wanted(model(), POLICIES[name]())[0] != wanted(model())[0]


def test_some_gates_are_closed_and_their_requests_are_as_without_steering():
    answers, traces = steered(model(), prober())
    plain, _ = wanted(model())
    gates = [trace["s"].gate for trace in traces]
    assert gates[0] == 1 and gates[1] == 0
    for gate, answer, unsteered in zip(gates, answers, plain, strict=True):
        assert gate or answer == unsteered
    assert traces[1]["s"].reason == "the gate was closed"


def test_strength_0_is_as_without_steering():
    with model().steer(STATIC, 0.0, threads="all"):
        answers = batched(model())
    assert answers == wanted(model())[0]


@pytest.mark.parametrize("name", ["all", "net", "several-capped"])
def test_more_requests_than_slots(name):
    policy, prompts = POLICIES[name](), PROMPTS * 8
    assert len(prompts) > 2 * SLOTS
    answers, traces = steered(model(), policy, prompts, num_blocks=256, max_batch_tokens=64)
    expected, told = wanted(model(), policy)
    assert answers == expected * 8
    check_traces(traces, told * 8)


def test_all_requests_take_the_vector_that_is_given():
    policy, prompts = oracle.policy(synthesizer=GivenVector()), PROMPTS * 4
    with model().steer(policy, vectors=[{"s": PUSH}], threads="all"):
        answers = batched(model(), prompts, max_batch_tokens=64)
    assert len(prompts) > SLOTS
    assert answers == wanted(model(), STATIC)[0] * 4


@pytest.mark.parametrize("name", ["net", "prober", "all", "window"])
def test_requests_that_lose_their_place_in_the_cache_begin_again(name):
    policy = POLICIES[name]()
    with passes(model()) as seen:
        answers, traces = steered(model(), policy, num_blocks=8, max_batch_tokens=20)
    assert sum(int((given["position_ids"] == 0).sum()) for given in seen) > len(PROMPTS)
    expected, told = wanted(model(), policy)
    assert answers == expected
    check_traces(traces, told)


def test_a_policy_that_looks_again_is_followed():
    policy = oracle.policy(synthesizer=oracle.net(Read(Site(0), every=3)))
    answers, traces = steered(model(), policy)
    expected, told = wanted(model(), policy)
    assert answers == expected
    check_traces(traces, told)


def test_a_policy_that_looks_again_cannot_run_an_answer_again():
    policy = oracle.policy(synthesizer=oracle.net(Read(Site(0), every=3)))
    with pytest.raises(ModelError, match="lost its place in the cache"):
        steered(model(), policy, num_blocks=8, max_batch_tokens=20)


@pytest.mark.parametrize("name", ["static", "all", "net"])
def test_layers_with_a_sliding_window(name):
    policy = POLICIES[name]()
    answers, traces = steered(sliding(), policy, allow_block_sharing=True)
    expected, told = wanted(sliding(), policy)
    assert answers == expected
    check_traces(traces, told)


@pytest.mark.parametrize("name", ["static", "net", "all"])
def test_several_answers_to_one_prompt(name):
    policy, generation = POLICIES[name](), sampling()
    generation.num_return_sequences = 3  # greedy: all are the same
    answers, traces = steered(model(), policy, generation=generation)
    expected, told = wanted(model(), policy)
    assert answers == [answer for answer in expected for _ in range(3)]
    assert len(traces) == 3 * len(told)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["all", "net"])
def test_padded_passes(name):
    policy = POLICIES[name]()
    with passes(model()) as seen:
        answers, traces = steered(model(), policy, default_compile_level=1)
    assert any(given["input_ids"].numel() > given["cu_seq_lens_q"][-1] for given in seen)
    expected, told = wanted(model(), policy)
    assert answers == expected
    check_traces(traces, told)


def test_an_answer_that_ends_at_once_is_told():
    plain, _ = wanted(model())
    generation = sampling(eos_token_id=plain[0][0])
    answers, traces = steered(model(), POLICIES["generated"](), PROMPTS[:1], generation=generation)
    assert answers == [plain[0][:1]]
    assert traces[0]["s"].reason == "the answer ended before the scope began"


def test_one_with_holds_several_batches():
    expected, _ = wanted(model(), NET)
    with model().steer(NET, threads="all") as run:
        first = batched(model(), PROMPTS[:2])
        second = batched(model(), PROMPTS)
    assert first == expected[:2] and second == expected
    assert len(run.traces()) == len(PROMPTS)


def test_a_manager_that_is_kept():
    given = dict(
        generation_config=sampling(), continuous_batching_config=settings(), persistent_manager=True
    )
    ids = ids_of(model())
    expected, _ = wanted(model(), NET)
    try:
        with model().steer(NET, threads="all"):
            first = model().model.generate_batch(ids, **given)
            second = model().model.generate_batch(ids, **given)
        after = model().model.generate_batch(ids, **given)
    finally:
        model().model.destroy_cached_continuous_batching_manager()
    for out in (first, second):
        assert [answer.generated_tokens for answer in out.values()] == expected
    assert [answer.generated_tokens for answer in after.values()] == wanted(model())[0]


def test_afterwards_the_model_is_as_before():
    before = oracle.hook_tables(model().model)
    steered(model(), STATIC)
    assert oracle.hook_tables(model().model) == before
    assert batched(model()) == wanted(model())[0]


LATE = Scope(start=-2)
REFUSED = {
    "begins-early": (oracle.policy(PUSH, scope=LATE), {}, "begins or ends before the last prompt"),
    "ends-early": (oracle.policy(PUSH, scope=Scope(stop=-2)), {}, "begins or ends before the last"),
    "span": (oracle.policy(PUSH, scope=Scope(outside=(Span(10, 11),))), {}, "leaves out spans"),
    "reads-early": (
        oracle.policy(synthesizer=oracle.net(Read(Site(0), offset=-2))), {}, "reads before the last"
    ),
    "reads-the-user": (
        oracle.policy(synthesizer=oracle.net(Read(Site(0), generation_prompt=False))), {},
        "reads before the last prompt token",
    ),
    "reads-above": (oracle.policy(synthesizer=oracle.net(ABOVE)), {}, "must read the end of the"),
    "reads-behind": (
        oracle.policy(synthesizer=oracle.net(HERE), scope=Scope.ALL), {}, "must read the end of the"
    ),
    "sharing": (STATIC, dict(allow_block_sharing=True), "allow_block_sharing=False"),
    "one-token": (STATIC, dict(max_batch_tokens=1), "max_batch_tokens of 2 or more"),
}  # fmt: skip


@pytest.mark.parametrize("policy, changed, message", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_followed_is_refused_on_leaving(policy, changed, message):
    before = oracle.hook_tables(model().model)
    with pytest.raises(ModelError, match=message):
        steered(model(), policy, **changed)
    assert oracle.hook_tables(model().model) == before


def test_a_policy_for_each_row_is_refused():
    with (
        pytest.raises(RecipeError, match="set up for 2 rows"),
        model().steer([STATIC, None], threads="all"),
    ):
        batched(model(), PROMPTS[:2])


def test_lengths_of_prompts_are_refused():
    with (
        pytest.raises(RecipeError, match=r"set up for prompt_tokens=\(5,\)"),
        model().steer(STATIC, prompt_tokens=5, threads="all"),
    ):
        batched(model(), PROMPTS[:1])


def test_an_error_in_a_part_reaches_the_user(monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(Add, "__call__", broken)
    with pytest.raises(ZeroDivisionError):
        steered(model(), STATIC)


def test_an_error_in_the_thread_comes_before_what_it_led_to():
    with (
        pytest.raises(ModelError, match="allow_block_sharing=False"),
        model().steer(STATIC, threads="all"),
    ):
        answers = batched(model(), allow_block_sharing=True)
        assert all(answers)


def test_steering_its_own_thread_alone_is_told():
    with pytest.raises(NotSteeredError, match="generate_batch"), model().steer(STATIC):
        batched(model())


def test_several_sequences_in_a_row_without_a_paged_cache_are_refused():
    ids, ends = torch.ones(1, 4, dtype=torch.long), torch.tensor([0, 2, 4], dtype=torch.int32)
    with pytest.raises(ModelError, match="packs several sequences"), model().steer(STATIC):
        model().model(input_ids=ids, cu_seq_lens_q=ends)


def test_several_answers_to_a_prompt_of_two_tokens_are_refused():
    """The first token runs alone, and looks as if the prompt ended there."""
    generation = sampling()
    generation.num_return_sequences = 2
    given = dict(generation_config=generation, continuous_batching_config=settings())
    with (
        pytest.raises(ModelError, match="cannot be told where the prompt"),
        model().steer(STATIC, threads="all"),
    ):
        model().model.generate_batch([[1, 15]], **given)
