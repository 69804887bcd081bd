from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny
from steersman.core.errors import DataError, RecipeError
from steersman.core.fitlog import FitLog
from steersman.core.types import Prompt, Tokens
from steersman.data.contrast import forced
from steersman.data.prompts import to_prompt
from steersman.data.rows import Row
from steersman.methods import head_training
from steersman.methods.head_training import HeadTraining, check_head, train_head
from steersman.synthesizers.linear_field import LinearField, LowRankField
from toy import SITE, rows

TARGETS = {"harmful": "no , the cup", "expert": "yes safe"}
REFUSE = {"harmful": TARGETS["harmful"]}
PLAN = HeadTraining(epochs=30, learning_rate=3e-2, max_new_tokens=4, validation=0.0, retention=0.0)
STRENGTH = 0.5


def edited(field, h: torch.Tensor) -> torch.Tensor:
    """The states with the field added, in numpy from its own numbers."""
    if isinstance(field, LinearField):
        matrix = field.matrix.numpy()
    else:
        matrix = field.identity * np.eye(len(field.left)) + field.left.numpy() @ field.right.numpy()
    return torch.from_numpy(h.numpy() + STRENGTH * h.numpy() @ matrix.T).float()


def said(model, targets, data):
    """The states of the target answers, their tokens and each one's behaviour."""
    chosen = [r for r in data.rows if r.behaviour in targets]
    states = model.answer_states(
        [Prompt(r.prompt, completion=targets[r.behaviour], close_turn=True) for r in chosen]
    )
    return states, [chosen[i].behaviour for i in states.row.tolist()]


def kl_on_benign(model, field, data, targets):
    """KL(base || edited) at the first answer token of the benign rows."""
    words = [Prompt(r.prompt, completion="a") for r in data.rows if r.behaviour not in targets]
    h = model.answer_states(words).states
    base, new = (model.logits(x).log_softmax(-1).numpy() for x in (h, edited(field, h)))
    return float((np.exp(base) * (base - new)).sum(1).mean())


def train(plan=PLAN, targets=REFUSE, data=None, log=None):
    data = data or rows()
    log = log or FitLog()
    return train_head(plan, tiny.llama(), data.rows, targets=targets, strength=STRENGTH, log=log)


@pytest.mark.parametrize(("rank", "made"), [(0, LinearField), (4, LowRankField)])
def test_every_behaviour_is_taught_its_own_target(rank, made):
    """The last token before the answer is alike for all; the head must tell the requests apart."""
    model, data = tiny.llama(), rows(12)
    field = train(replace(PLAN, rank=rank, epochs=400), TARGETS, data)
    assert isinstance(field, made)
    states, behaviours = said(model, TARGETS, data)
    right = model.logits(edited(field, states.states)).argmax(-1) == states.next_token
    for behaviour in TARGETS:
        mine = torch.tensor([b == behaviour for b in behaviours])
        assert float(right[mine].float().mean()) > 0.8


def test_without_a_step_the_field_is_the_identity():
    """The paper's beginning: a temperature, which no greedy answer notices."""
    field = train(replace(PLAN, epochs=1, learning_rate=1e-12))
    assert torch.allclose(field.matrix, torch.eye(tiny.WIDTH), atol=1e-6)
    low = train(replace(PLAN, epochs=1, learning_rate=1e-12, rank=3))
    assert low.identity == 1 and low.right.shape == (3, tiny.WIDTH)
    assert float((low.left @ low.right).abs().max()) < 1e-6


def test_the_first_step_goes_down_the_gradient_of_the_paper():
    """AdamW's first step is the rate times the gradient's sign; decay is nil where D is zero."""
    model, data = tiny.llama(), rows(6)
    field = train(replace(PLAN, epochs=1, learning_rate=1e-3, batch_size=10**6), data=data)
    states, _ = said(model, REFUSE, data)
    head = model.model.get_output_embeddings().weight.detach().double().numpy()
    h, tokens = states.states.double().numpy(), states.next_token.numpy()
    logits = h @ (head + STRENGTH * head).T
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(tokens)), tokens] -= 1
    gradient = STRENGTH * (p @ head).T @ h / len(tokens)  # of the mean CE, in W
    clear = np.abs(gradient) > 1e-5
    step = field.matrix.numpy() - np.eye(tiny.WIDTH)
    assert clear.mean() > 0.9
    assert np.allclose(step[clear], -1e-3 * np.sign(gradient[clear]), atol=2e-5)


def test_only_tokens_of_the_answer_are_learned():
    """With and without the end of the turn; never a token of the question."""
    model, row = tiny.llama(), rows(1).rows[0]
    ids = model.chat.tokenizer.convert_tokens_to_ids
    wanted = [ids(w) for w in ("no", ",", "the", "cup")]
    for close_turn, end in ((False, []), (True, [ids("</s>")])):
        prompt = forced(row, REFUSE["harmful"], close_turn=close_turn)
        assert model.answer_states([prompt]).next_token.tolist() == wanted + end


