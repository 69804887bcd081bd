from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import torch

import oracle
import tiny
from steersman.core.recipe import parse_recipe
from steersman.core.requests import Request
from steersman.core.types import Read, Scope, Site
from steersman.gates.always import AlwaysOpen
from steersman.gates.subspace import Logistic, SubspaceGate
from steersman.methods.finesteer import FineSteer
from steersman.methods.gated import Gated
from steersman.methods.importers import PRESETS, preset
from steersman.methods.mean import MeanVector
from steersman.methods.mose import MixtureTraining, MoSE
from steersman.methods.scs import SCSFit
from steersman.synthesizers.mose import SteeringMixture
from toy import RULE, SITE, rows

READ = Read(Site(1, "resid_pre"))
SMALL = MixtureTraining(ks=(2, 3), residual_dim=3, attention_dim=8, hidden=16, epochs=20)
EXAMPLES = [
    FineSteer(
        method=MoSE(site=SITE, read=READ, contrasts=RULE, mixture=SMALL),
        gate=SCSFit(read=READ, k=3),
    )
]
STRENGTH, FLOOR = 1.5, 0.5


def mixture() -> SteeringMixture:
    draw = torch.Generator().manual_seed(4)
    sizes = {
        "prototypes": (3, tiny.WIDTH),
        "keys": (3, 8),
        "query": (8, tiny.WIDTH),
        "query_bias": (8,),
        "residual": (2, tiny.WIDTH),
        "weight1": (6, tiny.WIDTH),
        "bias1": (6,),
        "weight2": (2, 6),
        "bias2": (2,),
    }
    made = {name: 0.3 * torch.randn(*size, generator=draw) for name, size in sizes.items()}
    return SteeringMixture(read=READ, **made)


def ratio(basis: torch.Tensor, h: np.ndarray) -> float:
    return float(((basis.numpy().astype(float) @ h) ** 2).sum() / (h @ h))


def gate_shut_for_the_lowest(states: list[np.ndarray]) -> SubspaceGate:
    """Closed for the state with the least energy in the subspace, half open for the others."""
    draw = torch.Generator().manual_seed(5)
    basis = torch.linalg.qr(torch.randn(tiny.WIDTH, 5, generator=draw))[0].T.contiguous()
    low, second, *_, high = sorted(ratio(basis, h) for h in states)
    weight = 3.0 / (high - low)
    curve = Logistic(weight, -weight * (low + second) / 2)
    mean = torch.zeros(tiny.WIDTH)
    return SubspaceGate(read=READ, basis=basis, mean=mean, curve=curve, floor=FLOOR)


def context_of(model, prompt) -> np.ndarray:
    """The input of block 1 at the last prompt token: what block 0 puts out."""
    inputs = oracle.inputs_of(model, prompt)
    state = oracle.hand_state(model, inputs, oracle.blocks_of(model.model)[0])[0, -1]
    return state.numpy().astype(float)


def edit_by_hand(gate: SubspaceGate, mix: SteeringMixture, h: np.ndarray) -> torch.Tensor:
    """strength x g x v, from the paper's equations."""
    p = {k: v.numpy().astype(float) for k, v in vars(mix).items() if k != "read"}
    g = 1 / (1 + np.exp(-(gate.curve.weight * ratio(gate.basis, h) + gate.curve.bias)))
    scores = p["keys"] @ (p["query"] @ h + p["query_bias"]) / np.sqrt(8)
    a = np.exp(scores) / np.exp(scores).sum()
    beta = p["weight2"] @ np.maximum(p["weight1"] @ h + p["bias1"], 0) + p["bias2"]
    v = p["prototypes"].T @ a + p["residual"].T @ beta
    return torch.tensor(STRENGTH * (g if g >= FLOOR else 0.0) * v, dtype=torch.float32)


def composed(model, prompts):
    """A policy that steers all of the prompts but one, and its edit of each by hand."""
    states = [context_of(model, prompt) for prompt in prompts]
    gate, mix = gate_shut_for_the_lowest(states), mixture()
    edits = [edit_by_hand(gate, mix, h) for h in states]
    assert sum(bool(e.any()) for e in edits) == len(prompts) - 1
    policy = oracle.policy(
        site=SITE, gate=gate, synthesizer=mix, scope=Scope.ALL, strength=STRENGTH
    )
    return policy, edits


