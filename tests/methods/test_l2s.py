from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import tiny
from steersman.core.fitlog import FitLog
from steersman.core.requests import Request
from steersman.core.steerer import Policy
from steersman.core.types import Read, Scope, Site
from steersman.data.prompts import to_prompt
from steersman.methods.contexts import read_contexts
from steersman.methods.contrast import contrast_vectors
from steersman.methods.l2s import L2S
from steersman.methods.net_training import NetTraining, _loss, train_net
from toy import ANSWERS, READ, RULE, SITE, questions, rows

SMALL = NetTraining(hidden=8, epochs=5)
EXAMPLES = [
    L2S(site=SITE, context=READ, contrasts=RULE, net=SMALL),
    L2S(site=Site(0), context=Read(Site(2)), contrasts=RULE, net=SMALL, scope=Scope.ALL),
    L2S(
        site=SITE, context=Read(SITE, generation_prompt=False), contrasts=ANSWERS,
        net=replace(SMALL, balance="groups", decoder="random"),
    ),
]  # fmt: skip


def test_it_learns_which_vector_belongs_to_which_context():
    torch.manual_seed(0)
    contexts = torch.randn(1700, 16)
    directions = torch.randn(3, 16) * 5
    kind = contexts[:, :3].argmax(1)
    targets = directions[kind] * (kind > 0)[:, None]  # kind 0 is left alone
    net = train_net(
        NetTraining(hidden=32, epochs=40), READ, contexts[:1500], targets[:1500], ["x"] * 1500
    )
    made, wanted = net.synthesize(contexts[1500:]), targets[1500:]
    moved = kind[1500:] > 0
    assert float(F.cosine_similarity(made, wanted)[moved].mean()) > 0.8
    left = made[~moved].norm(dim=1).mean() / made[moved].norm(dim=1).mean()
    assert float(left) < 0.6


def test_the_paper_loss_term_by_term():
    plan = NetTraining(l2=1.0, l1=1.0, cosine=0.1)
    made, wanted = torch.tensor([[1.0, 2.0], [1.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    first = (4 + 4) / 2 + (2 + 2) / 2 - 0.1 * (3 + 8) / (5**0.5 * 5)
    second = 1 / 2 + 1 / 2  # a zero target has no direction
    assert torch.allclose(_loss(plan, made, wanted, 1.0), torch.tensor([first, second]))


def test_the_same_seed_gives_the_same_net_and_another_does_not():
    contexts, targets = torch.randn(60, 16), torch.randn(60, 16)

    def decoder(seed):
        plan = NetTraining(hidden=8, epochs=2, seed=seed)
        return train_net(plan, READ, contexts, targets, ["x"] * 60).decoder

    assert torch.equal(decoder(0), decoder(0))
    assert not torch.equal(decoder(0), decoder(1))


@pytest.mark.parametrize("start", ["svd", "dictionary", "random"])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_every_start_and_schedule_trains(start, schedule):
    torch.manual_seed(1)
    contexts, targets = torch.randn(40, 12), torch.randn(40, 12)
    plan = NetTraining(
        hidden=4, epochs=3, decoder=start, schedule=schedule, warmup=1, cosine_ramp="linear",
        balance="groups", inputs="raw", targets="raw", validation=0.0,
    )  # fmt: skip
    net = train_net(plan, READ, contexts, targets, ["yes", "no"] * 20)
    assert net.scale == 1.0 and torch.equal(net.mean, torch.zeros(12))
    assert bool(torch.isfinite(net.synthesize(contexts)).all())


def test_more_hidden_units_than_directions_start_at_random():
    plan = NetTraining(hidden=30, epochs=1)
    net = train_net(plan, READ, torch.randn(40, 12), torch.randn(40, 12), ["x"] * 40)
    assert net.decoder.shape == (12, 30)


def test_contexts_are_read_where_the_running_part_reads_them():
    """Fitted on what it will see: one token off is the classic bug of conditional steering."""
    model, data = tiny.llama(), rows(4)
    for read in (READ, Read(SITE, offset=-2), Read(SITE, generation_prompt=False)):
        fitted = read_contexts(model, data.rows, read)
        l2s = L2S(site=SITE, context=read, contrasts=RULE, net=SMALL)
        steerer = l2s.fit(model, data)
        with model.steer(steerer) as run:
            batch = model.batches.encode([to_prompt(data.rows[0])])
            model.model(**batch.inputs)
            made = run._last.state[0]["steerer"].synthesizer[0]
        assert torch.allclose(made, steerer.synthesizer.synthesize(fitted[:1])[0], atol=1e-4)


def test_targets_are_the_contrasts_and_zero_for_rows_left_alone():
    model, data = tiny.llama(), rows(6)
    z = contrast_vectors(model, RULE, data.rows, [SITE])[SITE]
    zero = [float(v.norm()) == 0 for v in z]
    assert zero == [r.behaviour == "none" for r in data.rows]


@pytest.mark.parametrize("method", EXAMPLES, ids=["same", "deeper", "user-turn"])
def test_a_fitted_steerer_acts_on_what_it_was_fitted_on(method):
    model = tiny.llama()
    data = questions() if method is EXAMPLES[2] else rows()
    policy = Policy(steerers={"s": method.fit(model, data)})
    made = model.generate([Request(to_prompt(r), policy, max_new_tokens=2) for r in data.rows[:4]])
    assert all(c.trace["s"].tokens_written > 0 for c in made)


def test_the_fit_tells_its_losses_and_which_epoch_was_kept():
    log = FitLog()
    plan = replace(EXAMPLES[0].net, epochs=5, validation=0.25)
    replace(EXAMPLES[0], net=plan).fit(tiny.llama(), rows(24), log)
    (record,) = log.records
    assert record["kind"] == "training" and len(record["train"]) == len(record["validation"]) == 5
    assert record["validation"][record["kept"]] == min(record["validation"])
