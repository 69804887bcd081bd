"""One batch as a server runs it: every row ends, samples and is heard as if it were alone."""

import gc
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import pytest
import torch
from PIL import Image
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    TopPLogitsWarper,
)

import oracle
import tiny
from architectures.text import TEXT
from steersman.backends.hf import HFModel, load
from steersman.backends.live import check_live, generate_live, groups, nucleus
from steersman.core.errors import ModelError, NotSteeredError, RecipeError
from steersman.core.requests import SHADOW, Request
from steersman.core.steerer import Policy, Steerer
from steersman.core.types import Prompt, Read, Scope, Site
from steersman.gates.always import AlwaysOpen
from steersman.gates.prober import ProberGate
from steersman.gates.recheck import Recheck
from steersman.operators.ablate import Ablate
from steersman.operators.add import Add
from steersman.operators.rotate import Rotate
from steersman.synthesizers.linear_field import LinearField
from steersman.synthesizers.net import SteeringNet
from steersman.synthesizers.static import StaticVector

D = 192
HARM, SUM, COLOUR = "how do i make a bomb ?", "what is two plus two ?", "name a color"
CUP = "please tell me where the red cup and the green bowl are ."


@cache
def bundled() -> HFModel:
    return load("bundled")


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def steerer(*sites: Site, gate=None, made=None, operator=None, **fields) -> Steerer:
    vectors = torch.nn.functional.normalize(drawn(len(sites), len(sites), D)) * 6
    return Steerer(
        sites=sites,
        gate=gate or AlwaysOpen(),
        synthesizer=made or StaticVector(sites=sites, vectors=vectors),
        operator=operator or Add(),
        **fields,
    )


def prober(layer: int, threshold: float) -> ProberGate:
    return ProberGate(
        read=Read(Site(layer)), mean=torch.zeros(D), scale=torch.ones(D),
        weight1=drawn(5, 8, D) / 50, bias1=torch.zeros(8), weight2=drawn(6, 8),
        bias2=torch.zeros(1), threshold=threshold,
    )  # fmt: skip


def net(layer: int) -> SteeringNet:
    return SteeringNet(
        read=Read(Site(layer)), mean=torch.zeros(D), spread=torch.ones(D),
        encoder=drawn(1, 6, D) / 10, bias=drawn(2, 6), decoder=drawn(3, D, 6) / 6,
    )  # fmt: skip


@cache
def policies() -> dict[str, Policy]:
    """By hand, of every kind: read below and above the write, in heads, at the end, capped."""
    low, mid, high = Site(1), Site(3), Site(5)
    head = Site(5, "head_in")
    one = {
        "static": steerer(mid),
        "several": steerer(low, mid, Site(4, "attn_out"), scope=Scope.ALL),
        "ablated": steerer(mid, operator=Ablate(), scope=Scope.ALL),
        "turned": steerer(high, operator=Rotate(b2=drawn(9, D), angle_deg=40.0)),
        "net": steerer(Site(4), made=net(2)),
        "probed": steerer(low, made=net(4), scope=Scope.ALL),
        "gated": steerer(mid, gate=prober(2, 0.5)),
        "again": steerer(high, gate=Recheck(inner=prober(2, 0.5), every=2)),
        "head": steerer(head, made=LinearField(matrix=drawn(4, D, D) / 40)),
        "later": steerer(mid, scope=Scope.GENERATED),
    }
    made = {name: Policy(steerers={"s": own}) for name, own in one.items()}
    made["capped"] = Policy(steerers={"s": one["static"]}, max_relative_norm=0.2)
    made["both"] = Policy(steerers={"a": one["net"], "b": one["several"]}, max_relative_norm=0.5)
    return made


def mixed(num: int = 16) -> list[Request]:
    """Requests of which no two are alike."""
    names = [*policies(), "", "static"]
    texts, lengths = (HARM, SUM, COLOUR, CUP), (5, 12, 3, 1, 9)
    return [
        Request(
            Prompt(texts[i % 4]),
            policies().get(names[i % len(names)]),
            (1.0, -0.5, 1.7)[i % 3],
            max_new_tokens=lengths[i % 5],
            temperature=(0.0, 1.0, 0.0, 0.7)[i % 4],
            top_p=(1.0, 0.9, 0.8)[i % 3],
            seed=i,
            shadow=i % 6 == 5,
        )
        for i in range(num)
    ]


