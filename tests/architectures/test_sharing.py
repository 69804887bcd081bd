"""What prompts have in common is run once, where that gives the states of each prompt alone."""

import warnings
from dataclasses import replace

import pytest
import torch

import tiny
from architectures.text import TEXT
from architectures.vision import VISION, prompts_for
from steersman.backends import forest
from steersman.backends.engine import Reading
from steersman.backends.hf import HFModel
from steersman.backends.proof import SharingWarning
from steersman.core.types import Position, Prompt, Site

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is:DeprecationWarning",
    "ignore:__array__ implementation:DeprecationWarning",
    "ignore:`hidden_state` is deprecated:FutureWarning",
)
SITES = (Site(0), Site(2))
OPENING = "a b c the cup , the bomb . a b c the cup , how do i make the"
ASKED = ("how do i make a cup ?", "how do i make the bomb and a cup ?", "a b c ?")
SAID = ("yes", "no , the cup and a bomb how do i make a b c", None)
EVERY = [*TEXT, *VISION]
HYBRIDS = ("Bamba", "LFM2", "Falcon-H1", "Zamba 2", "Qwen3-Next", "OLMo Hybrid", "Qwen3.5")
MIXED = [a for a in TEXT if a.name in ("Llama", "Gemma 3", *HYBRIDS)]
UNTIL_THE_END = ("OLMo Hybrid",)  # only its last block says that there is a state to continue


@pytest.fixture(autouse=True)
def short_headers(monkeypatch):
    monkeypatch.setattr(forest, "MIN_HEADER", 2)


def prompts(architecture):
    """Two beginnings, three questions behind each, three answers to each."""
    first = [Prompt(OPENING), Prompt(f"bomb {OPENING}")]
    if architecture.image:
        seeing = [p for p in prompts_for(architecture) if p.images]
        first = [seeing[0], seeing[-1]]
    return [
        replace(begin, text=f"{begin.text} {asked}", completion=said)
        for begin in first
        for asked in ASKED
        for said in SAID
    ]


def fresh(architecture) -> HFModel:
    """Of the same weights, and nothing proved yet."""
    made = architecture.build()
    return HFModel(made.model, made.chat.processor, id=made.spec.id)


def shared(model, given):
    """The states of all prompts, and how many tokens were run for them."""
    pieces = list(model.read(given, model.windows(given), Reading(SITES)))
    states = {
        site: torch.zeros(len(given), next(iter(pieces)).states[site].shape[1]) for site in SITES
    }
    for piece in pieces:
        for site in SITES:
            states[site][list(piece.prompts)] = piece.states[site]
    return states, sum(piece.num_tokens for piece in pieces)


@pytest.mark.parametrize("architecture", EVERY, ids=[a.name for a in EVERY])
def test_prompts_are_read_together_as_alone_and_fall_back_with_a_warning(architecture):
    model, given = fresh(architecture), prompts(architecture)
    alone = [model.capture([prompt], SITES) for prompt in given]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        states, num_tokens = shared(model, given)
    for site in SITES:
        wanted = torch.cat([found[site] for found in alone])
        assert torch.allclose(states[site], wanted, rtol=1e-4, atol=1e-4)
    warned = [str(w.message) for w in told if w.category is SharingWarning]
    assert warned == list(model.notes)
    assert not warned or set(architecture.shares) != {"completions", "header"}
    whole = sum(len(row["input_ids"]) for p in given for row in model.chat.rows([p]).rows)
    if "header" in architecture.shares:
        assert num_tokens < 0.7 * whole
    elif architecture.shares:
        assert num_tokens < 0.9 * whole
    else:
        assert num_tokens == whole and warned


@pytest.mark.filterwarnings("ignore::steersman.backends.proof.SharingWarning")
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("architecture", MIXED, ids=[a.name for a in MIXED])
def test_prompts_are_read_rightly_where_reading_ends_in_the_midst_of_the_blocks(
    architecture, layer
):
    """A block of two kinds has more to keep than keys and values."""
    model, given = fresh(architecture), prompts(architecture)
    model.capture(given, [Site(2)])  # what was found out there says nothing of other layers
    states = model.capture(given, [Site(layer)])[Site(layer)]
    for i, prompt in enumerate(given):
        alone = model.capture([prompt], [Site(layer)])[Site(layer)]
        assert torch.allclose(states[i], alone[0], rtol=1e-4, atol=1e-4)
    assert architecture.name in UNTIL_THE_END or not model.notes


@pytest.mark.parametrize("position", [Position("prompt", "mean"), Position("completion", "mean")])
def test_means_over_what_is_shared_are_those_of_each_prompt_alone(position):
    model = tiny.llama()
    given = [
        Prompt(f"{OPENING} {asked}", completion=said)
        for asked in ASKED
        for said in ("yes , the cup", "yes , the bomb and a", "no")
    ]
    together = model.capture(given, SITES, position)
    for i, prompt in enumerate(given):
        for site in SITES:
            alone = model.capture([prompt], [site], position)[site]
            assert torch.allclose(together[site][i], alone[0], atol=1e-5)
