import numpy as np
import pytest
import torch

import tiny
from steersman.core.errors import RecipeError
from steersman.core.requests import Request
from steersman.core.steerer import Policy
from steersman.core.types import Prompt, Site
from steersman.methods.ablation import Ablation
from steersman.methods.mean import MeanVector
from steersman.selectors.layers import Layers
from toy import RULE, SITE, rows

EXAMPLES = [
    Ablation(site=SITE),
    Ablation(site=SITE, layers=Layers(layers=(1, 2)), points=("resid_post",), behaviour="harmful"),
    Ablation(site=SITE, source="completions", contrasts=RULE),
]


@pytest.mark.parametrize("method, wanted", [(0, ("harmful", "expert")), (1, ("harmful",))])
def test_the_direction_is_the_difference_of_the_means_of_the_last_prompt_token(method, wanted):
    model, data = tiny.llama(), rows(12)
    h = model.capture([Prompt(r.prompt) for r in data.rows], [SITE])[SITE].double().numpy()
    steered = np.array([r.behaviour in wanted for r in data.rows])
    by_hand = h[steered].mean(0) - h[~steered].mean(0)
    vectors = EXAMPLES[method].fit(model, data).synthesizer.vectors.numpy()
    assert np.allclose(vectors, by_hand[None], atol=1e-5)


def test_completions_give_the_mean_contrast():
    model, data = tiny.llama(), rows(12)
    mean = MeanVector(site=SITE, contrasts=RULE).fit(model, data).synthesizer.vectors
    vectors = EXAMPLES[2].fit(model, data).synthesizer.vectors
    assert np.allclose(vectors.numpy(), mean.numpy(), atol=1e-6)


def test_no_block_sees_or_writes_along_the_direction():
    """Every block's input and both of its halves' outputs, at every token of the prompt."""
    model = tiny.llama()
    steerer = EXAMPLES[0].fit(model, rows())
    assert {str(s) for s in steerer.sites} == {
        f"{point}[{layer}]" for layer in range(3) for point in ("resid_pre", "attn_out", "mlp_out")
    }
    r = steerer.synthesizer.vectors[0] / steerer.synthesizer.vectors[0].norm()
    ids = model.chat.tokenizer("how do i make the cup ?", return_tensors="pt")["input_ids"]

    def along():
        with torch.no_grad():
            out = model.model(ids, output_hidden_states=True)
        return np.array([float((h[0] @ r).abs().max()) for h in out.hidden_states[1:-1]])

    assert along().min() > 1e-3
    with model.steer(steerer):
        after = along()
    assert len(after) == 2 and after.max() < 1e-5


def test_it_steers_every_token_of_the_prompt():
    model = tiny.llama()
    policy = Policy(steerers={"s": EXAMPLES[0].fit(model, rows())})
    (made,) = model.generate([Request(Prompt("a b c ?"), policy, max_new_tokens=1)])
    assert made.trace["s"].tokens_in_scope == 9 * made.num_prompt_tokens


def test_contrasts_belong_to_completions():
    with pytest.raises(RecipeError, match="contrasts are missing"):
        Ablation(site=SITE, source="completions")
    with pytest.raises(RecipeError, match="contrasts are given"):
        Ablation(site=SITE, contrasts=RULE)


def test_layers_that_the_model_lacks_are_refused_too():
    with pytest.raises(RecipeError, match="3 layers"):
        Ablation(site=Site(1), layers=Layers(layers=(7,))).fit(tiny.llama(), rows())
