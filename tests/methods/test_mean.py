import pytest
import torch

import tiny
from steersman.core.errors import DataError, RecipeError
from steersman.core.types import Position, Prompt, Site
from steersman.data.rows import Dataset
from steersman.methods.mean import MeanVector
from toy import ANSWERS, RULE, SITE, questions, rows

EXAMPLES = [
    MeanVector(site=SITE, contrasts=RULE),
    MeanVector(site=SITE, contrasts=RULE, behaviour="harmful", strength=0.5),
]


def forward(model, text, completion):
    """Every token's state behind block 1, by plain transformers: an oracle without our code."""
    words = model.chat.tokenizer
    chat = words.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    prompt = words(chat, add_special_tokens=False)["input_ids"]
    ids = prompt + words(completion, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        out = model.model(torch.tensor([ids]), output_hidden_states=True)
    return out.hidden_states[SITE.layer + 1][0], len(prompt)


def test_the_vector_is_the_mean_of_differences_at_the_last_token():
    model, data = tiny.llama(), rows(6)
    z = {"harmful": [], "expert": []}
    for row in data.rows:
        if row.behaviour != "none":
            c = RULE.behaviours[row.behaviour]
            p, n = (
                forward(model, row.prompt + c.suffix, w)[0][-1] for w in (c.positive, c.negative)
            )
            z[row.behaviour].append(p - n)
    first, second = torch.stack(z["harmful"]), torch.stack(z["expert"])
    factor = first.norm(dim=1).mean() / second.norm(dim=1).mean()
    by_hand = torch.cat([first, second * factor]).mean(0)
    fitted = EXAMPLES[0].fit(model, data).synthesizer.vectors[0]
    assert torch.allclose(fitted, by_hand, atol=1e-5)


def test_the_hallucination_contrast_averages_over_the_completion():
    model, data = tiny.llama(), questions(4)
    z = []
    for row in data.rows:
        wrong = {"yes": "no", "no": "yes"}[row.answer]
        sides = []
        for word in (row.answer, wrong):
            states, start = forward(model, row.prompt, f"{word} , the")
            assert len(states) - start == 3
            sides.append(states[start:].mean(0))
        z.append(sides[0] - sides[1])
    fitted = MeanVector(site=SITE, contrasts=ANSWERS).fit(model, data).synthesizer.vectors[0]
    assert torch.allclose(fitted, torch.stack(z).mean(0), atol=1e-5)


def test_one_behaviour_is_contrasted_for_every_steered_row():
    model, data = tiny.llama(), rows(6)
    z = []
    for row in data.rows:
        if row.behaviour != "none":
            c = RULE.behaviours["harmful"]
            p, n = (
                forward(model, row.prompt + c.suffix, w)[0][-1] for w in (c.positive, c.negative)
            )
            z.append(p - n)
    # Both behaviours now have harmful's contrast, and norms are matched between the two groups.
    norms = torch.stack(z).norm(dim=1)
    factor = norms[::2].mean() / norms[1::2].mean()
    scale = torch.tensor([1.0, factor] * 2)[:, None]
    fitted = EXAMPLES[1].fit(model, data).synthesizer.vectors[0]
    assert torch.allclose(fitted, (torch.stack(z) * scale).mean(0), atol=1e-5)


def test_an_unknown_behaviour_names_the_nearest():
    with pytest.raises(RecipeError, match="Did you mean 'harmful'"):
        MeanVector(site=SITE, contrasts=RULE, behaviour="harmfull").fit(tiny.llama(), rows())


def test_a_layer_that_the_model_lacks_is_refused():
    with pytest.raises(RecipeError, match=r"resid_post\[9\].*3 layers.*below 3"):
        MeanVector(site=Site(9), contrasts=RULE).fit(tiny.llama(), rows())


def test_rows_that_are_all_left_alone_teach_nothing():
    data = rows()
    alone = tuple(r for r in data.rows if r.behaviour == "none")
    with pytest.raises(DataError, match="nothing to learn from"):
        EXAMPLES[0].fit(tiny.llama(), Dataset(rows=alone, meta={}, hash="", source="toy"))


def test_completions_and_prompts_are_told_apart():
    """A prompt's own last token does not depend on what is forced behind it."""
    model = tiny.llama()
    bare, forced = Prompt("a b c ?"), Prompt("a b c ?", completion="yes , the")
    both = model.capture([bare, forced], [SITE], Position("prompt", "last"))[SITE]
    assert torch.allclose(both[0], both[1], atol=1e-6)
