"""What steering libraries got wrong about what is read, written and stored; numbered likewise.

6 images, 7 kinds of outputs, 8 half precision, 9 signs, 10 two passes, 11 where a condition is
read, 12 another model, 16 layer numbers of imported files.
"""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import examples
import oracle
import tiny
from conformance.cases import PROMPTS, VECTOR
from conformance.cases import policy as small_policy
from conformance.cases import steerer as small_steerer
from conformance.engine import HF, Ask
from packing import D
from steersman.backends.hf import HFModel
from steersman.core.errors import ModelMismatchError
from steersman.core.io import Artifact, load_artifact, save_artifact
from steersman.core.requests import Request
from steersman.core.types import Prompt, Read, Scope, Site
from steersman.methods.contrast import contrast_states, steered_rows
from steersman.methods.importers import import_l2s
from steersman.operators.add import Add
from steersman.synthesizers.static import StaticVector
from toy import rows

SEEING = ("llava", "qwen2_vl")
HALVES = (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("name", SEEING)
def test_trap_06_the_blocks_are_the_language_models_and_not_the_eyes(name):
    model = oracle.MODELS[name]()
    assert list(model.blocks.layers) == list(oracle.blocks_of(model.model))
    assert model.spec.d_model == tiny.WIDTH and model.spec.num_layers == tiny.LAYERS


@pytest.mark.parametrize("name", SEEING)
def test_trap_06_the_number_of_image_tokens_shifts_no_scope(name):
    """Also where there is no image at all; the same number of tokens is written behind each."""
    model, policy = oracle.MODELS[name](), oracle.policy()
    images = [(), (tiny.picture(),), (tiny.picture(1, 56),), (tiny.picture(), tiny.picture(2))]
    widths = set()
    for seen in images:
        prompt = Prompt(oracle.LONG, images=seen)
        inputs = oracle.inputs_of(model, prompt)
        n = inputs["input_ids"].shape[1]
        widths.add(n)
        with model.steer(policy) as run:
            made = oracle.hand_state(model, inputs, oracle.blocks_of(model.model)[1])[0]
        plain = oracle.hand_state(model, inputs, oracle.blocks_of(model.model)[1])[0]
        assert (made != plain).any(1).tolist() == [False] * (n - 1) + [True]
        assert run.traces()[0]["s"].tokens_in_scope == 1
    assert len(widths) > 2


@pytest.mark.parametrize("point", ["attn_out", "mlp_out", "resid_post", "resid_pre"])
def test_trap_07_tuples_and_tensors_are_written_alike(point):
    """Llama's attention gives a tuple, its other parts a tensor; both keep their kind."""
    model = oracle.MODELS["llama"]()
    inputs = oracle.inputs_of(model, oracle.PROMPTS[0])
    block = oracle.blocks_of(model.model)[1]
    module = {"attn_out": block.self_attn, "mlp_out": block.mlp, "resid_post": block,
              "resid_pre": oracle.blocks_of(model.model)[0]}[point]  # fmt: skip
    kinds, kind = [], lambda _m, _a, output: kinds.append(type(output))
    policy = oracle.policy(site=Site(1, point), scope=Scope.ALL)
    for once in (None, policy):
        with model.steer(once):
            handle = module.register_forward_hook(kind)
            made = oracle.plain_logits(model, inputs)
            handle.remove()
    n = inputs["input_ids"].shape[1]
    assert kinds[0] == kinds[1] and (kinds[0] is tuple) == (point == "attn_out")
    with oracle.hand_hook(module, lambda h: h + oracle.VECTOR):
        wanted = oracle.plain_logits(model, inputs)
    assert torch.allclose(made, wanted, atol=2e-5) and n > 1


def test_trap_07_a_cap_is_relative_to_the_state_that_it_edits():
    """Of the stream behind a block, not of what the block adds to it."""
    model, capped = oracle.MODELS["llama"](), oracle.policy(50 * oracle.VECTOR, cap=0.3)
    inputs, block = oracle.inputs_of(model, oracle.PROMPTS[0]), oracle.blocks_of(model.model)[1]
    plain = oracle.hand_state(model, inputs, block)[0, -1]
    with model.steer(capped):
        made = oracle.hand_state(model, inputs, block)[0, -1]
    assert float((made - plain).norm() / plain.norm()) == pytest.approx(0.3, rel=1e-4)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("operator", examples.by_role("operator"), ids=examples.label)
def test_trap_08_a_long_vector_is_added_in_float32(operator, dtype):
    """The vector itself has no number in float16; what is added of it has."""
    h, v = torch.ones(3, D, dtype=dtype), torch.full((1, D), 4e6)
    strength = torch.tensor([1e-6, 0.0, 1e-30])
    made = operator(h, v, strength)
    assert made.dtype == dtype and bool(torch.isfinite(made).all())
    assert torch.equal(made[1], h[1])
    wanted = operator(h.float(), v, strength).to(dtype)
    assert torch.equal(made, wanted)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("strength", [0.0, 1e-3])
def test_trap_08_half_precision_runs_with_a_long_vector_and_strength_zero_changes_no_bit(
    dtype, strength
):
    engine = HF("half", dtype=dtype)
    long = small_policy(small_steerer(vector=1e5 * VECTOR, scope=Scope.ALL))
    made = engine.run([Ask(PROMPTS[0], long, strength)], 3)[0]
    plain = engine.run([Ask(PROMPTS[0])], 3)[0]
    assert bool(torch.isfinite(made.logits).all())
    assert torch.equal(made.logits, plain.logits) == (strength == 0)


def towards_positive() -> list:
    """Methods that fit one vector for each layer from contrast pairs, and add it."""
    chosen = []
    for method in examples.by_role("method"):
        fields = vars(method)
        if method.part_name in ("mean", "caa", "repe") and "contrasts" in fields:
            chosen.append(method)
    return chosen


@pytest.mark.parametrize("method", towards_positive(), ids=examples.label)
def test_trap_09_a_positive_strength_is_more_of_the_positive_class(method):
    model, data = tiny.llama(), rows()
    steerer = method.fit(model, data)
    assert isinstance(steerer.operator, Add) and steerer.strength > 0
    assert isinstance(steerer.synthesizer, StaticVector)
    known = method.contrasts.behaviours
    picked = [data.rows[i] for i in steered_rows(data.rows) if data.rows[i].behaviour in known]
    behaviour = getattr(method, "behaviour", None)
    picked = [r for r in picked if behaviour in (None, r.behaviour)]
    sides = contrast_states(model, method.contrasts, picked, steerer.sites)
    for site, vector in zip(steerer.synthesizer.sites, steerer.synthesizer.vectors, strict=True):
        positive, negative = sides[site]
        before = float((positive.mean(0) - negative.mean(0)) @ vector)
        assert before > 0
        moved = steerer.operator(negative, vector[None], torch.full((len(negative),), 0.5))
        assert float(((moved - negative) @ vector).min()) > 0


def test_trap_09_the_methods_that_are_tested_for_their_sign_exist():
    assert {m.part_name for m in towards_positive()} == {"mean", "caa", "repe"}


def test_trap_10_a_context_behind_the_written_layer_is_read_in_a_pass_of_its_own():
    """L2S reads layer 30 and writes layer 14: two passes, and the first one sees no edit."""
    model, read, runs = oracle.MODELS["llama"](), Read(Site(2)), []
    policy = oracle.policy(site=Site(0), synthesizer=oracle.net(read), scope=Scope.ALL)
    inputs = oracle.inputs_of(model, oracle.PROMPTS[0])
    blocks, n = oracle.blocks_of(model.model), inputs["input_ids"].shape[1]
    context = oracle.hand_state(model, inputs, blocks[2])[:, -1]
    vector = oracle.net(read).synthesize(context)[0]
    handle = blocks[0].register_forward_hook(lambda *_: runs.append(1))
    with model.steer(policy):
        made = oracle.plain_logits(model, inputs)
    handle.remove()
    assert len(runs) == 2
    wanted = oracle.hand_logits(model, inputs, [True] * n, vector, 0)
    assert torch.allclose(made, wanted, atol=2e-5)


@pytest.mark.parametrize(
    ("site", "index"),
    [
        (Site(0), 1),
        (Site(1, "resid_pre"), 1),
        (Site(1), 2),
        (Site(2, "resid_pre"), 2),
    ],
    ids=str,
)
def test_trap_11_a_condition_is_read_where_it_was_fitted(site, index):
    """hidden_states[l] is what goes into block l, and not what comes out of it."""
    model, prompts, states = oracle.MODELS["llama"](), oracle.PROMPTS[:2], []
    for prompt in prompts:
        with torch.no_grad():
            out = model.model(**oracle.inputs_of(model, prompt), output_hidden_states=True)
        states.append(out.hidden_states[index][0, -1])
    assert torch.allclose(model.capture(prompts, [site])[site], torch.stack(states), atol=1e-5)
    gate = oracle.gate_between(Read(site), *states)
    policy = oracle.policy(gate=gate, site=Site(2))
    made = model.generate([Request(p, policy, max_new_tokens=1) for p in prompts])
    assert [c.trace["s"].gate for c in made] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"d_model": 64}, "64"),
        ({"num_layers": 2}, "layer"),
        ({"fingerprint": {"weights": "f" * 64}}, "weights"),
    ],
)
def test_trap_12_an_artifact_for_another_model_is_refused_with_a_reason(tmp_path, change, says):
    model = oracle.MODELS["llama"]()
    folder = save_artifact(Artifact(oracle.policy(site=Site(2)), model.spec), tmp_path / "a")
    assert load_artifact(folder, model.spec).policy.sites == (Site(2),)
    spec = model.spec
    hashes = {**spec.fingerprint, **change.get("fingerprint", {})}
    other = replace(spec, **{**change, "fingerprint": hashes})
    with pytest.raises(ModelMismatchError, match=says) as caught:
        load_artifact(folder, other)
    assert spec.id in str(caught.value)


