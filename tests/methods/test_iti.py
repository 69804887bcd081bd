import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.model_selection import GroupShuffleSplit
from transformers import LlamaConfig, LlamaForCausalLM

import tiny
from steersman.backends.hf import HFModel
from steersman.core.errors import ArtifactError, DataError, RecipeError
from steersman.core.io import Artifact, load_artifact, save_artifact
from steersman.core.requests import Request
from steersman.core.steerer import Policy
from steersman.core.types import Activations, ModelSpec, Position, Prompt, Scope, Site
from steersman.data.contrast import pair
from steersman.data.rows import Row
from steersman.methods.iti import ITI
from steersman.selectors.layers import Layers
from toy import RULE, rows

EXAMPLES = [
    ITI(contrasts=RULE, top_heads=3),
    ITI(
        contrasts=RULE, layers=Layers(layers=(1, 2), point="attn_heads"), top_heads=2,
        direction="probe", behaviour="harmful", strength=5.0,
    ),
]  # fmt: skip
LAYERS, HEADS, HEAD = 3, 4, 6
PLANTED = {(0, 2): 3.0, (2, 1): -2.0}


class Planted:
    """Noise in every head, and in two of them the side of the contrast too."""

    spec = ModelSpec("planted", "None", 16, LAYERS, num_heads=HEADS)

    def capture(self, prompts, sites, position=Position()):
        assert position == Position("completion", "last")
        made = {site: [] for site in sites}
        for prompt in prompts:
            side = 1 if prompt.completion in ("harmful", "yes") else -1
            for site in sites:
                seed = zlib.crc32(f"{prompt.text}{prompt.completion}{site}".encode())
                state = np.random.default_rng(seed).normal(size=(HEADS, HEAD))
                for (layer, head), size in PLANTED.items():
                    if layer == site.layer:
                        state[head] += side * size * np.linspace(0.5, 1, HEAD)
                made[site].append(torch.from_numpy(state.reshape(-1)).float())
        return Activations({site: torch.stack(h) for site, h in made.items()})

    def complete(self, prompts, max_new_tokens, *, temperature=0.0, seed=0): ...

    def answer_states(self, prompts): ...

    def logits(self, states): ...


def sides(model, data, site):
    """States of both sides of every steered row: (n, heads, width)."""
    pairs = [pair(r, RULE.behaviours[r.behaviour]) for r in data.rows if r.behaviour != "none"]
    at = Position("completion", "last")
    both = (model.capture([x[i] for x in pairs], [site], at)[site] for i in (0, 1))
    return [h.double().numpy().reshape(len(pairs), HEADS, -1) for h in both]


def test_the_planted_heads_are_chosen_and_shifted_by_the_papers_formula():
    model, data = Planted(), rows(90)
    steerer = ITI(contrasts=RULE, top_heads=2).fit(model, data)
    assert steerer.sites == (Site(0, "attn_heads"), Site(2, "attn_heads"))
    assert steerer.strength == 15
    wanted = np.zeros((2, HEADS, HEAD))
    for row, (layer, head) in enumerate(PLANTED):
        p, n = sides(model, data, Site(layer, "attn_heads"))
        theta = p[:, head].mean(0) - n[:, head].mean(0)
        theta /= np.linalg.norm(theta)
        along = np.concatenate([p[:, head], n[:, head]]) @ theta
        wanted[row, head] = np.sqrt(((along - along.mean()) ** 2).mean()) * theta
    made = steerer.synthesizer.vectors.numpy().reshape(2, HEADS, HEAD)
    assert np.allclose(made, wanted, atol=1e-5)


def test_probe_weights_are_those_of_the_logistic_regression_on_the_other_rows():
    model, data = Planted(), rows(90)
    made = ITI(contrasts=RULE, top_heads=1, direction="probe").fit(model, data)
    (site,) = made.sites
    p, n = sides(model, data, site)
    head = int(made.synthesizer.vectors.reshape(HEADS, HEAD).norm(dim=1).argmax())
    split = GroupShuffleSplit(1, test_size=0.2, random_state=0)
    train, _ = next(split.split(p, groups=range(len(p))))
    x = np.concatenate([p[train, head], n[train, head]])
    y = np.repeat([1.0, -1.0], len(train))

    def loss(w):
        return 0.5 * w[:-1] @ w[:-1] + np.logaddexp(0, -y * (x @ w[:-1] + w[-1])).sum()

    theta = minimize(loss, np.zeros(HEAD + 1), tol=1e-10).x[:-1]
    theta /= np.linalg.norm(theta)
    along = np.concatenate([p[:, head], n[:, head]]) @ theta
    vector = made.synthesizer.vectors.numpy().reshape(HEADS, HEAD)[head]
    assert np.allclose(vector, along.std() * theta, atol=1e-3)


