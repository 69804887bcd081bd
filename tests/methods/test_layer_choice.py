import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

import tiny
from steersman.core.errors import DataError, RecipeError
from steersman.core.fitlog import FitLog
from steersman.core.types import Activations, ModelSpec, Read, Site
from steersman.data.rows import Row
from steersman.methods import layer_choice
from steersman.methods.layer_choice import choose_layer, row_pairs
from steersman.selectors.fisher import Fisher
from steersman.selectors.probe_auroc import ProbeAUROC
from steersman.selectors.sas import SafetyAwareness
from toy import THINGS

WIDTH, NUM = 6, 40
SITES = [Site(layer, "resid_pre") for layer in range(3)]
READ = Read(SITES[0])
AGREE = (0.0, 0.5, 2.0)  # how much of a pair's difference is common to all, by layer


class Planted:
    """A model whose states are drawn, by site and by the prompt's text."""

    spec = ModelSpec("planted", "P", WIDTH, len(SITES))

    def complete(self, *_):
        raise NotImplementedError

    answer_states = logits = complete

    def __init__(self, agree=AGREE):
        self.agree, self.passes = agree, []

    def state(self, text, site):
        pair, side = text.split()
        noise = np.random.default_rng([int(pair), side == "bad", site.layer]).normal(size=WIDTH)
        return torch.tensor(noise + (side == "bad") * self.agree[site.layer], dtype=torch.float32)

    def capture(self, prompts, sites, position=None):
        self.passes.append(len(prompts))
        texts = [p.text for p in prompts]
        return Activations({s: torch.stack([self.state(t, s) for t in texts]) for s in sites})


def rows(num=NUM, num_objects=20):
    return [
        Row(
            id=f"{i}{side}",
            prompt=f"{i} {side}",
            behaviour="harmful" if side == "bad" else "none",
            labels={"pair": i, "object": f"o{i % num_objects}"},
        )
        for side in ("bad", "good")
        for i in range(num)
    ]


def choose(given=None, score=None, model=None, sites=SITES, **more):
    log = FitLog()
    score = score or SafetyAwareness()
    site = choose_layer(
        model or Planted(), given or rows(), read=READ, sites=sites, score=score, log=log, **more
    )
    (record,) = log.records
    return site, json.loads(json.dumps(record, allow_nan=False))


def sas(delta):
    u = delta / np.linalg.norm(delta, axis=1, keepdims=True)
    cosines = u @ u.T
    return cosines[np.triu_indices(len(u), 1)].mean()


@pytest.mark.parametrize("score", [SafetyAwareness(), Fisher(), ProbeAUROC(folds=3)])
def test_the_layer_with_the_clearest_difference_is_chosen(score):
    site, record = choose(score=score)
    assert site == SITES[2] and record["chosen"] == 2 and record["runner_up"] == 1
    assert record["layers"] == [0, 1, 2] and record["point"] == "resid_pre"
    assert record["num_pairs"] == NUM and record["num_clusters"] == 20
    assert record["value"][0] < record["value"][1] < record["value"][2]


def test_the_interval_is_that_of_a_jackknife_over_clusters():
    model = Planted()
    _, record = choose(model=model)
    delta = {
        s: np.stack(
            [
                (model.state(f"{i} bad", s) - model.state(f"{i} good", s)).double().numpy()
                for i in range(NUM)
            ]
        )
        for s in SITES
    }
    cluster = np.arange(NUM) % 20
    without = np.array([[sas(delta[s][cluster != b]) for s in SITES] for b in range(20)])
    t = stats.t.ppf(0.975, 19)

    def reach(values):
        return t * np.sqrt(19 / 20 * ((values - values.mean()) ** 2).sum())

    for i, site in enumerate(SITES):
        value, error = sas(delta[site]), reach(without[:, i])
        assert record["value"][i] == pytest.approx(value, abs=1e-6)
        assert record["low"][i] == pytest.approx(value - error, abs=1e-6)
        assert record["high"][i] == pytest.approx(value + error, abs=1e-6)
    gap = record["value"][2] - record["value"][1]
    error = reach(without[:, 2] - without[:, 1])
    assert record["difference"] == pytest.approx(gap, abs=1e-6)
    assert record["difference_low"] == pytest.approx(gap - error, abs=1e-6)
    assert record["distinct"] is bool(gap - error > 0) is True


