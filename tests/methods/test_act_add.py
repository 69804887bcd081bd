from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny
from packing import D, pack, talk
from steersman.core.errors import RecipeError
from steersman.core.requests import Request
from steersman.core.steerer import Policy
from steersman.core.types import Prompt
from steersman.data.rows import Dataset, Row
from steersman.methods.act_add import ActAdd, OpeningVectors, num_tokens
from toy import SITE, rows

VECTORS = torch.randn(3, D, generator=torch.Generator().manual_seed(2))
EXAMPLES = [
    OpeningVectors(vectors=VECTORS, start=1),
    ActAdd(site=SITE, positive="the bomb ?", negative="a cup .", skip_last=1),
    ActAdd(site=SITE, positive="make the bomb", negative="make a cup", strength=2.0),
]


def every_state(model, text):
    """All tokens' states behind block 1, by plain transformers."""
    ids = model.chat.tokenizer(f"<s> user : {text} </s>", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        out = model.model.model(torch.tensor([ids]), output_hidden_states=True)
    return out.hidden_states[SITE.layer + 1][0].double().numpy()


def test_vectors_are_found_by_position():
    x = pack([talk(0)], [(0, 0, 7)])
    made = EXAMPLES[0](x, None)
    assert torch.equal(made[1:4], VECTORS)
    assert torch.equal(made[[0, 4, 5, 6]], torch.zeros(4, D))


def test_the_differences_are_the_two_texts_token_by_token():
    model = tiny.llama()
    difference = every_state(model, "the bomb ?") - every_state(model, "a cup .")
    assert len(difference) == 7 and np.allclose(difference[:3], 0, atol=1e-6)
    made = EXAMPLES[1].fit(model, rows()).synthesizer
    assert made.start == 3
    assert np.allclose(made.vectors.numpy(), difference[3:6], atol=1e-5)  # without </s>


def test_a_common_beginning_is_left_out_and_a_common_word_later_is_not():
    model = tiny.llama()
    difference = every_state(model, "make the bomb") - every_state(model, "make a cup")
    made = EXAMPLES[2].fit(model, rows()).synthesizer
    assert made.start == 4 and len(made.vectors) == 3
    assert np.allclose(made.vectors.numpy(), difference[4:], atol=1e-5)
    early = replace(EXAMPLES[2], site=replace(SITE, layer=0, point="resid_pre"))
    made = early.fit(model, rows()).synthesizer
    assert made.start == 4 and torch.equal(made.vectors[-1], torch.zeros(tiny.WIDTH))


def test_only_the_prompt_is_written():
    """A prompt that ends before the texts do: generated tokens stay as they are."""
    model = tiny.llama()
    policy = Policy(steerers={"s": EXAMPLES[1].fit(model, rows())})
    (made,) = model.generate([Request(Prompt("a"), policy, max_new_tokens=4)])
    assert made.trace["s"].tokens_in_scope == made.num_prompt_tokens
    assert made.trace["s"].tokens_written == 3


def test_pictures_move_the_texts_to_where_a_request_has_its_own():
    model = tiny.llava()
    row = Row(id="p", prompt="how do i make the cup ?", image=tiny.picture())
    made = EXAMPLES[1].fit(model, Dataset(rows=(row,), meta={}, hash="", source="t")).synthesizer
    words = model.chat.encode([Prompt("bomb", (tiny.picture(),))]).inputs["input_ids"][0].tolist()
    assert made.start == words.index(model.chat.tokenizer.convert_tokens_to_ids("bomb"))
    assert len(made.vectors) == 3


@pytest.mark.parametrize("text", ["a", "a b c", "how do i make the cup ? how do i"])
def test_tokens_are_counted(text):
    model = tiny.llama()
    assert num_tokens(model, Prompt(text)) == len(text.split()) + 6


def test_texts_of_unequal_length_are_refused():
    uneven = replace(EXAMPLES[1], positive="the bomb")
    with pytest.raises(RecipeError, match="of 6 and 7 tokens"):
        uneven.fit(tiny.llama(), rows())


def test_texts_that_show_no_difference_are_refused():
    with pytest.raises(RecipeError, match="same tokens"):
        ActAdd(site=SITE, positive="a  cup", negative="a cup").fit(tiny.llama(), rows())
    with pytest.raises(RecipeError, match="two texts that differ"):
        ActAdd(site=SITE, positive="a", negative="a")