@pytest.mark.parametrize("name", ["llama", "llava"])
def test_one_pass_equals_two_passes_by_hand(name):
    """Prompt and generated tokens, text and image; a closed gate leaves every bit."""
    model = oracle.MODELS[name]()
    prompts = oracle.prompts_for(name)
    policy, edits = composed(model, prompts)
    for prompt, edit in zip(prompts, edits, strict=True):
        inputs = oracle.inputs_of(model, prompt)
        n = inputs["input_ids"].shape[1]
        with model.steer(policy):
            tokens, logits = oracle.cached(model, inputs)
        whole = oracle.extended(inputs, tokens[:, :-1])
        wanted = oracle.hand_logits(model, whole, [True] * (n + 3), edit)
        assert torch.allclose(logits[0], wanted[0, n - 1 :], atol=2e-5)
        plain = oracle.cached(model, inputs)[1]
        assert torch.equal(logits, plain) == (not bool(edit.any()))


def test_a_padded_batch_is_steered_row_by_row():
    model, prompts = oracle.MODELS["llama"](), oracle.PROMPTS
    policy, edits = composed(model, prompts)
    inputs = oracle.inputs_of(model, *prompts)
    assert bool((inputs["attention_mask"][:, 0] == 0).any()), "padded on the left"
    with model.steer(policy):
        together = oracle.plain_logits(model, inputs)
    answers = model.generate([Request(p, policy, max_new_tokens=4) for p in prompts])
    for row, (prompt, edit) in enumerate(zip(prompts, edits, strict=True)):
        alone = oracle.inputs_of(model, prompt)
        n = alone["input_ids"].shape[1]
        wanted = oracle.hand_logits(model, alone, [True] * n, edit)
        assert torch.allclose(together[row, -n:], wanted[0], atol=2e-5)
        said = torch.tensor([answers[row].token_ids[:-1]])
        logits = oracle.hand_logits(model, oracle.extended(alone, said), [True] * (n + 3), edit)
        logits[..., model.model.generation_config.suppress_tokens] = -torch.inf
        assert logits[0, n - 1 :].argmax(-1).tolist() == list(answers[row].token_ids)


def test_the_prompt_is_run_once():
    model, runs = oracle.MODELS["llama"](), []
    policy, _ = composed(model, oracle.PROMPTS)
    block = oracle.blocks_of(model.model)[0]
    handle = block.register_forward_pre_hook(lambda *_: runs.append(1))
    model.generate([Request(oracle.PROMPTS[0], policy, max_new_tokens=1)])
    handle.remove()
    assert len(runs) == 1


def test_it_is_the_mixture_behind_the_gate():
    model, data = tiny.llama(), rows()
    steerer, method = EXAMPLES[0].fit(model, data), EXAMPLES[0]
    alone, gate = method.method.fit(model, data), method.gate.fit(model, data)
    context = torch.randn(5, tiny.WIDTH)
    assert torch.equal(steerer.gate.decide(context), gate.decide(context))
    assert torch.equal(
        steerer.synthesizer.synthesize(context), alone.synthesizer.synthesize(context)
    )
    assert steerer.scope == Scope.ALL and steerer.sites == (SITE,)


WHOLE = """
part = "finesteer"

[gate]
part = "scs_fit"
k = 3
read = { site = { layer = 1, point = "resid_pre" } }

[method]
part = "mose"
site = { layer = 1 }
read = { site = { layer = 1, point = "resid_pre" } }

[method.mixture]
ks = [2, 3]
residual_dim = 3
epochs = 3

[method.contrasts.behaviours]
harmful = { suffix = " safe ?", positive = "harmful", negative = "safe" }
expert = { positive = "yes", negative = "no" }
"""
MEAN = """
part = "gated"
gate = { part = "scs_fit", k = 3, read = { site = { layer = 1, point = "resid_pre" } } }

[method]
part = "mean"
site = { layer = 1 }

[method.contrasts.behaviours]
harmful = { suffix = " safe ?", positive = "harmful", negative = "safe" }
expert = { positive = "yes", negative = "no" }
"""