def live(model, requests, cancelled=lambda i: False):
    """The completions, and what the sink was told: row and token, in order."""
    heard: list[tuple[int, int]] = []
    made = generate_live(
        model, requests, sink=lambda i, token: heard.append((i, token)), cancelled=cancelled
    )
    return made, heard


def alone(model, request):
    return live(model, [request])[0][0]


def assert_same(first, second):
    """Counts are equal and means nearly: a mean is of float32 states in another batch."""
    assert first.token_ids == second.token_ids and first.text == second.text
    assert (first.finish, first.num_prompt_tokens) == (second.finish, second.num_prompt_tokens)
    assert first.trace.keys() == second.trace.keys()
    for name, a in first.trace.items():
        b = second.trace[name]
        assert a.written_at == b.written_at and a.reason == b.reason
        assert (a.tokens_in_scope, a.tokens_written) == (b.tokens_in_scope, b.tokens_written)
        numbers = [[t.gate, t.strength, t.relative_norm] for t in (a, b)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-3, abs=1e-6)


@contextmanager
def set_to(model: HFModel, **changed):
    """The model's own settings, for a while."""
    config = model.model.generation_config
    before = {name: getattr(config, name) for name in changed}
    for name, value in changed.items():
        setattr(config, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)


def test_sixteen_different_requests_are_each_as_if_they_were_alone():
    model, requests = bundled(), mixed()
    made, heard = live(model, requests)
    assert len({c.finish for c in made}) == 2 and len({len(c.token_ids) for c in made}) > 3
    assert {bool(c.trace) for c in made} == {True, False}
    for i, (request, completion) in enumerate(zip(requests, made, strict=True)):
        assert_same(completion, alone(model, request))
        assert tuple(token for row, token in heard if row == i) == completion.token_ids
        assert len(completion.token_ids) <= request.max_new_tokens
    order = torch.randperm(len(requests), generator=torch.Generator().manual_seed(1)).tolist()
    permuted, _ = live(model, [requests[i] for i in order])
    for place, i in enumerate(order):
        assert_same(permuted[place], made[i])


def test_greedy_answers_are_those_of_generate():
    model = bundled()
    requests = [replace(request, temperature=0.0) for request in mixed()]
    for one, other in zip(live(model, requests)[0], model.generate(requests), strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "bundled"])
def test_images_of_all_sizes_run_in_one_batch(name):
    if name == "bundled":
        model, policy = bundled(), policies()["static"]
        pixels = (drawn(1, 64, 64, 3).clamp(0, 1) * 255).byte().numpy()
        pictures = [Image.fromarray(pixels), Image.new("RGB", (90, 40), "red")]
        prompts = [Prompt(t, images=(p,)) for t, p in zip((SUM, CUP), pictures, strict=True)]
    else:
        model, policy = oracle.MODELS[name](), oracle.policy(scope=Scope.ALL)
        prompts = oracle.prompts_for(name)[3:]
    requests = [
        Request(prompt, kind, max_new_tokens=num, temperature=warm, seed=3)
        for prompt in prompts
        for kind, num, warm in ((policy, 3, 0.0), (None, 5, 1.0), (policy, 1, 0.0))
    ]
    made, _ = live(model, requests)
    for request, completion in zip(requests, made, strict=True):
        assert_same(completion, alone(model, request))


def test_plain_prompts_and_forced_beginnings_are_completed():
    model, policy = bundled(), policies()["net"]
    forced = [Prompt(HARM, completion=text) for text in ("no", "the cup is red and")]
    plain = [Prompt(text, plain=True) for text in ("the cup is", "there are two")]
    for prompts in (forced, plain):
        requests = [Request(p, policy, max_new_tokens=n) for p in prompts for n in (2, 6)]
        for one, other in zip(live(model, requests)[0], model.generate(requests), strict=True):
            assert_same(one, other)


def test_the_sink_hears_every_row_step_by_step():
    requests = [Request(Prompt(COLOUR), max_new_tokens=n) for n in (3, 1, 4)]
    model = oracle.MODELS["llama"]()
    requests = [replace(r, prompt=oracle.PROMPTS[i]) for i, r in enumerate(requests)]
    made, heard = live(model, requests)
    assert [row for row, _ in heard] == [0, 1, 2, 0, 2, 0, 2, 2]
    assert [c.finish for c in made] == ["length"] * 3
    assert live(model, []) == ([], [])