@pytest.fixture(scope="module")
def deep() -> HFModel:
    """As many blocks as the file names, and one."""
    torch.manual_seed(2)
    sizes = {**tiny.TEXT, "num_hidden_layers": 16}
    config = LlamaConfig(**sizes, vocab_size=len(tiny.SPECIAL + tiny.WORDS))
    return HFModel(LlamaForCausalLM(config).eval(), tiny.tokenizer(), id="deep")


def test_trap_16_an_imported_layer_is_the_block_that_the_file_means(deep, tmp_path):
    """Layer 14 of the released nets is the output of block 14: hidden_states[15]."""
    draw, k = torch.Generator().manual_seed(5), 100
    encoder, bias = torch.randn(k, tiny.WIDTH, generator=draw), torch.randn(k, generator=draw)
    decoder = 0.05 * torch.randn(tiny.WIDTH, k, generator=draw)
    names = {"encoder.weight": encoder, "encoder.bias": bias, "decoder.weight": decoder}
    torch.save(names, tmp_path / "net.pt")
    artifact = import_l2s(tmp_path / "net.pt", "l2s-safety-qwen2-vl", deep.spec)
    steerer = artifact.policy.steerers["safety"]
    inputs = oracle.inputs_of(deep, oracle.PROMPTS[0])
    n, suffix = inputs["input_ids"].shape[1], deep.chat.suffix()
    with torch.no_grad():
        out = deep.model(**inputs, output_hidden_states=True)
    h = out.hidden_states[15][0, n - 1 - suffix]
    vector = steerer.strength * decoder @ torch.tanh(encoder @ h + bias)
    with deep.steer(artifact.policy):
        made = oracle.plain_logits(deep, inputs)
    assert torch.allclose(made, oracle.hand_logits(deep, inputs, [True] * n, vector, 14), atol=1e-4)
    off = oracle.hand_logits(deep, inputs, [True] * n, vector, 13)
    assert not torch.allclose(made, off, atol=1e-3)


def test_trap_16_a_policy_that_was_stored_and_read_gives_the_same_bits(deep, tmp_path):
    policy = oracle.policy(site=Site(9), synthesizer=oracle.net(Read(Site(7))), cap=0.9)
    folder = save_artifact(Artifact(policy, deep.spec), tmp_path / "a")
    again = load_artifact(folder, deep.spec).policy
    assert again.sites == (Site(9),) and again.reads == (Read(Site(7)),)
    inputs = oracle.inputs_of(deep, oracle.PROMPTS[0])
    with deep.steer(policy):
        first = oracle.cached(deep, inputs)
    with deep.steer(again):
        second = oracle.cached(deep, inputs)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