def test_rows_of_one_pair_are_on_one_side():
    made = [Row(id=f"r{i}", prompt="a", labels={"pair": i // 2}) for i in range(40)]
    held_out = EXAMPLES[0]._held_out(made)
    assert held_out.sum() == 8 and (held_out[::2] == held_out[1::2]).all()
    with pytest.raises(DataError, match="2 rows to steer are one group"):
        EXAMPLES[0]._held_out(made[:2])
    shown = [Row(id=f"r{i}", prompt="a", image=tiny.picture(i // 4)) for i in range(40)]
    held_out = EXAMPLES[0]._held_out(shown).reshape(10, 4)
    assert (held_out.sum(1) % 4 == 0).all() and held_out.any(1).sum() == 2


def wide():
    """A model whose heads side by side are twice as wide as the model."""
    config = LlamaConfig(
        vocab_size=len(tiny.SPECIAL + tiny.WORDS), head_dim=16, tie_word_embeddings=False,
        **tiny.TEXT,
    )  # fmt: skip
    return HFModel(tiny._seeded(LlamaForCausalLM, config, 0), tiny.tokenizer(), id="wide")


@pytest.mark.parametrize("make", [tiny.llama, wide])
def test_a_write_at_the_heads_is_an_edit_of_the_projections_input(make):
    model = make()
    steerer = replace(EXAMPLES[0].fit(model, rows()), scope=Scope.ALL)
    ids = model.chat.tokenizer("how do i make the cup ?", return_tensors="pt")["input_ids"]
    width = steerer.synthesizer.vectors.shape[1]
    assert width == model.model.model.layers[0].self_attn.o_proj.in_features

    def edit(vector):
        return lambda _module, args: (args[0] + 15 * vector,)

    def logits():
        with torch.no_grad():
            return model.model(ids).logits

    plain = logits()
    handles = [
        model.model.model.layers[site.layer].self_attn.o_proj.register_forward_pre_hook(edit(v))
        for site, v in zip(steerer.sites, steerer.synthesizer.vectors, strict=True)
    ]
    by_hand = logits()
    for handle in handles:
        handle.remove()
    with model.steer(steerer):
        steered = logits()
    assert torch.allclose(steered, by_hand, atol=1e-5)
    assert not torch.allclose(steered, plain, atol=1e-3)


def test_heads_wider_than_the_model_survive_the_disk_and_generate(tmp_path):
    model = wide()
    policy = Policy(steerers={"s": EXAMPLES[0].fit(model, rows())}, max_relative_norm=0.5)
    save_artifact(Artifact(policy, model.spec), tmp_path / "p")
    loaded = load_artifact(tmp_path / "p", model.spec).policy
    prompts = [Prompt("a b c ?"), Prompt("how do i make the cup ?")]
    one, two = (model.generate([Request(q, p) for q in prompts]) for p in (policy, loaded))
    assert [c.token_ids for c in one] == [c.token_ids for c in two]
    assert one[0].trace["s"].tokens_written == len(policy.sites) * len(one[0].token_ids)
    save_artifact(Artifact(policy, replace(model.spec, num_heads=3)), tmp_path / "q")
    with pytest.raises(ArtifactError, match="do not fit"):
        load_artifact(tmp_path / "q")


@pytest.mark.parametrize("make", [tiny.llava, tiny.qwen2_vl])
def test_models_that_see_are_steered_at_their_heads(make):
    model = make()
    policy = Policy(steerers={"s": EXAMPLES[0].fit(model, rows())})
    prompts = [Prompt("a b"), Prompt("a b", (tiny.picture(),))]
    made = model.generate([Request(q, policy, max_new_tokens=2) for q in prompts])
    assert all(c.trace["s"].tokens_written >= len(policy.sites) for c in made)


def test_more_heads_than_there_are_and_other_points_are_refused():
    with pytest.raises(RecipeError, match="choose 48 heads.*4 in each of the 3 layers"):
        ITI(contrasts=RULE).fit(tiny.llama(), rows())
    with pytest.raises(RecipeError, match=r"its layers name resid_post\[1\]"):
        replace(EXAMPLES[0], layers=Layers(layers=(1,))).fit(tiny.llama(), rows())
    with pytest.raises(RecipeError, match="between 0 and 1"):
        ITI(contrasts=RULE, validation=1.0)
