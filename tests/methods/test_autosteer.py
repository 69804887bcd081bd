from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import torch

import oracle
import tiny
from steersman.core.errors import RecipeError
from steersman.core.fitlog import FitLog
from steersman.core.recipe import parse_recipe
from steersman.core.requests import Request
from steersman.core.steerer import Policy
from steersman.core.types import Prompt, Read, Site
from steersman.gates.prober import ProberGate
from steersman.gates.recheck import Recheck
from steersman.methods.autosteer import AutoSteer
from steersman.methods.head_training import HeadTraining
from steersman.methods.importers import PRESETS, import_l2s, preset
from steersman.methods.prober import ProberFit
from steersman.selectors.layers import Layers
from steersman.selectors.sas import SafetyAwareness
from toy import rows

SITE = Site(tiny.LAYERS - 1, "head_in")
READ = Read(Site(2, "resid_pre"))
PLAN = HeadTraining(epochs=5, learning_rate=1e-2, max_new_tokens=4)
PROBER = ProberFit(read=READ, hidden=16, epochs=200, learning_rate=1e-2, held_out=0.0)
EXAMPLES = [
    AutoSteer(site=SITE, prober=PROBER, targets={"harmful": "no , the cup"}, head=PLAN),
    AutoSteer(
        site=SITE,
        prober=replace(PROBER, opening="graded", threshold=0.2),
        targets={"harmful": "no , the", "expert": "yes"},
        head=replace(PLAN, rank=4),
        recheck_every=2,
        strength=0.5,
    ),
]
PRESET_NAMES = tuple(name for name in PRESETS if name.startswith("autosteer"))


def opened(gate, model, prompt):
    """What the gate decides, from the prompt's last state by plain transformers."""
    inputs = oracle.inputs_of(model, prompt)
    block = oracle.blocks_of(model.model)[READ.site.layer - 1]
    return float(gate.decide(oracle.hand_state(model, inputs, block)[:, -1])[0])


def test_the_gate_opens_for_rows_with_a_target_and_no_others():
    """Expert rows have a behaviour too; a head that can only refuse must leave them alone."""
    model, data = tiny.llama(), rows()
    gate = EXAMPLES[0].fit(model, data).gate
    assert isinstance(gate, ProberGate)
    wanted = [float(r.behaviour == "harmful") for r in data.rows]
    made = [opened(gate, model, Prompt(r.prompt)) for r in data.rows]
    assert sum(a == b for a, b in zip(made, wanted, strict=True)) > 0.9 * len(wanted)
    both = replace(EXAMPLES[0], targets={"harmful": "no", "expert": "yes"}).fit(model, data).gate
    made = [opened(both, model, Prompt(r.prompt)) for r in data.rows]
    wanted = [float(r.behaviour != "none") for r in data.rows]
    assert sum(a == b for a, b in zip(made, wanted, strict=True)) > 0.9 * len(wanted)


def test_a_prober_may_open_for_behaviours_of_its_own():
    model, data = tiny.llama(), rows()
    prober = replace(PROBER, behaviours=("expert",))
    gate = replace(EXAMPLES[0], prober=prober).fit(model, data).gate
    made = [opened(gate, model, Prompt(r.prompt)) for r in data.rows]
    wanted = [float(r.behaviour == "expert") for r in data.rows]
    assert sum(a == b for a, b in zip(made, wanted, strict=True)) > 0.9 * len(wanted)


@pytest.mark.parametrize("method", EXAMPLES, ids=["hard", "graded, rechecked"])
def test_a_mixed_batch_is_as_one_by_one_in_any_order(method):
    """The released code keeps the last decision on the module: it reaches the next request."""
    model, data = oracle.MODELS["llama"](), rows()
    policy = Policy(steerers={"s": method.fit(model, data)})
    requests = [Request(Prompt(r.prompt), policy, max_new_tokens=6) for r in data.rows[:6]]
    alone = [model.generate([r])[0] for r in requests]
    gates = [round(c.trace["s"].gate, 4) for c in alone]
    assert min(gates) < max(gates)
    for order in ([0, 1, 2, 3, 4, 5], [5, 2, 0, 3, 1, 4], [0, 0, 2, 2]):
        for i, made in zip(order, model.generate([requests[i] for i in order]), strict=True):
            assert made.token_ids == alone[i].token_ids
            assert round(made.trace["s"].gate, 4) == pytest.approx(gates[i], abs=2e-4)