def test_the_ablations_are_recipes():
    model, data = tiny.llama(), rows()

    def made(text, *overrides):
        return parse_recipe(text, "recipe.toml", overrides).method.fit(model, data)

    whole = made(WHOLE)
    assert isinstance(whole.gate, SubspaceGate) and len(whole.synthesizer.residual) == 3

    mixture_alone = WHOLE.split("[method]\n")[1].replace("[method.", "[")
    without_gate = made(mixture_alone.replace('part = "mose"', 'method = "mose"'))
    assert isinstance(without_gate.gate, AlwaysOpen)
    assert torch.equal(without_gate.synthesizer.prototypes, whole.synthesizer.prototypes)

    without_residual = made(WHOLE, "method.mixture.residual_dim=0")
    assert without_residual.synthesizer.residual.shape == (0, tiny.WIDTH)

    hard = made(WHOLE, "gate.opening='hard'")
    values = hard.gate.decide(torch.randn(40, tiny.WIDTH))
    assert set(values.tolist()) <= {0.0, 1.0} and hard.gate.floor == 0.5

    one_vector = made(MEAN)
    assert isinstance(one_vector.gate, SubspaceGate)
    assert one_vector.synthesizer.part_name == "static"
    assert isinstance(parse_recipe(MEAN, "r").method, Gated)
    assert isinstance(parse_recipe(MEAN, "r").method.method, MeanVector)


@pytest.mark.parametrize(
    ("name", "layer", "strength"),
    [
        ("finesteer-llama3-8b", 12, 2.5),
        ("finesteer-llama3.1-8b", 12, 2.5),
        ("finesteer-gemma2-9b", 20, 1.5),
        ("finesteer-qwen2.5-7b", 12, 2.5),
    ],
)
def test_presets_hold_the_published_values(name, layer, strength):
    method = preset(name).method
    assert isinstance(method, FineSteer) and isinstance(method.method, MoSE)
    mose, plan, gate = method.method, method.method.mixture, method.gate
    assert (mose.site, mose.strength, mose.scope) == (Site(layer), strength, Scope.ALL)
    assert mose.read == gate.read == Read(Site(layer, "resid_pre"))
    assert (plan.scale, plan.inputs, plan.targets) == ("paper", "raw", "raw")
    assert (plan.ks, plan.residual_dim, plan.learning_rate) == (tuple(range(4, 11)), 10, 5e-4)
    assert plan.attention_dim == plan.hidden == PRESETS[name][2]
    assert mose.contrasts.norms == "keep" and mose.contrasts.position.reduce == "mean"
    assert (gate.curve, gate.opening) == ("logistic", "graded")


def test_a_preset_runs_on_a_tiny_model_once_its_sizes_fit():
    small = ["method.mixture.hidden=4", "method.mixture.attention_dim=4", "gate.k=2"]
    small += [f"{part}.layer=1" for part in ("method.site", "method.read.site", "gate.read.site")]
    small += ["method.mixture.residual_dim=2"]
    data = rows()
    answered = tuple(replace(r, positive="yes", negative=f"no {r.prompt}") for r in data.rows)
    words = ['method.contrasts.behaviours={harmful={positive="a", negative="b"}, '
             'expert={positive="a", negative="b"}}']  # fmt: skip
    method = preset("finesteer-llama3.1-8b", [*small, *words]).method
    steerer = method.fit(tiny.llama(), replace(data, rows=answered))
    assert steerer.strength == 2.5 and steerer.sites == (SITE,)


def test_the_worlds_recipe_is_one():
    text = (files("steersman.world") / "recipes" / "finesteer.toml").read_text("utf-8")
    recipe = parse_recipe(text, "finesteer.toml")
    assert isinstance(recipe.method, FineSteer)
    small = ["method.mixture.residual_dim=2", "gate.k=2", "method.site.layer=1"]
    small += ["method.read.site.layer=1", "gate.read.site.layer=1", "method.mixture.epochs=2"]
    method = parse_recipe(text, "finesteer.toml", small).method
    assert method.fit(tiny.llama(), rows(48)).gate.part_name == "subspace"