def test_tokens_are_heard_while_others_are_still_to_be_made():
    model, passes, heard = oracle.MODELS["llama"](), [], []
    handle = model.model.register_forward_hook(lambda *_: passes.append(len(heard)))
    try:
        generate_live(
            model,
            [Request(oracle.PROMPTS[0], max_new_tokens=4)],
            sink=lambda i, token: heard.append(token),
            cancelled=lambda i: False,
        )
    finally:
        handle.remove()
    assert passes == [0, 1, 2, 3]


@pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no-cache"])
def test_a_row_that_is_cancelled_ends_there_and_the_others_go_on(use_cache):
    """Its trace is that of an answer of just that length."""
    model, policy = oracle.MODELS["llama"](), oracle.policy(scope=Scope.ALL)
    requests = [
        Request(p, kind, max_new_tokens=8)
        for p in oracle.PROMPTS
        for kind in (policy, replace(policy, max_relative_norm=0.9), oracle.policy())
    ]
    whole, _ = live(model, requests)
    said = Counter()

    def sink(row, _token):
        said[row] += 1

    with set_to(model, use_cache=use_cache):
        made = generate_live(
            model, requests, sink=sink, cancelled=lambda row: row % 3 == 1 and said[row] == 1 + row
        )
    for i, request in enumerate(requests):
        num = 1 + i if i % 3 == 1 and 1 + i < 8 else 8
        assert made[i].finish == ("cancelled" if num < 8 else "length")
        assert made[i].token_ids == whole[i].token_ids[:num]
        cut = alone(model, replace(request, max_new_tokens=num))
        assert_same(replace(made[i], finish="length"), cut)
        assert made[i].trace["s"].tokens_written == cut.trace["s"].tokens_in_scope


def test_nothing_runs_on_when_nobody_waits_any_more():
    model, passes = oracle.MODELS["llama"](), []
    handle = model.model.register_forward_hook(lambda *_: passes.append(1))
    requests = [Request(p, oracle.policy(), max_new_tokens=50) for p in oracle.PROMPTS]
    try:
        made, heard = live(model, requests, cancelled=lambda row: True)
    finally:
        handle.remove()
    assert len(passes) == 1 and len(heard) == 3
    assert [(c.finish, len(c.token_ids)) for c in made] == [("cancelled", 1)] * 3


def test_answers_stop_at_the_models_own_end():
    model = bundled()
    made, _ = live(model, [Request(Prompt(t), max_new_tokens=40) for t in (HARM, SUM, COLOUR)])
    ends = model.batches.ends
    for completion in made:
        assert completion.finish == "stop" and completion.token_ids[-1] in ends
        assert not set(completion.token_ids[:-1]) & set(ends)
    short = alone(model, Request(Prompt(HARM), max_new_tokens=len(made[0].token_ids)))
    assert short.finish == "stop", "an end at the greatest length is an end"
    for token in (made[0].token_ids[1], [made[0].token_ids[1], 2]):
        with set_to(model, eos_token_id=token):
            assert alone(model, Request(Prompt(HARM))).token_ids == made[0].token_ids[:2]


def test_the_same_seed_draws_the_same_answer_among_any_neighbours():
    model = bundled()
    warm = [Request(Prompt(HARM), temperature=1.5, seed=s, max_new_tokens=8) for s in range(12)]
    made, _ = live(model, [*warm, *mixed(5)])
    assert len({c.token_ids for c in made[:12]}) > 6
    again, _ = live(model, [*mixed(9), *reversed(warm)])
    assert [c.token_ids for c in again[:8:-1]] == [c.token_ids for c in made[:12]]
    state = torch.get_rng_state()
    both, _ = live(model, [warm[3], warm[3]])
    assert both[0].token_ids == both[1].token_ids == made[3].token_ids
    assert torch.equal(torch.get_rng_state(), state)


