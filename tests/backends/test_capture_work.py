"""What capture runs, and what it does not: tokens, blocks, image encoders, heads, and memory."""

from copy import deepcopy
from dataclasses import replace

import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import tiny
from oracle import hand_hook
from steersman.backends import passes, windows
from steersman.backends.continued import Prefix
from steersman.backends.engine import Reading
from steersman.backends.hf import HFModel
from steersman.backends.proof import SharingWarning
from steersman.core.errors import ModelError, RecipeError
from steersman.core.types import Position, Prompt, Site

ASKED = ("how do i make a cup ?", "how do i make the bomb ?", "a b c ?", "the cup , the bomb .")
SAID = ("yes , a", "no . the")
SITE = Site(1)
READ = Position("completion", "last")


def fresh(make=tiny.llama, **settings) -> HFModel:
    """Of the same weights, and nothing proved or measured yet."""
    made = make()
    return HFModel(made.model, made.chat.processor, id=made.spec.id, **settings)


def own_weights() -> HFModel:
    """With weights that a test may change."""
    made = tiny.llama()
    return HFModel(deepcopy(made.model), made.chat.processor, id=made.spec.id)


def proved(model, *prompts) -> HFModel:
    """The model once it knows what it may share."""
    model.capture(prompts, [SITE])
    return model


def pairs(images=False):
    return [
        Prompt(asked, (tiny.picture(i),) if images else (), completion=said)
        for i, asked in enumerate(ASKED)
        for said in SAID
    ]


def distinct(model, prompts):
    """Tokens that must run: each prompt once, and each completion."""
    rows = [model.chat.rows([p]) for p in prompts]
    once = {
        (p.text, tuple(image.tobytes() for image in p.images)): r.prompt_length[0]
        for p, r in zip(prompts, rows, strict=True)
    }
    said = sum(len(r.rows[0]["input_ids"]) - r.prompt_length[0] for r in rows)
    return sum(once.values()) + said


def read(model, prompts, known=()):
    return list(model.read(prompts, model.windows(prompts), Reading((SITE,), READ), known))


def counted(module, act):
    """How often a module runs while `act` does something."""
    seen = []
    handle = module.register_forward_hook(lambda *_: seen.append(1))
    try:
        act()
    finally:
        handle.remove()
    return len(seen)


@pytest.mark.parametrize("images", [False, True])
def test_every_distinct_token_runs_once(images):
    given = pairs(images)
    model = proved(fresh(tiny.llava), *given)
    assert sum(piece.num_tokens for piece in read(model, given)) == distinct(model, given)


def test_states_are_what_transformers_calls_hidden_states():
    model, given = fresh(), pairs()
    sites = [Site(0, "resid_pre"), Site(0), Site(1), Site(2, "resid_pre")]
    found = model.capture(given, sites, READ)
    for i, prompt in enumerate(given):
        inputs = model.chat.encode([prompt]).inputs
        with torch.no_grad():
            hidden = model.model(**inputs, output_hidden_states=True).hidden_states
        for site in sites:
            wanted = hidden[site.layer + (site.point == "resid_post")][0, -1]
            assert torch.allclose(found[site][i], wanted, atol=1e-5)


def test_an_image_is_encoded_once_for_all_prompts_about_it():
    model, picture = fresh(tiny.llava), tiny.picture()
    copies = [picture, picture.copy()]
    given = [
        Prompt(asked, (copies[i % 2],), completion=said)
        for i, asked in enumerate(ASKED)
        for said in SAID
    ]
    proved(model, *given)
    assert counted(model.model.model.vision_tower, lambda: read(model, given)) == 1


def test_images_are_processed_once_for_both_completions(monkeypatch):
    given = pairs(images=True)
    model, seen = proved(fresh(tiny.llava), *given), []
    processor = type(model.chat.processor.image_processor)
    called = processor.preprocess

    def watched(self, images, *args, **more):
        seen.append(len(images))
        return called(self, images, *args, **more)

    monkeypatch.setattr(processor, "preprocess", watched)
    at = model.windows(given)
    seen.clear()
    list(model.read(given, at, Reading((SITE,), READ)))
    assert sum(seen) == len(ASKED)


def test_no_block_behind_the_site_runs_and_no_head():
    model, given = fresh(), pairs()
    behind = [model.blocks.layers[2], model.model.lm_head, model.blocks.final_norm]
    assert [counted(m, lambda: model.capture(given, [SITE], READ)) for m in behind] == [0, 0, 0]