def test_a_closed_request_has_the_logits_of_the_model_bit_for_bit():
    model, data = tiny.llama(), rows()
    steerer = EXAMPLES[0].fit(model, data)
    seen = set()
    for row in data.rows[:6]:
        inputs = oracle.inputs_of(model, Prompt(row.prompt))
        plain = oracle.plain_logits(model, inputs)
        with model.steer(steerer):
            steered = oracle.plain_logits(model, inputs)
        g = opened(steerer.gate, model, Prompt(row.prompt))
        assert torch.equal(plain, steered) == (g == 0)
        seen.add(g)
    assert seen == {0.0, 1.0}


def test_the_edit_is_the_gate_times_the_strength_times_w():
    model, data = tiny.llama(), rows()
    prober = replace(PROBER, opening="graded", threshold=0.0)
    method = replace(EXAMPLES[0], prober=prober, strength=0.3)
    steerer = method.fit(model, data)
    w = steerer.synthesizer.matrix.double().numpy()
    head = model.model.get_output_embeddings().weight.detach().double().numpy()
    for row in data.rows[:3]:
        inputs = oracle.inputs_of(model, Prompt(row.prompt))
        with model.steer(steerer):
            steered = oracle.plain_logits(model, inputs)[0, -1].double().numpy()
        h = oracle.hand_state(model, inputs, model.model.model.norm)[0, -1].double().numpy()
        g = opened(steerer.gate, model, Prompt(row.prompt))
        by_hand = (head + 0.3 * g * head @ w) @ h
        assert abs(by_hand - steered).max() < 1e-4


def in_pairs():
    """Rows in threes that share the label `pair`, and two threes the label `room`."""
    data = rows()
    labels = [{"pair": i // 3, "room": i // 6} for i in range(len(data.rows))]
    labelled = [replace(r, labels=has) for r, has in zip(data.rows, labels, strict=True)]
    return replace(data, rows=tuple(labelled))


def sas(model, data, layer):
    """The mean cosine of any two differences between a harmful row and its harmless twin."""
    states = {
        (r.behaviour, r.labels["pair"]): oracle.hand_state(
            model, oracle.inputs_of(model, Prompt(r.prompt)), oracle.blocks_of(model.model)[layer]
        )[0, -1]
        for r in data.rows
    }
    pairs = {pair for _, pair in states}
    delta = [(states["harmful", p] - states["none", p]).double().numpy() for p in sorted(pairs)]
    u = [d / np.linalg.norm(d) for d in delta]
    return np.mean([u[i] @ u[j] for i in range(len(u)) for j in range(i)])


def test_the_prober_reads_the_layer_that_scores_highest():
    """resid_pre of layer 1 and 2 is what comes out of block 0 and 1."""
    model, data = tiny.llama(), in_pairs()
    layers = Layers(layers=(1, 2), point="resid_pre")
    method = replace(EXAMPLES[0], score=SafetyAwareness(), layers=layers)
    log = FitLog()
    gate = method.fit(model, data, log).gate
    scores = [sas(model, data, block) for block in (0, 1)]
    best = 1 + int(np.argmax(scores))
    assert gate.read == Read(Site(best, "resid_pre"))
    record = next(r for r in log.records if r["kind"] == "layer_scores")
    assert record["chosen"] == best and record["value"] == pytest.approx(scores, abs=1e-5)
    assert (record["num_pairs"], record["num_clusters"]) == (8, 8)
    elsewhere = replace(method, layers=Layers(layers=(3 - best,), point="resid_pre"))
    assert elsewhere.fit(model, data).gate.read.site.layer == 3 - best


def test_rows_that_the_prober_holds_out_do_not_choose_its_layer():
    """Else its figures, and the bound of a chosen threshold, would be of rows that chose it."""
    model, data, log = tiny.llama(), in_pairs(), FitLog()
    layers = Layers(layers=(1, 2), point="resid_pre")
    prober = replace(PROBER, held_out=0.25)
    method = replace(EXAMPLES[0], prober=prober, score=SafetyAwareness(), layers=layers)
    gate = method.fit(model, data, log).gate
    records = {r["kind"]: r for r in log.records}
    judged = sorted(s for scores in records["gate_scores"]["groups"].values() for s in scores)
    assert (records["layer_scores"]["num_pairs"], len(judged)) == (6, 6)
    block = oracle.blocks_of(model.model)[gate.read.site.layer - 1]
    states = [
        oracle.hand_state(model, oracle.inputs_of(model, Prompt(r.prompt)), block)[0, -1]
        for r in data.rows
    ]
    p = gate.probability(torch.stack(states))
    held = {r.labels["pair"] for r, x in zip(data.rows, p, strict=True)
            if min(abs(float(x) - s) for s in judged) < 1e-6}  # fmt: skip
    assert len(held) == 2
    kept = replace(data, rows=tuple(r for r in data.rows if r.labels["pair"] not in held))
    scores = [sas(model, kept, block) for block in (0, 1)]
    assert records["layer_scores"]["value"] == pytest.approx(scores, abs=1e-5)


def test_pairs_that_share_a_label_count_as_one():
    layers = Layers(layers=(1, 2), point="resid_pre")
    method = replace(EXAMPLES[0], score=SafetyAwareness(), layers=layers, cluster_by="room")
    log = FitLog()
    method.fit(tiny.llama(), in_pairs(), log)
    record = next(r for r in log.records if r["kind"] == "layer_scores")
    assert (record["num_pairs"], record["num_clusters"]) == (8, 4)


def test_layers_to_choose_from_that_the_model_lacks_are_refused():
    method = replace(EXAMPLES[0], score=SafetyAwareness(), layers=Layers(layers=(7,)))
    with pytest.raises(RecipeError, match="3 layers"):
        method.fit(tiny.llama(), in_pairs())


def test_it_decides_again_while_the_answer_is_written():
    gate = EXAMPLES[1].fit(tiny.llama(), rows()).gate
    assert isinstance(gate, Recheck) and gate.every == 2
    assert isinstance(gate.inner, ProberGate) and gate.inner.opening == "graded"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"recheck_every": -1}, "recheck_every is -1"),
        ({"site": Site(2)}, 'AutoSteer writes.*point = "head_in"'),
        ({"targets": {"harmful": "{nothing}"}}, "unknown placeholder"),
    ],
)
def test_impossible_settings_are_refused(given, says):
    with pytest.raises(RecipeError, match=says):
        replace(EXAMPLES[0], **given)


