from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny
from steersman.core.errors import DataError, RecipeError
from steersman.core.fitlog import FitLog
from steersman.core.types import Read, Scope, Site
from steersman.data.rows import Row
from steersman.methods.contexts import read_contexts
from steersman.methods.contrast import contrast_vectors
from steersman.methods.mose import MixtureTraining, MoSE, cluster, fit_mixture
from toy import READ, RULE, SITE, rows

SMALL = MixtureTraining(ks=(2, 3), residual_dim=3, attention_dim=8, hidden=16, epochs=20)
EXAMPLES = [
    MoSE(site=SITE, read=Read(Site(1, "resid_pre")), contrasts=RULE, mixture=SMALL),
    MoSE(
        site=SITE,
        read=READ,
        contrasts=RULE,
        mixture=MixtureTraining(
            ks=(2,), residual_dim=0, attention_dim=8, epochs=5, scale="learned", validation=0.0
        ),
        rows="all",
        scope=Scope.LAST_AND_GENERATED,
    ),
]
D, KINDS = 20, 5


def planted(n=300, seed=0, noise=0.2):
    """Five kinds of requests, each with its own place, direction and length of the contrast."""
    draw = np.random.default_rng(seed)
    places = 3 * np.linalg.qr(draw.normal(size=(D, D)))[0][:KINDS]
    directions = np.linalg.qr(draw.normal(size=(D, D)))[0][:KINDS]
    lengths = np.linspace(2, 6, KINDS)[:, None]
    kind = draw.integers(KINDS, size=n)
    x = places[kind] + noise * draw.normal(size=(n, D))
    z = (lengths * directions)[kind] + noise * draw.normal(size=(n, D))
    context, target = (torch.tensor(a, dtype=torch.float32) for a in (x, z))
    return context, target, torch.tensor(kind), directions


def some(n, behaviour="harmful"):
    return [Row(id=str(i), prompt="p", behaviour=behaviour) for i in range(n)]


def test_planted_clusters_are_found_in_number_and_membership():
    _, z, kind, _ = planted()
    found = cluster(MixtureTraining(ks=(2, 3, 4, 5, 6, 7, 8)), z, torch.arange(len(z)))
    assert max(found.scores, key=found.scores.get) == KINDS == len(found.labels.unique())
    assert len({(int(a), int(b)) for a, b in zip(found.labels, kind, strict=True)}) == KINDS


def test_the_score_is_that_of_calinski_and_harabasz():
    _, z, _, _ = planted(60)
    found = cluster(MixtureTraining(ks=(3, 5)), z, torch.arange(60))
    best = max(found.scores, key=found.scores.get)
    x = (z / z.norm(dim=1, keepdim=True)).double().numpy()
    groups = [x[found.labels.numpy() == k] for k in range(best)]
    between = sum(len(g) * ((g.mean(0) - x.mean(0)) ** 2).sum() for g in groups)
    within = sum(((g - g.mean(0)) ** 2).sum() for g in groups)
    by_hand = between / within * (len(x) - best) / (best - 1)
    assert found.scores[best] == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("scale", ["paper", "cluster_norm"])
def test_experts_are_the_clusters_means(scale):
    context, z, kind, _ = planted()
    plan = MixtureTraining(ks=(KINDS,), scale=scale, epochs=1)
    made = fit_mixture(plan, READ, context, z, some(300)).prototypes.numpy()
    by_hand = []
    for k in range(KINDS):
        mine = z[kind == k].numpy()
        norms = np.linalg.norm(mine, axis=1)
        length = norms.mean() if scale == "cluster_norm" else 1.0
        by_hand.append((mine / norms[:, None]).mean(0) * length)
    order = (made @ np.array(by_hand).T).argmax(1)
    assert sorted(order) == list(range(KINDS))
    assert np.allclose(made, np.array(by_hand)[order], atol=1e-5)


def test_the_residual_directions_are_the_principal_ones_of_the_raw_contrasts():
    context, z, _, _ = planted()
    made = fit_mixture(MixtureTraining(residual_dim=3, epochs=1), READ, context, z, some(300))
    vectors = np.linalg.eigh(np.cov(z.numpy().T))[1][:, ::-1][:, :3].T
    assert np.allclose(np.abs(made.residual.numpy() @ vectors.T), np.eye(3), atol=1e-2)


@pytest.mark.parametrize("scale", ["cluster_norm", "learned"])
def test_on_new_rows_the_mixture_beats_the_mean_vector(scale):
    context, z, _, _ = planted(600)
    plan = MixtureTraining(scale=scale, residual_dim=0, learning_rate=1e-2)
    made = fit_mixture(plan, READ, context[:300], z[:300], some(300))
    error = float((made.synthesize(context[300:]) - z[300:]).pow(2).mean())
    constant = float((z[:300].mean(0) - z[300:]).pow(2).mean())
    assert error < (0.2 if scale == "cluster_norm" else 0.4) * constant