def test_the_last_block_leaves_tokens_alone_that_others_only_look_at():
    given = pairs()
    model, widths = proved(fresh(), *given), []
    with hand_hook(model.blocks.layers[1].mlp, lambda h: widths.append(h.shape[1]) or h):
        read(model, given)
    longest = max(
        len(model.chat.rows([replace(p, completion=None)]).rows[0]["input_ids"]) for p in given
    )
    assert widths and max(widths) < longest


def test_windows_depend_on_the_prompts_alone_and_hold_each_once(monkeypatch):
    monkeypatch.setattr(windows, "WINDOW", 3)
    model, given = fresh(tiny.llava), [*pairs(), *pairs(images=True), *pairs()]
    made = model.windows(given)
    assert sorted(i for window in made for i in window) == list(range(len(given)))
    assert made == fresh(tiny.llava).windows(given)
    assert max(map(len, made)) <= 3


def test_rows_come_in_the_order_of_the_prompts_with_repeats(monkeypatch):
    monkeypatch.setattr(windows, "WINDOW", 4)
    model, given = fresh(tiny.llava), [*pairs(True), *pairs(), *pairs(True)[::-1], *pairs()[:3]]
    together = model.capture(given, [SITE], READ)[SITE]
    for i, prompt in enumerate(given):
        alone = model.capture([prompt], [SITE], READ)[SITE]
        assert torch.allclose(together[i], alone[0], atol=1e-5)


def test_known_prompts_are_not_run(monkeypatch):
    monkeypatch.setattr(windows, "WINDOW", 2)
    given = pairs()
    model = proved(fresh(), *given)
    pieces = read(model, given, known=range(4))
    assert sorted(i for piece in pieces for i in piece.prompts) == [4, 5, 6, 7]


def test_pieces_do_not_depend_on_what_is_known(monkeypatch):
    monkeypatch.setattr(windows, "WINDOW", 4)
    given = pairs()
    model = proved(fresh(token_budget=32), *given)
    whole = {p.prompts: p.states[SITE] for p in read(model, given)}
    some = read(model, given, known=next(iter(whole)))
    assert 0 < len(some) < len(whole)
    assert all(torch.equal(p.states[SITE], whole[p.prompts]) for p in some)


def crowded(model, monkeypatch, most):
    """A model that runs out of memory where more tokens than `most` run at once."""
    called, sizes = model.model.forward, []

    def forward(*args, input_ids, **more):
        if input_ids.numel() > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        sizes.append(input_ids.numel())
        return called(*args, input_ids=input_ids, **more)

    monkeypatch.setattr(model.model, "forward", forward)
    return sizes


def test_batches_shrink_until_they_fit_into_memory(monkeypatch):
    given = pairs()
    wanted = fresh().capture(given, [SITE], READ)[SITE]
    model = proved(fresh(), *given)
    sizes = crowded(model, monkeypatch, most=30)
    assert torch.allclose(model.capture(given, [SITE], READ)[SITE], wanted, atol=1e-5)
    assert sizes and max(sizes) <= 30
    fits = len(sizes)
    model.capture(given, [SITE], READ)
    assert len(sizes) > fits  # and the smaller batches are remembered: nothing fails again


def test_a_prompt_that_alone_does_not_fit_is_told(monkeypatch):
    model = proved(fresh(), *pairs())
    crowded(model, monkeypatch, most=3)
    with pytest.raises(ModelError, match="not enough memory to read one prompt of 1. tokens"):
        model.capture(pairs(), [SITE], READ)


def test_other_failures_are_not_taken_for_want_of_memory(monkeypatch):
    model = proved(fresh(), *pairs())
    monkeypatch.setattr(
        model.model, "forward", lambda **_: (_ for _ in ()).throw(RuntimeError("no"))
    )
    with pytest.raises(RuntimeError, match="^no$"):
        model.capture(pairs(), [SITE], READ)


def test_what_sites_may_share_is_tried_once_for_each_set_of_them():
    model, given = fresh(), pairs()
    proof, sets = model._capture.proof, [(Site(0),), (Site(2),), (SITE, Site(0, "attn_out"))]
    for sites in sets:
        model.capture(given, sites, READ)
    assert proof.right == {("completions", sites) for sites in sets}
    seen = counted(model.blocks.layers[0], lambda: model.capture(given, sets[1], READ))
    assert seen == 2  # prompts, then completions: nothing is tried again


def test_answers_are_read_token_by_token_by_prompt():
    model, given = fresh(), pairs()
    found = model.answer_states(given)
    assert found.row.tolist() == sorted(found.row.tolist())
    for i, prompt in enumerate(given):
        alone = model.answer_states([prompt])
        mine = found.row == i
        assert found.next_token[mine].tolist() == alone.next_token.tolist()
        assert torch.allclose(found.states[mine], alone.states, atol=1e-5)


