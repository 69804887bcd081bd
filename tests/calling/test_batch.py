"""Rows of one batch: nobody's answer depends on how the others are steered, in no bit."""

from dataclasses import replace

import pytest
import torch

import oracle
import tiny
from calling import byhand
from calling.byhand import NUM, OTHER, POLICY, PUSH
from steersman.core.requests import Request
from steersman.core.steerer import Policy
from steersman.core.types import Prompt, Read, Scope, Site
from steersman.operators.clamp import Clamp
from steersman.synthesizers.given import GivenVector

EQUAL = [
    Prompt(t) for t in ("how do i make the cup ?", "a b c no yes safe .", "the bomb : , no ? yes")
]
NET = oracle.policy(synthesizer=oracle.net(Read(Site(1))), scope=Scope.ALL, strength=3.0)
PROBED = oracle.policy(site=Site(0), synthesizer=oracle.net(Read(Site(2))), scope=Scope.ALL)
CAPPED = oracle.policy(OTHER, site=Site(2), scope=Scope.ALL, cap=0.3)
BOTH = Policy(steerers={"a": POLICY.steerers["s"], "b": CAPPED.steerers["s"]})
LATE = oracle.policy(OTHER, scope=Scope.GENERATED)
NEIGHBOURS = {
    "nobody else": [(None, 1.0), (None, 1.0)],
    "the same": [(POLICY, 1.0), (POLICY, 1.0)],
    "other strengths": [(POLICY, -3.0), (POLICY, 0.0)],
    "another policy": [(oracle.policy(OTHER), 2.0), (None, 1.0)],
    "one that reads": [(NET, 1.0), (POLICY, 0.5)],
    "one that is probed": [(PROBED, 1.0), (NET, 2.0)],
    "several steerers": [(BOTH, 1.0), (CAPPED, 1.0)],
    "other scopes": [(LATE, 1.0), (CAPPED, -1.0)],
}
OWN = {
    "static": (POLICY, 0.7),
    "reads": (NET, 1.0),
    "probed": (PROBED, 1.0),
    "several": (BOTH, 1.0),
    "late": (LATE, 1.0),
    "none": (None, 1.0),
}


@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("own", OWN.values(), ids=OWN)
def test_a_row_depends_on_no_neighbour_in_any_bit(own, place):
    model = byhand.llama()
    inputs = oracle.inputs_of(model, *EQUAL)
    assert bool(inputs["attention_mask"].all()), "all rows must have one length"
    found = []
    for kinds in NEIGHBOURS.values():
        kinds = [*kinds[:place], own, *kinds[place:]]
        with model.steer([k[0] for k in kinds], [k[1] for k in kinds]):
            tokens, logits = oracle.cached(model, inputs, NUM)
        found.append((tokens[place], logits[place]))
        others = [i for i in range(3) if i != place]
        found[-1] += (logits[others],)
    for tokens, logits, _ in found[1:]:
        assert torch.equal(tokens, found[0][0]) and torch.equal(logits, found[0][1])
    assert len({float(others.sum()) for *_, others in found}) == len(NEIGHBOURS)


def mixed() -> list[Request]:
    """Every prompt under several policies, strengths and lengths."""
    kinds = [*OWN.values(), (POLICY, 0.0), (POLICY, -1.5), (CAPPED, 2.0)]
    prompts = [*oracle.PROMPTS, *EQUAL]
    return [
        Request(prompts[i % len(prompts)], *kind, max_new_tokens=NUM)
        for i, kind in enumerate(kinds * 2)
    ]


def test_every_request_of_a_batch_is_as_if_it_were_alone():
    model, requests = byhand.llama(), mixed()
    for request, made in zip(requests, model.generate(requests), strict=True):
        alone = model.generate([request])[0]
        assert made.token_ids == alone.token_ids
        assert {n: t.tokens_written for n, t in made.trace.items()} == {
            n: t.tokens_written for n, t in alone.trace.items()
        }


def test_the_answers_are_those_by_hand():
    model = byhand.llama()
    kinds = [(POLICY, 1.0, PUSH), (None, 1.0, 0 * PUSH), (oracle.policy(OTHER), 0.5, 0.5 * OTHER)]
    kinds += [(POLICY, -1.0, -PUSH), (POLICY, 0.0, 0 * PUSH)]
    prompts = [*oracle.PROMPTS, *oracle.PROMPTS]
    requests = [
        Request(p, *k[:2], max_new_tokens=NUM) for p, k in zip(prompts, kinds, strict=False)
    ]
    for request, made, kind in zip(requests, model.generate(requests), kinds, strict=True):
        inputs = oracle.inputs_of(model, request.prompt)
        assert list(made.token_ids) == byhand.greedy(model, inputs, vector=kind[2])[0]
        assert bool(made.trace) == (kind[0] is not None and kind[1] != 0)


