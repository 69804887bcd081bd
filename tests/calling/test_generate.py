"""The user's own calls of generate, forward and pipelines inside a `with`."""

import pytest
import torch
from transformers import pipeline

import oracle
import tiny
from calling import byhand
from calling.byhand import NUM, OTHER, POLICY, PUSH
from steersman.core.types import Prompt

PROMPTS = oracle.PROMPTS
SETTINGS = {
    "greedy": {},
    "sampling": {"do_sample": True, "temperature": 1.5, "top_k": 0},
    "several samples": {"do_sample": True, "num_return_sequences": 3},
    "beams": {"num_beams": 4},
    "several beams": {"num_beams": 4, "num_return_sequences": 2},
    "beams that sample": {"num_beams": 3, "do_sample": True},
    "penalties": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
}


def generated(model, inputs, **settings):
    torch.manual_seed(3)
    with torch.no_grad():
        out = model.model.generate(
            **inputs,
            **{"do_sample": False, **settings},
            max_new_tokens=NUM,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return out.sequences, torch.stack(out.logits, 1)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_generate_gives_what_a_plain_hook_gives(settings):
    model = byhand.llama()
    inputs = oracle.inputs_of(model, *PROMPTS)
    plain, _ = generated(model, inputs, **settings)
    with byhand.pushed(model):
        wanted, logits = generated(model, inputs, **settings)
    with model.steer(POLICY):
        made, steered = generated(model, inputs, **settings)
    assert torch.equal(made, wanted) and not torch.equal(made, plain)
    assert byhand.close(steered, logits)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_rows_keep_their_policies_when_generate_expands_them(settings):
    model = byhand.llama()
    inputs = oracle.inputs_of(model, *PROMPTS)
    copies = max(settings.get("num_beams", 1), settings.get("num_return_sequences", 1))
    vectors = torch.stack([0.5 * PUSH, torch.zeros(tiny.WIDTH), OTHER])
    with byhand.pushed(model, vectors.repeat_interleave(copies, 0)):
        wanted, logits = generated(model, inputs, **settings)
    with model.steer([POLICY, None, oracle.policy(OTHER)], [0.5, 1.0, 1.0]):
        made, steered = generated(model, inputs, **settings)
    assert torch.equal(made, wanted)
    assert byhand.close(steered, logits)


def test_greedy_answers_are_those_of_one_token_at_a_time_by_hand():
    model = byhand.llama()
    inputs = oracle.inputs_of(model, *PROMPTS)
    with model.steer(POLICY):
        made, logits = oracle.cached(model, inputs, NUM)
    for row, prompt in enumerate(PROMPTS):
        tokens, wanted = byhand.greedy(model, oracle.inputs_of(model, prompt))
        assert made[row].tolist() == tokens == byhand.alone(model, prompt)
        assert byhand.close(logits[row], wanted)


def test_a_bare_forward_is_steered_at_the_prompts_last_token():
    model = byhand.llama()
    inputs = oracle.inputs_of(model, PROMPTS[0])
    with byhand.pushed(model), torch.no_grad():
        wanted = model.model(**inputs).logits
    with model.steer(POLICY), torch.no_grad():
        made = model.model(**inputs).logits
    assert torch.equal(made, wanted)


def test_a_text_pipeline_is_steered():
    model = byhand.llama()
    pipe = pipeline("text-generation", model=model.model, tokenizer=model.chat.tokenizer)
    texts = [model.chat.text(p) for p in PROMPTS]

    def run(**settings):
        made = pipe(texts, max_new_tokens=NUM, do_sample=False, return_tensors=True, **settings)
        return [row[0]["generated_token_ids"][-NUM:] for row in made]

    plain = run()
    for settings in ({}, {"batch_size": 3}):
        with model.steer(POLICY):
            made = run(**settings)
        for row, prompt in enumerate(PROMPTS):
            tokens, _ = byhand.greedy(model, oracle.inputs_of(model, prompt))
            assert made[row] == tokens
        assert made != plain


def test_an_image_pipeline_is_steered():
    model = oracle.MODELS["llava"]()
    image, policy = tiny.picture(), oracle.policy(2 * PUSH)
    talk = [
        {
            "role": "user",
            "content": [{"type": "image", "image": image}, {"type": "text", "text": oracle.SHORT}],
        }
    ]
    pipe = pipeline("image-text-to-text", model=model.model, processor=model.chat.processor)
    settings = {"generate_kwargs": {"do_sample": False, "max_new_tokens": NUM}}

    def run():
        return pipe(text=talk, return_full_text=False, **settings)[0]["generated_text"].strip()

    plain = run()
    with model.steer(policy):
        made = run()
    prompt = Prompt(oracle.SHORT, images=(image,))
    tokens, _ = byhand.greedy(model, oracle.inputs_of(model, prompt), vector=2 * PUSH)
    assert made == model.chat.decode(tokens) != plain