def test_a_prompt_without_a_completion_has_no_answer_to_read():
    with pytest.raises(RecipeError, match="reads the completion, and a prompt has no token there"):
        fresh().answer_states([Prompt("a b c")])


def test_an_empty_prompt_has_nothing_that_an_answer_follows_from():
    with pytest.raises(RecipeError, match="a prompt is empty"):
        fresh(lambda: tiny.llama(0, None)).answer_states([Prompt("", completion="yes no")])


@pytest.mark.parametrize("reduce", ["last", "mean"])
def test_fewer_than_no_tokens_cannot_be_skipped(reduce):
    with pytest.raises(RecipeError, match="skip_last is -1; write 0"):
        fresh().capture(pairs(), [SITE], Position("completion", reduce, -1))


def test_a_model_in_training_is_not_read():
    model = own_weights()
    proved(model, *pairs()).model.train()
    with pytest.raises(ModelError, match="in training mode.*Call model.eval"):
        model.capture(pairs(), [SITE], READ)


def test_adapters_that_drop_nothing_are_read_before_they_were_put_in_evaluation():
    model = own_weights()
    for dropout in (0.0, 0.5):
        lora = peft.LoraConfig(target_modules=["q_proj"], lora_dropout=dropout)
        tuned = peft.get_peft_model(deepcopy(model.model), lora)
        made = HFModel(tuned, model.chat.processor)
        if dropout:
            with pytest.raises(ModelError, match="in training mode"):
                made.capture(pairs(), [SITE], READ)
        else:
            assert same_as_alone(made, pairs())


def same_as_alone(model, given, sites=(SITE,)):
    together = model.capture(given, sites, READ)
    alone = [model.capture([prompt], sites, READ) for prompt in given]
    return all(
        torch.allclose(together[site], torch.cat([a[site] for a in alone]), atol=1e-5)
        for site in sites
    )


def test_pictures_with_the_same_indices_and_other_colours_are_read_each():
    pictures = [tiny.picture().convert("P") for _ in range(2)]
    pictures[1].putpalette(bytes(range(255, -1, -1)) * 3)
    assert pictures[0].tobytes() == pictures[1].tobytes()
    given = [Prompt("a b", (image,), completion=said) for image in pictures for said in SAID]
    assert same_as_alone(fresh(tiny.llava), given)


def test_texts_of_several_lengths_are_read_as_alone_where_positions_have_several_axes():
    assert same_as_alone(fresh(tiny.qwen2_vl), pairs())


@pytest.mark.parametrize("limit", [2, 14, 60])
def test_texts_beyond_the_length_where_angles_change_are_read_as_alone(limit):
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 8.0}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 4.0, 5.0]}
    rope |= {"original_max_position_embeddings": limit}
    sizes = tiny.llama().model.config.vocab_size
    config = LlamaConfig(vocab_size=sizes, rope_parameters=rope, **tiny.TEXT)
    torch.manual_seed(0)
    model = HFModel(LlamaForCausalLM(config).eval(), tiny.tokenizer())
    longer = [
        Prompt(f"{ASKED[0]} {'a cup . ' * (i + 3)}", completion=said * 4)
        for i in range(6)
        for said in SAID
    ]
    assert same_as_alone(model, [*pairs(), *longer])


def test_sharing_that_is_wrong_behind_padding_alone_is_noticed(monkeypatch):
    called = passes.places_of

    def counts_padding(model, inputs):
        found = called(model, inputs)
        return found._replace(behind=torch.full_like(found.behind, inputs["input_ids"].shape[1]))

    monkeypatch.setattr(passes, "places_of", counts_padding)
    model = fresh(tiny.qwen2_vl)
    with pytest.warns(SharingWarning, match="one by one"):
        model.capture(pairs()[:2], [SITE], READ)
    assert same_as_alone(model, pairs())


@pytest.mark.parametrize("beside", [True, False])
def test_what_a_block_adds_is_proved_for_itself_where_the_stream_hides_it(monkeypatch, beside):
    model = own_weights()
    with torch.no_grad():
        model.model.get_input_embeddings().weight *= 1e6
    called = Prefix.forked

    def forgets(self, rows):
        made = called(self, rows)
        for layer in made.layers:
            if layer.is_initialized:
                layer.values = torch.zeros_like(layer.values)
        return made

    monkeypatch.setattr(Prefix, "forked", forgets)
    half = Site(1, "attn_out")
    if not beside:
        proved(model, *pairs())
        assert not model.notes
    with pytest.warns(SharingWarning, match=r"states at attn_out\[1\] came out"):
        model.capture(pairs(), [SITE, half], READ)
    assert same_as_alone(model, pairs(), [half])
