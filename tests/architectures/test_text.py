"""Every text architecture of the table: its blocks and points, and steering it to the end."""

import inspect
from contextlib import ExitStack

import pytest
import torch

import oracle
import tiny
from architectures.text import ONE_BY_ONE, REFUSED, TEXT
from steersman.backends.hf import HFModel
from steersman.core.errors import ModelError
from steersman.core.io import Artifact, load_artifact, save_artifact
from steersman.core.requests import Request
from steersman.core.steerer import Policy
from steersman.core.types import POINTS, Scope, Site
from steersman.methods.mean import MeanVector
from steersman.models.blocks import find_blocks
from toy import RULE, SITE, rows

# GPTBigCode's module compiles with it when it is imported.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is:DeprecationWarning",
    "ignore::steersman.backends.proof.SharingWarning",  # test_sharing.py looks at it
)
each = pytest.mark.parametrize("architecture", TEXT, ids=lambda a: a.name)
LAST = tiny.LAYERS - 1
FROM_FIRST = ("MambaForCausalLM", "Mamba2ForCausalLM", "FalconMambaForCausalLM")
"""Their hidden_states begin behind the first block, not before it."""
# Where the blocks and the norm behind them are, written down by hand from each model's source.
PLACES = {
    "OPTForCausalLM": ("model.decoder.layers", "model.decoder.final_layer_norm"),
    "GPTNeoXForCausalLM": ("gpt_neox.layers", "gpt_neox.final_layer_norm"),
    "MptForCausalLM": ("transformer.blocks", "transformer.norm_f"),
    "BioGptForCausalLM": ("biogpt.layers", "biogpt.layer_norm"),
    "NanoChatForCausalLM": ("model.layers", None),
    "ModernBertDecoderForCausalLM": ("model.layers", "model.final_norm"),
    "PhiForCausalLM": ("model.layers", "model.final_layernorm"),
    "PersimmonForCausalLM": ("model.layers", "model.final_layernorm"),
    "JambaForCausalLM": ("model.layers", "model.final_layernorm"),
    "BambaForCausalLM": ("model.layers", "model.final_layernorm"),
    "FalconH1ForCausalLM": ("model.layers", "model.final_layernorm"),
    "Zamba2ForCausalLM": ("model.layers", "model.final_layernorm"),
    "Lfm2ForCausalLM": ("model.layers", "model.embedding_norm"),
    "RecurrentGemmaForCausalLM": ("model.layers", "model.final_norm"),
    "XGLMForCausalLM": ("model.layers", "model.layer_norm"),
    **dict.fromkeys(
        ("GPT2LMHeadModel", "FalconForCausalLM", "BloomForCausalLM", "GPTJForCausalLM",
         "GPTNeoForCausalLM", "GPTBigCodeForCausalLM", "CodeGenForCausalLM"),
        ("transformer.h", "transformer.ln_f"),
    ),
    **dict.fromkeys(
        ("MambaForCausalLM", "Mamba2ForCausalLM", "FalconMambaForCausalLM"),
        ("backbone.layers", "backbone.norm_f"),
    ),
}  # fmt: skip


def block_of(architecture, model, layer):
    path, _ = PLACES.get(architecture.model_class, ("model.layers", "model.norm"))
    return model.model.get_submodule(f"{path}.{layer}")


def taps(model, layer, points=POINTS):
    """The points that this one block has."""
    found = []
    for point in points:
        try:
            model.blocks.tap(Site(layer, point))
        except ModelError:
            continue
        found.append(point)
    return found


def stream(model, prompts=oracle.PROMPTS):
    """All points of all blocks at the last token of each prompt."""
    sites = [
        Site(layer, p)
        for layer in range(tiny.LAYERS)
        for p in taps(model, layer)
        if p != "head_in" or layer == LAST
    ]
    return model.capture(prompts, sites).rows


def padded(model):
    """All prompts as one batch, with the positions that generate would give."""
    inputs = oracle.inputs_of(model, *oracle.PROMPTS)
    if "position_ids" in inspect.signature(model.model.forward).parameters:
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return inputs


def close(left, right):
    return torch.allclose(left, right, atol=1e-4, rtol=1e-4)