def test_retention_keeps_the_benign_answers():
    model, data = tiny.llama(), rows()
    plan = replace(PLAN, epochs=40, learning_rate=1e-2)
    free, kept = (train(replace(plan, retention=w)) for w in (0.0, 5.0))
    before, after = (kl_on_benign(model, f, data, REFUSE) for f in (free, kept))
    assert after < before / 2
    states, _ = said(model, REFUSE, data)
    right = model.logits(edited(kept, states.states)).argmax(-1) == states.next_token
    assert float(right.float().mean()) > 0.5


@pytest.mark.parametrize("retention", [0.0, 1.0])
def test_the_best_epoch_is_kept_and_told(retention):
    log = FitLog()
    train(replace(PLAN, epochs=6, validation=0.25, retention=retention), log=log)
    (record,) = log.records
    assert (record["kind"], record["what"]) == ("training", "head")
    assert len(record["train"]) == len(record["validation"]) == 6
    assert record["kept"] == int(np.argmin(record["validation"]))
    assert record["train"][-1] < record["train"][0]


def test_the_head_is_the_one_of_the_best_epoch():
    """Steps so large that it gets worse again: what is returned is as if training had stopped."""
    log = FitLog()
    plan = replace(PLAN, epochs=12, batch_size=8, learning_rate=0.5, validation=0.25)
    field = train(plan, TARGETS, log=log)
    kept = log.records[0]["kept"]
    assert kept < 11
    stopped = train(replace(plan, epochs=kept + 1), TARGETS)
    assert torch.equal(field.matrix, stopped.matrix)


def test_rows_are_held_out_whole():
    """Tokens of one answer are alike; the epoch must not be chosen on rows that were trained on."""
    answers = said(tiny.llama(), TARGETS, rows())[0]
    fit, held = head_training._split(answers, 0.25, torch.Generator().manual_seed(0))
    assert len(held.tokens) > 0 and len(fit.tokens) + len(held.tokens) == len(answers.row)
    owner = {tuple(h.tolist()): int(r) for h, r in zip(answers.states, answers.row, strict=True)}
    first, second = ({owner[tuple(h.tolist())] for h in side.states} for side in (fit, held))
    assert len(second) == 4 and not first & second


def test_rows_are_read_some_at_a_time(monkeypatch):
    """Images are held open while a chunk runs; the split by row must not mix up the chunks."""
    monkeypatch.setattr(head_training, "CHUNK", 3)
    seen = []
    split = head_training._split
    monkeypatch.setattr(head_training, "_split", lambda a, *b: seen.append(a.row) or split(a, *b))
    train(replace(PLAN, validation=0.25))
    assert seen[0].unique().tolist() == list(range(8))


def test_a_row_that_brings_its_answer_is_taught_that():
    row = replace(rows(1).rows[0], positive="a b c", negative="c")
    assert forced(row, "no").completion == "a b c"


def test_placeholders_come_from_the_row():
    row = Row(id="1", prompt="how ?", behaviour="expert", labels={"expert": "cup"})
    assert forced(row, "the {label.expert} .").completion == "the cup ."
    with pytest.raises(DataError, match="no label 'doctor'"):
        forced(row, "the {label.doctor} .")
    assert forced(row, "the").text == to_prompt(row).text


def test_a_target_without_rows_names_the_nearest():
    with pytest.raises(DataError, match="'harmfull'.*Did you mean 'harmful'"):
        train(targets={"harmfull": "no"})


def test_retention_needs_benign_rows():
    data = rows()
    only = replace(data, rows=tuple(r for r in data.rows if r.behaviour == "harmful"))
    with pytest.raises(DataError, match=r"set head\.retention to 0"):
        train(replace(PLAN, retention=1.0), data=only)
    assert train(replace(PLAN, epochs=1), data=only)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"epochs": 0}, "1 or more"),
        ({"learning_rate": 0.0}, "above 0"),
        ({"rank": -1}, "0 or more"),
        ({"retention": -0.5}, "0 or more"),
        ({"validation": 1.0}, "validation is 1.0"),
    ],
)
def test_impossible_plans_are_refused(given, says):
    with pytest.raises(RecipeError, match=says):
        HeadTraining(**given)


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        ({}, "at least one behaviour"),
        ({"none": "no"}, "has none"),
        ({"harmful": " "}, "target of 'harmful' is empty"),
        ({"harmful": "ask a {labl.expert}"}, "unknown placeholder"),
    ],
)
def test_impossible_targets_are_refused(targets, says):
    with pytest.raises(RecipeError, match=says):
        check_head(replace(SITE, point="head_in"), targets, "The test")


def test_another_point_is_refused():
    with pytest.raises(RecipeError, match=r'site is resid_post\[1\].*point = "head_in"'):
        check_head(SITE, REFUSE, "The test")


def test_the_field_that_is_returned_is_the_one_that_was_trained():
    """Part and training compute the same edit."""
    field = train(replace(PLAN, rank=2))
    h = torch.randn(5, tiny.WIDTH, generator=torch.Generator().manual_seed(1))
    zeros = torch.zeros(5, dtype=torch.long)
    x = Tokens(SITE, h, zeros, zeros, zeros, zeros)
    assert torch.allclose(h + STRENGTH * field(x, None), edited(field, h), atol=1e-5)