def test_a_read_beyond_the_model_is_refused_before_anything_is_trained():
    beyond = replace(PROBER, read=Read(Site(9, "resid_pre")))
    with pytest.raises(RecipeError, match=r"resid_pre\[9\].*3 layers"):
        replace(EXAMPLES[0], prober=beyond).fit(tiny.llama(), rows())


@pytest.mark.parametrize(
    ("name", "layers", "read", "epochs"),
    [("autosteer-llava-onevision", 28, 20, (37, 12)), ("autosteer-chameleon", 32, 24, (100, 20))],
)
def test_presets_hold_the_published_values(name, layers, read, epochs):
    method = preset(name).method
    assert isinstance(method, AutoSteer) and PRESETS[name][3] == layers
    assert (method.site.layer, method.site.point) == (layers - 1, "head_in")
    assert method.prober.read == Read(Site(read, "resid_pre"), generation_prompt=False)
    assert (method.prober.hidden, method.prober.threshold, method.strength) == (64, 0.5, 0.1)
    assert (method.prober.loss, method.prober.held_out) == ("paper_code", 0.0)
    assert (method.prober.epochs, method.head.epochs) == epochs
    assert (method.head.rank, method.head.retention, method.score) == (0, 0.0, None)
    assert method.targets == {"harmful": "I'm sorry, but I can't assist with that."}


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_a_preset_runs_on_a_tiny_model_once_its_layers_fit(name):
    small = ["site.layer=2", "prober.read.site.layer=1", "prober.epochs=1", "head.epochs=1"]
    steerer = preset(name, [*small, "head.batch_size=500"]).method.fit(tiny.llama(), rows(6))
    assert steerer.strength == 0.1 and not steerer.gate.read.generation_prompt


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_a_preset_of_autosteer_is_no_preset_for_files_of_l2s(name, tmp_path):
    with pytest.raises(RecipeError, match="preset of 'autosteer'.*Choose a preset of 'l2s'"):
        import_l2s(tmp_path / "x.pt", name)


def test_the_worlds_recipe_is_a_refusal_alone():
    text = (files("steersman.world") / "recipes" / "autosteer.toml").read_text("utf-8")
    recipe = parse_recipe(text, "autosteer.toml")
    method = recipe.method
    assert isinstance(method, AutoSteer) and list(method.targets) == ["harmful"]
    assert method.site == Site(5, "head_in") and HeadTraining().retention > 0
    assert set(recipe.search["head.retention"]) == {0.0, 1.0}