@each
def test_the_blocks_are_its_decoders_and_run_in_order_with_the_norm_behind(architecture):
    model, seen = architecture.build(), []
    blocks, (path, norm) = (
        model.blocks,
        PLACES.get(architecture.model_class, ("model.layers", "model.norm")),
    )
    assert list(blocks.layers) == list(model.model.get_submodule(path))
    assert len(blocks.layers) == tiny.LAYERS and blocks.d_model == tiny.WIDTH
    assert blocks.final_norm is (norm and model.model.get_submodule(norm))
    assert type(model.model).__name__ == architecture.model_class
    with ExitStack() as stack:
        for i, module in enumerate((*blocks.layers, *([blocks.final_norm] if norm else ()))):
            hook = module.register_forward_hook(lambda *_, i=i: seen.append(i))
            stack.callback(hook.remove)
        oracle.plain_logits(model, oracle.inputs_of(model, oracle.PROMPTS[0]))
    assert seen == list(range(tiny.LAYERS + bool(norm)))


@each
def test_every_block_has_the_points_that_the_table_says_and_the_rest_are_refused(architecture):
    model = architecture.build()
    everywhere = set.intersection(*(set(taps(model, i)) for i in range(tiny.LAYERS)))
    assert everywhere == set(architecture.points)
    for point in set(POINTS) - everywhere:
        layer = next(i for i in range(tiny.LAYERS) if point not in taps(model, i))
        with pytest.raises(ModelError, match=r"Use resid_p") as caught:
            model.capture(oracle.PROMPTS, [Site(LAST if point == "head_in" else layer, point)])
        assert point in str(caught.value)


@each
def test_the_stream_is_what_transformers_calls_hidden_states_in_any_batch(architecture):
    model = architecture.build()
    together = stream(model)
    for row, prompt in enumerate(oracle.PROMPTS):
        alone = stream(model, [prompt])
        inputs = oracle.inputs_of(model, prompt)
        with torch.no_grad():
            hidden = model.model(**inputs, output_hidden_states=True).hidden_states
        for site in together:
            assert close(together[site][row], alone[site][0]), site
        point = "resid_post" if architecture.model_class in FROM_FIRST else "resid_pre"
        for layer in range(tiny.LAYERS):
            assert close(alone[Site(layer, point)][0], hidden[layer][0, -1])
            if layer < LAST:
                after = alone[Site(layer + 1, "resid_pre")]
                assert close(alone[Site(layer, "resid_post")], after)


@each
def test_a_block_adds_its_halves_to_the_stream(architecture):
    model = architecture.build()
    acts = stream(model)
    for layer in range(tiny.LAYERS):
        at = {p: acts[Site(layer, p)] for p in taps(model, layer) if p != "head_in"}
        if "attn_out" in at and "mlp_out" in at:
            added = at["attn_out"] + at["mlp_out"]
            assert added.norm() > 0.01 * at["resid_pre"].norm()
            assert close(at["resid_post"], at["resid_pre"] + added)
            assert not close(at["attn_out"], at["mlp_out"])


@each
def test_what_is_added_to_a_half_is_added_to_the_stream(architecture):
    model = architecture.build()
    inputs = oracle.inputs_of(model, oracle.PROMPTS[0])
    for layer in range(tiny.LAYERS):
        block = block_of(architecture, model, layer)
        before = oracle.hand_state(model, inputs, block)
        for point in set(taps(model, layer)) & {"mlp_out", "resid_pre", "resid_post"}:
            policy = oracle.policy(site=Site(layer, point), scope=Scope.ALL)
            with model.steer(policy):
                moved = oracle.hand_state(model, inputs, block) - before
            if point == "mlp_out":
                assert close(moved[0], oracle.VECTOR.expand_as(moved[0]))
            assert moved.norm() > 0.1


@each
def test_heads_carry_all_that_the_attention_says(architecture):
    """Without them attn_out is the same at every token: a bias, and what a norm makes of it."""
    model = architecture.build()
    inputs = oracle.inputs_of(model, oracle.PROMPTS[0])
    for layer in (i for i in range(tiny.LAYERS) if "attn_heads" in taps(model, i)):
        heads, out = (model.blocks.tap(Site(layer, p)) for p in ("attn_heads", "attn_out"))
        assert heads.before and not out.before
        with_them = oracle.hand_state(model, inputs, out.module)
        assert not close(with_them[:, 1:], with_them[:, :-1])
        width = model.capture([oracle.PROMPTS[0]], [Site(layer, "attn_heads")])
        assert width[Site(layer, "attn_heads")].shape[1] % model.spec.num_heads == 0

        def silent(_module, args):
            return (torch.zeros_like(args[0]), *args[1:])

        hook = heads.module.register_forward_pre_hook(silent)
        without = oracle.hand_state(model, inputs, out.module)
        hook.remove()
        assert close(without[:, 1:], without[:, :-1])