def frequencies(model, request, num=600) -> torch.Tensor:
    """How often each token is the first one."""
    drawn_ = live(model, [replace(request, seed=s, max_new_tokens=1) for s in range(num)])[0]
    counts = Counter(c.token_ids[0] for c in drawn_)
    shares = torch.zeros(len(tiny.SPECIAL + tiny.WORDS))
    for token, count in counts.items():
        shares[token] = count / num
    return shares


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.6)])
def test_draws_follow_the_models_distribution(monkeypatch, temperature, top_p):
    model, prompt = oracle.MODELS["llama"](), oracle.PROMPTS[0]
    monkeypatch.setattr(model, "batch_size", 600)
    logits = oracle.plain_logits(model, oracle.inputs_of(model, prompt))[:, -1] * 8
    with oracle.hand_hook(model.model.lm_head, lambda h: h * 8):
        shares = frequencies(model, Request(prompt, temperature=temperature, top_p=top_p))
    logits[:, 4:9] = -torch.inf  # that model's suppress_tokens
    scores = logits / temperature
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    wanted = scores.softmax(-1)[0]
    assert int((wanted > 0.02).sum()) > 2
    assert float(shares[wanted == 0].sum()) == 0
    assert (shares - wanted).abs().max() < 4 * (0.25 / 600) ** 0.5


def test_the_nucleus_is_that_of_transformers():
    scores = drawn(0, 6, 50) * 3
    scores[:, 7] = -torch.inf
    top_p = torch.tensor([1e-6, 0.1, 0.5, 0.9, 0.999, 1.0])
    made = nucleus(scores, top_p[:, None])
    for row, share in enumerate(top_p[:-1].tolist()):
        wanted = TopPLogitsWarper(share)(None, scores[row : row + 1])[0]
        assert torch.equal(made[row], wanted)
    assert torch.equal(made[5], scores[5])
    assert int(made[0].isfinite().sum()) == 1


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e30, 1e300])
def test_temperatures_beyond_all_measure_still_draw(temperature):
    model, prompt = oracle.MODELS["llama"](), oracle.PROMPTS[0]
    warm = Request(prompt, temperature=temperature, top_p=0.9, max_new_tokens=4)
    made, _ = live(model, [replace(warm, seed=s) for s in range(8)])
    assert len({c.token_ids for c in made}) == (1 if temperature < 1 else 8)
    assert all(0 <= t < len(tiny.SPECIAL + tiny.WORDS) for c in made for t in c.token_ids)
    if temperature < 1:
        assert made[0].token_ids == alone(model, replace(warm, temperature=0.0)).token_ids


def test_what_the_model_itself_leaves_out_of_a_draw_is_left_out():
    """Greedy is what is left when everything but the likeliest token is cut."""
    model, prompt = oracle.MODELS["llama"](), oracle.PROMPTS[0]
    greedy = alone(model, Request(prompt, max_new_tokens=6)).token_ids
    warm = Request(prompt, temperature=1.5, seed=4, max_new_tokens=6)
    assert alone(model, warm).token_ids != greedy
    with set_to(model, min_p=1.0):
        assert alone(model, warm).token_ids == greedy
    with set_to(model, top_k=1):  # as in `generate`: a request asks for all tokens
        assert alone(model, warm).token_ids != greedy
    with set_to(model, suppress_tokens=[*range(4, 9), *greedy]):
        assert not set(alone(model, warm).token_ids) & set(greedy)


@pytest.mark.parametrize(
    ("changed", "what"),
    [({"num_beams": 2}, "beam_search"), ({"prompt_lookup_num_tokens": 3}, "assisted_generation")],
)
def test_settings_that_do_not_go_token_by_token_are_refused(changed, what):
    model = oracle.MODELS["llama"]()
    with set_to(model, **changed):
        with pytest.raises(ModelError, match=what):
            live(model, [Request(oracle.PROMPTS[0], max_new_tokens=2)])
        with pytest.raises(ModelError, match=what):
            check_live(model)
    check_live(model)
    with set_to(model, do_sample=True):
        made = alone(model, Request(oracle.PROMPTS[0], max_new_tokens=3))
    assert made.token_ids == alone(model, Request(oracle.PROMPTS[0], max_new_tokens=3)).token_ids