def test_at_the_papers_scale_only_the_residual_can_be_as_long_as_the_contrasts():
    context, z, _, _ = planted(600)
    plan = MixtureTraining(scale="paper", residual_dim=0, learning_rate=1e-2)
    made = fit_mixture(plan, READ, context[:300], z[:300], some(300)).synthesize(context[300:])
    assert float(made.norm(dim=1).max()) <= 1 + 1e-5 < float(z.norm(dim=1).min())
    whole = fit_mixture(
        replace(plan, residual_dim=10), READ, context[:300], z[:300], some(300)
    ).synthesize(context[300:])
    errors = [float((v - z[300:]).pow(2).mean()) for v in (made, whole)]
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("settings", [{}, {"inputs": "raw", "targets": "raw"}])
def test_the_weights_that_are_kept_give_the_error_that_was_logged(settings):
    """Standardisation and units are multiplied into the weights: nothing may get lost."""
    context, z, _, _ = planted(100)
    plan = MixtureTraining(epochs=30, patience=3, learning_rate=2e-2, **settings)
    log = FitLog()
    made = fit_mixture(plan, READ, 5 * context + 2, z, some(100), log=log)
    record = next(r for r in log.records if r["kind"] == "training")
    held = torch.randperm(100, generator=torch.Generator().manual_seed(plan.seed))[:10]
    error = float((made.synthesize(5 * context[held] + 2) - z[held]).pow(2).mean())
    unit = float(z.norm(dim=1).mean()) ** 2 / D if not settings else 1.0
    best = min(record["validation"])
    assert record["validation"][record["kept"]] == best
    assert len(record["validation"]) - 1 - record["kept"] <= plan.patience
    assert error / unit == pytest.approx(best, rel=1e-3)
    assert record["train"][-1] < record["train"][0]


def test_the_log_tells_which_expert_a_behaviour_uses():
    context, z, kind, _ = planted()
    two = [Row(id=str(i), prompt="p", behaviour="ab"[int(k) > 1]) for i, k in enumerate(kind)]
    log = FitLog()
    plan = MixtureTraining(learning_rate=2e-2, residual_dim=0)
    made = fit_mixture(plan, READ, context, z, two, log=log)
    usage = next(r for r in log.records if r["kind"] == "expert_usage")
    assert usage["experts"] == KINDS and sum(usage["sizes"]) == 300
    assert set(usage["scores"]) == {"4", "5", "6", "7", "8", "9", "10"}
    mine = made.weights(context[kind <= 1]).mean(0).tolist()
    assert usage["usage"]["a"] == pytest.approx(mine, abs=1e-5)
    assert sum(usage["usage"]["b"]) == pytest.approx(1.0, abs=1e-4)
    apart = np.abs(np.array(usage["usage"]["a"]) - np.array(usage["usage"]["b"])).sum()
    assert apart > 1.0


def test_rows_left_alone_can_be_taught_the_vector_zero():
    context, z, kind, _ = planted(400)
    behaviours = ["harmful" if int(k) else "none" for k in kind]
    mixed = [Row(id=str(i), prompt="p", behaviour=b) for i, b in enumerate(behaviours)]
    z[kind == 0] = 0
    plan = MixtureTraining(ks=(4,), learning_rate=1e-2)
    made = fit_mixture(plan, READ, context, z, mixed)
    assert float(made.prototypes.norm(dim=1).min()) > 1, "no expert is made of zeros"
    length = made.synthesize(context).norm(dim=1)
    assert float(length[kind == 0].mean()) < 0.4 * float(length[kind != 0].mean())


def test_it_learns_from_the_contrasts_of_the_steered_rows():
    model, data = tiny.llama(), rows(24)
    made = EXAMPLES[0].fit(model, data)
    steered = [r for r in data.rows if r.behaviour != "none"]
    z = contrast_vectors(model, RULE, steered, [SITE])[SITE]
    two = [r.behaviour for r in steered]
    norms = [z[[b == name for b in two]].norm(dim=1).mean() for name in ("harmful", "expert")]
    z[[b == "expert" for b in two]] *= norms[0] / norms[1]
    context = read_contexts(model, steered, EXAMPLES[0].read)
    alone = fit_mixture(SMALL, EXAMPLES[0].read, context, z, steered)
    assert torch.allclose(made.synthesizer.prototypes, alone.prototypes, atol=1e-5)
    assert torch.allclose(
        made.synthesizer.synthesize(context), alone.synthesize(context), atol=1e-4
    )
    assert made.scope == Scope.ALL and made.gate.part_name == "always"


def test_rows_that_form_no_clusters_are_refused():
    context, z, _, _ = planted(40)
    with pytest.raises(DataError, match="5 contrast vectors do not form 6 or 7 clusters"):
        fit_mixture(MixtureTraining(ks=(6, 7), residual_dim=0), READ, context[:5], z[:5], some(5))
    same = z[:1].expand(20, D)
    with pytest.raises(DataError, match="Give more rows that differ"):
        fit_mixture(MixtureTraining(residual_dim=0), READ, context[:20], same, some(20))
    one = MixtureTraining(ks=(1,), residual_dim=0, epochs=2)
    made = fit_mixture(one, READ, context[:20], same, some(20))
    assert torch.allclose(made.synthesize(context[:2]), same[:2], atol=1e-5)
    with pytest.raises(DataError, match="11 are needed"):
        fit_mixture(MixtureTraining(), READ, context[:8], z[:8], some(8))
    with pytest.raises(DataError, match="0 rows with a contrast vector"):
        fit_mixture(MixtureTraining(), READ, context, 0 * z, some(40))


def test_settings_outside_are_refused():
    with pytest.raises(RecipeError, match="ks needs one number or more"):
        MixtureTraining(ks=())
    with pytest.raises(RecipeError, match="learning_rate must be above 0"):
        MixtureTraining(learning_rate=0.0)