@each
def test_steered_logits_are_those_of_a_hook_by_hand_in_any_batch(architecture):
    model = architecture.build()
    inputs = padded(model)
    alone = [oracle.inputs_of(model, p) for p in oracle.PROMPTS]
    for point in ("resid_pre", "resid_post"):
        policy = oracle.policy(site=Site(1, point), scope=Scope.ALL)
        with model.steer(policy):
            steered = [oracle.plain_logits(model, i)[0] for i in alone]
            if not model.blocks.padding_disturbs:
                steered = oracle.plain_logits(model, inputs)
        module = block_of(architecture, model, 1 if point == "resid_post" else 0)
        for row, own in enumerate(alone):
            with oracle.hand_hook(module, lambda h: h + oracle.VECTOR):
                by_hand = oracle.plain_logits(model, own)[0]
            assert close(steered[row][-len(by_hand) :], by_hand)
            assert not close(by_hand, oracle.plain_logits(model, own)[0])


@each
def test_answers_do_not_depend_on_the_batch(architecture):
    model = architecture.build()
    policy = oracle.policy(2 * oracle.VECTOR)
    requests = [Request(p, policy, max_new_tokens=4) for p in oracle.PROMPTS]
    plain = Request(oracle.PROMPTS[0], max_new_tokens=4)
    together = model.generate([*requests, plain])
    alone = [model.generate([r])[0] for r in (*requests, plain)]
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]
    assert [c.trace["s"].tokens_written for c in together[:3]] == [4] * 3


@pytest.mark.parametrize(
    "architecture", [a for a in TEXT if "head_in" in a.points], ids=lambda a: a.name
)
def test_the_head_makes_the_models_logits_of_the_final_state(architecture):
    model = architecture.build()
    states = model.capture(oracle.PROMPTS, [Site(LAST, "head_in")])[Site(LAST, "head_in")]
    if architecture.model_class == "ModernBertDecoderForCausalLM":
        with pytest.raises(ModelError, match="logits"):
            model.logits(states)
        return
    theirs = [oracle.plain_logits(model, oracle.inputs_of(model, p))[0, -1] for p in oracle.PROMPTS]
    assert close(model.logits(states), torch.stack(theirs).float())


@each
def test_a_method_is_fitted_saved_loaded_and_steers_the_same(architecture, tmp_path):
    model = architecture.build()
    policy = Policy(steerers={"mean": MeanVector(site=SITE, contrasts=RULE).fit(model, rows(6))})
    assert policy.steerers["mean"].synthesizer.vectors.norm() > 0.01
    save_artifact(Artifact(policy, model.spec), tmp_path / "a")
    loaded = load_artifact(tmp_path / "a", model.spec).policy
    answers = [
        model.generate([Request(q, p, strength=3.0, max_new_tokens=4) for q in oracle.PROMPTS])
        for p in (policy, loaded)
    ]
    assert answers[0] == answers[1]
    assert all(answer.trace["mean"].tokens_written == 4 for answer in answers[0])


@each
def test_padding_disturbs_it_only_where_the_table_says_so(architecture):
    assert architecture.build().blocks.padding_disturbs == (ONE_BY_ONE in architecture.notes)


refusals = pytest.mark.parametrize("refused", REFUSED, ids=lambda r: r.name)


@refusals
def test_what_cannot_be_steered_is_refused(refused):
    model = refused.build()
    if not refused.error:
        blocks = find_blocks(model)
        assert blocks.padding_disturbs and len(blocks.layers) == 3
    elif refused.at_load:
        with pytest.raises(ModelError, match=refused.error):
            HFModel(model, tiny.tokenizer())
    else:
        blocks = find_blocks(model)
        for site in (Site(layer, p) for layer in range(3) for p in POINTS if p != "head_in"):
            with pytest.raises(ModelError, match=refused.error):
                blocks.tap(site)


def test_blocks_can_be_named_where_the_configuration_counts_them_otherwise():
    (longcat,) = (r for r in REFUSED if r.name == "LongCat-Flash")
    blocks = find_blocks(longcat.build(), "model.layers")
    assert [type(b).__name__ for b in blocks.layers] == ["LongcatFlashDecoderLayer"] * 3
    assert blocks.final_norm is not None and blocks.tap(Site(1)).module is blocks.layers[1]
    with pytest.raises(ModelError, match="exactly one attention"):
        blocks.tap(Site(1, "attn_out"))