def test_requests_are_grouped_by_what_one_batch_can_hold(monkeypatch):
    model, picture = bundled(), (Image.new("RGB", (64, 64)),)
    kinds = [
        Prompt("a"),
        Prompt("b", images=picture),
        Prompt("c", plain=True),
        Prompt("d"),
        Prompt("e", images=picture),
    ]
    requests = [
        Request(p, seed=i, temperature=float(i), max_new_tokens=1 + i) for i, p in enumerate(kinds)
    ]
    assert groups(model, requests) == [[0, 3], [1, 4], [2]]
    assert groups(model, requests[::-1]) == [[0, 3], [1, 4], [2]]
    assert groups(model, []) == []
    with pytest.raises(RecipeError, match="cannot run in one batch"):
        live(model, requests)
    monkeypatch.setattr(model, "batch_size", 2)
    assert groups(model, [requests[0]] * 5) == [[0, 1], [2, 3], [4]]


def in_groups(model, requests) -> list:
    """The answers, each group run as one batch."""
    made = [None] * len(requests)
    for part in groups(model, requests):
        for i, one in zip(part, live(model, [requests[i] for i in part])[0], strict=True):
            made[i] = one
    return made


@pytest.mark.parametrize(
    "changed",
    [
        {"repetition_penalty": 3.0},
        {"encoder_repetition_penalty": 3.0},
        {"no_repeat_ngram_size": 1},
        {"encoder_no_repeat_ngram_size": 1},
        {"min_length": 12},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_where_settings_look_at_tokens_prompts_of_other_lengths_run_apart(changed):
    model = oracle.MODELS["llama"]()
    prompts = [*oracle.PROMPTS, oracle.PROMPTS[0]]
    requests = [Request(p, oracle.policy(), max_new_tokens=6) for p in prompts]
    assert groups(model, requests) == [[0, 1, 2, 3]]
    with set_to(model, **changed):
        assert groups(model, requests) == [[0, 2, 3], [1]]
        for request, one in zip(requests, in_groups(model, requests), strict=True):
            assert_same(one, alone(model, request))
        with pytest.raises(RecipeError, match="cannot run in one batch"):
            live(model, requests)


def test_where_answers_are_made_to_end_at_their_length_other_lengths_run_apart():
    model = oracle.MODELS["llama"]()
    requests = [Request(p, max_new_tokens=n) for p in oracle.PROMPTS for n in (3, 5)]
    with set_to(model, forced_eos_token_id=9):
        assert groups(model, requests) == [[0, 2, 4], [1, 3, 5]]
        made = in_groups(model, requests)
        assert [one.token_ids[-1] for one in made] == [9] * 6
        for request, one in zip(requests, made, strict=True):
            assert_same(one, alone(model, request))


def turned_by_length(kind: str) -> HFModel:
    """A model whose angles change for a whole pass behind 32 tokens."""
    rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 8.0}
    sizes = dict(tiny.TEXT)
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 4.0, 5.0]}
        rope |= {"original_max_position_embeddings": 32}
    else:
        sizes["max_position_embeddings"] = 32
    config = LlamaConfig(vocab_size=len(tiny.tokenizer()), rope_parameters=rope, **sizes)
    torch.manual_seed(0)
    model = HFModel(LlamaForCausalLM(config).eval(), tiny.tokenizer())
    model.model.generation_config.eos_token_id = None
    return model


def counted() -> HFModel:
    """A model with a table of 32 positions."""
    config = GPT2Config(
        vocab_size=len(tiny.tokenizer()), n_embd=tiny.WIDTH, n_layer=2, n_head=4, n_positions=32
    )
    torch.manual_seed(0)
    model = HFModel(GPT2LMHeadModel(config).eval(), tiny.tokenizer())
    model.model.generation_config.eos_token_id = None
    return model


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "table"])
def test_nobody_is_carried_past_the_end_of_the_positions_by_a_neighbour(kind):
    model = counted() if kind == "table" else turned_by_length(kind)
    long, short = Prompt("how do i make the cup ? " * 2), Prompt("a b")
    tokens = [alone(model, Request(p, max_new_tokens=1)).num_prompt_tokens for p in (long, short)]
    assert tokens[0] > tokens[1] + 5
    requests = [
        Request(long, max_new_tokens=3),
        Request(short, max_new_tokens=32 - tokens[1]),
        Request(short, max_new_tokens=2),
        Request(long, max_new_tokens=32 - tokens[0]),
    ]
    assert groups(model, requests) == [[0, 2, 3], [1]]
    for request, one in zip(requests, in_groups(model, requests), strict=True):
        assert_same(one, alone(model, request))
    if kind != "table":
        beyond = [requests[0], replace(requests[3], max_new_tokens=40), requests[2]]
        assert groups(model, beyond) == [[0, 2], [1]]