def test_vectors_that_come_with_the_requests():
    model, policy = byhand.llama(), oracle.policy(synthesizer=GivenVector())
    vectors = (PUSH, OTHER, -PUSH)
    requests = [
        Request(p, policy, vectors={"s": v}, max_new_tokens=NUM)
        for p, v in zip(oracle.PROMPTS, vectors, strict=True)
    ]
    made = model.generate([*requests, Request(oracle.PROMPTS[0], max_new_tokens=NUM)])
    for prompt, vector, completion in zip(
        [*oracle.PROMPTS, oracle.PROMPTS[0]], (*vectors, 0 * PUSH), made, strict=True
    ):
        inputs = oracle.inputs_of(model, prompt)
        assert list(completion.token_ids) == byhand.greedy(model, inputs, vector=vector)[0]


def test_another_operator_beside_additions():
    model = byhand.llama()
    clamped = replace(POLICY.steerers["s"], operator=Clamp(low=20.0, high=30.0))
    other = Policy(steerers={"s": clamped})
    inputs = oracle.inputs_of(model, *EQUAL[:2])
    with model.steer([other, POLICY]):
        mixed_rows = oracle.cached(model, inputs, NUM)
    with model.steer([other, None]):
        moved = oracle.cached(model, inputs, NUM)
    with model.steer([None, POLICY]):
        added = oracle.cached(model, inputs, NUM)
    assert torch.equal(mixed_rows[1][0], moved[1][0])
    assert torch.equal(mixed_rows[1][1], added[1][1])
    assert not torch.equal(moved[1][0], added[1][0])


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_images_in_a_batch(name):
    """Prompts with one image, another and none; scopes for image tokens and for text."""
    model = oracle.MODELS[name]()
    image_id = oracle.IMAGE_ID[name]
    prompts = [
        Prompt(oracle.LONG, images=(tiny.picture(),)),
        Prompt(oracle.LONG),
        Prompt(oracle.SHORT, images=(tiny.picture(1, 56),)),
        Prompt(oracle.SHORT, images=(tiny.picture(2),)),
    ]
    scopes = ("image", "last_and_generated", "text", "all")
    vector = 0.05 * PUSH
    requests = [
        Request(p, oracle.policy(vector, scope=oracle.scope_of(s)), max_new_tokens=4)
        for p, s in zip(prompts, scopes, strict=True)
    ]
    for request, scope, made in zip(requests, scopes, model.generate(requests), strict=True):
        inputs = oracle.inputs_of(model, request.prompt)

        def marks(ids, n, scope=scope):
            return oracle.marks(scope, ids, n, image_id)

        tokens, _ = byhand.greedy(model, inputs, 4, vector=vector, marks=marks)
        assert list(made.token_ids) == tokens
        marked = marks(
            [*inputs["input_ids"][0].tolist(), *tokens[:-1]], inputs["input_ids"].shape[1]
        )
        assert made.trace["s"].tokens_written == sum(marked)


def test_embeddings_instead_of_ids():
    model = byhand.llama()
    inputs = oracle.inputs_of(model, *oracle.PROMPTS)
    tokens, logits = oracle.cached(model, inputs, NUM)
    embedded = model.model.get_input_embeddings()(inputs["input_ids"]).detach()
    with model.steer([POLICY, oracle.policy(OTHER), None]), torch.no_grad():
        out = model.model.generate(
            inputs_embeds=embedded,
            attention_mask=inputs["attention_mask"],
            max_new_tokens=NUM,
            do_sample=False,
            pad_token_id=0,
        )
        forward = model.model(inputs_embeds=embedded, attention_mask=inputs["attention_mask"])
    for row, vector in enumerate((PUSH, OTHER, 0 * PUSH)):
        alone = oracle.inputs_of(model, oracle.PROMPTS[row])
        said, first = byhand.greedy(model, alone, vector=vector)
        assert out[row].tolist() == said
        assert byhand.close(forward.logits[row, -1], first[0], 1e-3)
    assert out[2].tolist() == tokens[2].tolist() and logits.shape[1] == NUM