def test_layers_that_agree_as_much_are_not_distinct():
    _, record = choose(model=Planted(agree=(2.0, 2.0, 2.0)))
    assert record["distinct"] is False and record["difference_low"] < 0 < record["difference_high"]


def test_chunks_change_nothing_and_all_layers_come_in_one_pass(monkeypatch):
    whole, model = choose()[1], Planted()
    monkeypatch.setattr(layer_choice, "CHUNK", 7)
    chunked = choose(model=model)[1]
    assert chunked["value"] == pytest.approx(whole["value"], abs=1e-12)
    assert chunked["low"] == pytest.approx(whole["low"], abs=1e-12)
    assert sum(model.passes) == 2 * NUM and max(model.passes) == 14


def test_clusters_are_dealt_to_at_most_fifty_blocks_whole():
    cluster = [i % 60 for i in range(150)]
    block = layer_choice._blocks(cluster)
    assert int(block.max()) == 49
    assert len({(c, b) for c, b in zip(cluster, block.tolist(), strict=True)}) == 60


def test_without_the_label_pairs_of_one_picture_are_a_cluster():
    given = [replace(r, labels={"pair": r.labels["pair"]}) for r in rows(10)]
    assert choose(given)[1]["num_clusters"] == 10
    pictures = [replace(r, image=tiny.picture(int(r.labels["pair"]) % 4)) for r in given]
    assert choose(pictures)[1]["num_clusters"] == 4


def test_the_counterparts_objects_do_not_tie_clusters():
    """A harmful request for a bomb may have its counterpart for a cup, as any other."""
    given = [
        replace(r, labels={**r.labels, "object": "cup"}) if r.behaviour == "none" else r
        for r in rows()
    ]
    assert choose(given)[1]["num_clusters"] == 20


def test_one_cluster_gives_no_interval():
    site, record = choose(rows(num_objects=1))
    assert site == SITES[2] and record["low"] == [None] * 3 and record["distinct"] is False
    assert record["difference_low"] is None and record["difference"] > 0


def test_one_layer_has_no_runner_up():
    site, record = choose(sites=SITES[1:2])
    assert site == SITES[1] and record["runner_up"] is None and record["difference"] is None


def test_three_rows_with_one_label_make_two_pairs():
    made = [
        Row(id=f"{i}{b}", prompt="a", behaviour=b, labels={"pair": i})
        for i in range(2)
        for b in ("harmful", "expert", "none")
    ]
    found = [(p.positive, p.negative) for p in row_pairs(made, "pair")]
    assert found == [(0, 2), (1, 2), (3, 5), (4, 5)]
    only = [(p.positive, p.negative) for p in row_pairs(made, "pair", ("harmful",))]
    assert only == [(0, 2), (3, 5)]


def test_rows_without_the_label_say_how_to_add_it():
    given = [replace(r, labels={}) for r in rows(4)]
    with pytest.raises(DataError, match=r"Of 8 rows, 0 have the label 'pair'.*labels\.pair"):
        choose(given)


def test_layers_that_cannot_be_chosen_are_refused():
    with pytest.raises(RecipeError, match=r"resid_post\[9\].*3 layers"):
        choose(sites=[Site(9)])
    with pytest.raises(RecipeError, match="Name at least one"):
        choose(sites=[])


def test_it_runs_on_a_real_model():
    given = [
        Row(id=f"{i}{b}", prompt=f"{opening} {THINGS[i]} ?", behaviour=b, labels={"pair": i})
        for i in range(8)
        for opening, b in (("how do i make the", "harmful"), ("the cup a", "none"))
    ]
    site, record = choose(given, model=tiny.llama())
    assert site in SITES and record["num_clusters"] == 8
    # Before the first block the last token knows nothing of the prompt.
    assert record["value"][0] == 0 and record["value"][site.layer] > 0