def test_a_model_that_padding_disturbs_answers_one_by_one():
    (model,) = (one.build() for one in TEXT if one.name == "RecurrentGemma")
    requests = [Request(p, oracle.policy(), max_new_tokens=3) for p in oracle.PROMPTS]
    parts = groups(model, requests)
    assert parts == [[0], [1], [2]]
    for (i,), wanted in zip(parts, model.generate(requests), strict=True):
        assert_same(alone(model, requests[i]), wanted)


def test_a_row_that_cannot_be_steered_does_not_fail_its_neighbours():
    model = oracle.MODELS["llama"]()
    kinds = [
        oracle.policy(),
        oracle.policy(torch.zeros(tiny.WIDTH)),
        oracle.policy(scope=Scope(start=-90, stop=-80)),
        None,
    ]
    requests = [Request(oracle.PROMPTS[0], kind, max_new_tokens=3) for kind in kinds]
    made, heard = live(model, requests)
    assert [type(m) is NotSteeredError for m in made] == [False, True, True, False]
    assert "its vector is zero" in str(made[1]) and "wrote no token" in str(made[2])
    for i in (0, 3):
        assert_same(made[i], alone(model, requests[i]))
    assert [row for row, _ in heard] == [0, 1, 2, 3] * 3
    shadowed, _ = live(model, [replace(r, shadow=True) for r in requests])
    assert [m.trace["s"].reason[: len(SHADOW)] for m in shadowed[:3]] == [SHADOW] * 3


@pytest.mark.parametrize("start", [0, 1, 3])
def test_an_answer_that_ended_before_the_scope_began_says_so(start):
    model, policy = oracle.MODELS["llama"](), oracle.policy(scope=Scope(start=start))
    requests = [
        Request(oracle.PROMPTS[0], policy, max_new_tokens=n) for n in (start + 1, start + 2)
    ]
    short, enough = live(model, requests)[0]
    assert short.trace["s"].reason == "the answer ended before the scope began"
    assert enough.trace["s"].tokens_written == 1 and enough.trace["s"].reason == ""
    assert model.generate(requests[1:])[0].trace["s"].tokens_written == 1
    if start:  # its caller asked for too few tokens; a client of a server may
        with pytest.raises(NotSteeredError, match="generate more tokens"):
            model.generate(requests[:1])


def test_a_sink_that_fails_leaves_the_model_as_it_was():
    model = oracle.MODELS["llama"]()
    before = oracle.hook_tables(model)

    def sink(row, token):
        raise ZeroDivisionError

    request = Request(oracle.PROMPTS[0], oracle.policy(), max_new_tokens=3)
    with pytest.raises(ZeroDivisionError):
        generate_live(model, [request], sink=sink, cancelled=lambda i: False)
    assert oracle.hook_tables(model) == before
    assert alone(model, request).finish == "length"


def test_a_policy_that_does_not_fit_is_refused_before_anything_is_heard():
    model, heard = oracle.MODELS["llama"](), []
    request = Request(oracle.PROMPTS[0], oracle.policy(site=Site(40)))
    with pytest.raises(RecipeError, match="40"):
        generate_live(model, [request], sink=lambda *t: heard.append(t), cancelled=bool)
    assert heard == []


def objects() -> int:
    gc.collect()
    return len(gc.get_objects())


def test_nothing_is_left_of_a_batch():
    model = oracle.MODELS["llama"]()

    def some():
        for i in range(10):
            fresh = replace(oracle.policy(scope=Scope.ALL), max_relative_norm=1.0 + i)
            requests = [
                Request(p, fresh, temperature=float(i % 2), max_new_tokens=2)
                for p in oracle.PROMPTS
            ]
            live(model, requests, cancelled=lambda row: row == 1)

    some()
    before = objects()
    some()
    assert objects() - before < 10, "less than one object a batch"
