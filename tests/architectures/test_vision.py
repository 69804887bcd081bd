"""Vision-language architectures: read, steered, fitted and loaded, against hooks by hand."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

import oracle
import steersman
import tiny
from architectures.architecture import POINTS, Architecture
from architectures.vision import BY_NAME, VISION, prompts_for, requests_for
from steersman.core.errors import ModelError, NotSteeredError, RecipeError
from steersman.core.io import Artifact
from steersman.core.requests import Request
from steersman.core.steerer import Policy
from steersman.core.types import Prompt, Scope, Site
from steersman.data.prompts import to_prompt
from steersman.data.rows import Dataset
from steersman.methods.l2s import L2S
from steersman.methods.mean import MeanVector
from steersman.methods.net_training import NetTraining
from steersman.models.image_tokens import image_token
from toy import READ, RULE, SITE, rows

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning",  # GLM-4V's processor, of tensors
    "ignore:`hidden_state` is deprecated:FutureWarning",  # Mllama's vision tower, of itself
    "ignore::steersman.backends.proof.SharingWarning",  # test_sharing.py looks at it
)
LAYERS, WIDTH, CROSS = 3, tiny.WIDTH, Site(2)
VECTOR = torch.randn(WIDTH, generator=torch.Generator().manual_seed(5))
BLOCKS = {  # where the blocks of the language model are, told by hand
    "Idefics3": "model.text_model.layers",
    "SmolVLM": "model.text_model.layers",
    "Idefics2": "model.text_model.layers",
    "Chameleon": "model.layers",
    "BLIP-2": "language_model.model.decoder.layers",
}
every = pytest.mark.parametrize("architecture", VISION, ids=[a.name for a in VISION])


def blocks_by_hand(architecture: Architecture) -> torch.nn.ModuleList:
    path = BLOCKS.get(architecture.name, "model.language_model.layers")
    return architecture.build().model.get_submodule(path)


def image_marks(architecture: Architecture, inputs) -> torch.Tensor:
    """Where the ids say that an image is, `(b, s)`."""
    token = image_token(architecture.build().model.config)
    ids = inputs["input_ids"]
    return torch.zeros_like(ids).bool() if token is None else ids == token


@torch.no_grad()
def logits_by_hand(architecture: Architecture, inputs, marked, layer: int = 1) -> torch.Tensor:
    """Of plain transformers, with the vector added behind a block where tokens are marked."""

    def edit(h):
        return torch.where(marked[..., None], h + VECTOR, h)

    with oracle.hand_hook(blocks_by_hand(architecture)[layer], edit):
        return architecture.build().model(**inputs, use_cache=False).logits


@torch.no_grad()
def logits_steered(model, inputs, **fields) -> torch.Tensor:
    with model.steer(oracle.policy(VECTOR, **fields)):
        return model.model(**inputs, use_cache=False).logits


@contextmanager
def running_order(modules):
    """The indices of modules in the order in which they run."""
    seen: list[int] = []
    handles = [
        m.register_forward_hook(lambda *_, i=i: seen.append(i)) for i, m in enumerate(modules)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@every
def test_the_blocks_are_the_language_models_and_run_once_each_in_order(architecture):
    model, prompt = architecture.build(), prompts_for(architecture)[-1]
    blocks = model.blocks
    assert list(blocks.layers) == list(blocks_by_hand(architecture))
    assert type(model.model).__name__ == architecture.model_class
    assert (len(blocks.layers), blocks.d_model, blocks.num_heads) == (LAYERS, WIDTH, 4)
    inputs = oracle.inputs_of(model, prompt)
    with running_order([*blocks.layers, blocks.final_norm]) as seen:
        plain = oracle.plain_logits(model, inputs)
    assert seen == [0, 1, 2, 3]
    head_in = oracle.hand_state(model, inputs, blocks.final_norm)
    possible = plain[0] > torch.finfo(plain.dtype).min  # Chameleon never says an image's token
    assert torch.allclose(model.logits(head_in[0])[possible], plain[0][possible], atol=1e-4)


@every
def test_what_is_captured_is_what_came_out_of_the_block_alone_and_in_a_batch(architecture):
    model, prompts = architecture.build(), prompts_for(architecture)
    sites = [Site(0), Site(1), Site(2, "head_in")]
    together = model.capture(prompts, sites)
    for i, prompt in enumerate(prompts):
        alone = model.capture([prompt], sites)
        inputs = oracle.inputs_of(model, prompt)
        block = oracle.hand_state(model, inputs, blocks_by_hand(architecture)[1])
        assert torch.allclose(alone[Site(1)][0], block[0, -1], atol=1e-5)
        for site in sites:
            assert torch.allclose(together[site][i], alone[site][0], rtol=1e-4, atol=1e-4)


@every
def test_an_image_is_seen(architecture):
    model, last = architecture.build(), Site(2)
    red, blue = (Prompt("a b", images=(tiny.picture(seed),)) for seed in (0, 1))
    first, second = model.capture([red, blue], [last])[last]
    assert (first - second).abs().max() > 1e-4 * first.abs().max()


@every
def test_steered_logits_are_those_of_a_hook_by_hand_on_every_token_or_the_images(architecture):
    model = architecture.build()
    for prompt in prompts_for(architecture):
        inputs = oracle.inputs_of(model, prompt)
        plain = oracle.plain_logits(model, inputs)
        everywhere = torch.ones_like(inputs["input_ids"]).bool()
        by_hand = logits_by_hand(architecture, inputs, everywhere)
        steered = logits_steered(model, inputs, scope=Scope.ALL)
        assert torch.allclose(steered, by_hand, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(steered, plain, rtol=1e-3, atol=1e-3)
        images = image_marks(architecture, inputs)
        if architecture.name == "BLIP-2":  # embeds the ids itself; `generate` is told of them
            with pytest.raises(ModelError, match="embeddings without ids"):
                logits_steered(model, inputs, scope=Scope.IMAGE)
        elif images.any():
            by_hand = logits_by_hand(architecture, inputs, images)
            steered = logits_steered(model, inputs, scope=Scope.IMAGE)
            assert torch.allclose(steered, by_hand, rtol=1e-4, atol=1e-4)
            assert not torch.allclose(steered, plain, rtol=1e-3, atol=1e-3)


@every
def test_a_scope_of_image_tokens_names_exactly_them(architecture):
    model, prompt = architecture.build(), prompts_for(architecture)[-1]
    marked = image_marks(architecture, oracle.inputs_of(model, prompt))
    request = Request(prompt, oracle.policy(VECTOR, scope=Scope.IMAGE), max_new_tokens=2)
    if architecture.name == "Llama 3.2 Vision":
        assert not marked.any()
        with pytest.raises(NotSteeredError, match="names none of the tokens"):
            model.generate([request])
        return
    (answer,) = model.generate([request])
    assert answer.trace["s"].tokens_written == int(marked.sum()) > 0
    request = replace(request, policy=oracle.policy(VECTOR, scope=replace(Scope.TEXT, stop=0)))
    (answer,) = model.generate([request])
    assert answer.trace["s"].tokens_written == int((~marked).sum())


@every
def test_text_and_images_are_answered_in_one_batch_as_alone(architecture):
    model = architecture.build()
    requests = [
        *requests_for(architecture, None),
        *requests_for(architecture, oracle.policy(4 * VECTOR)),
    ]
    together = model.generate(requests)
    alone = [model.generate([request])[0] for request in requests]
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]
    half = len(requests) // 2
    for request, plain, steered in zip(requests, together, together[half:], strict=False):
        assert not plain.trace and steered.trace["s"].tokens_written == 3
        said = oracle.cached(model, oracle.inputs_of(model, request.prompt), num=3)[0]
        assert plain.token_ids == tuple(said[0].tolist())
    assert [c.token_ids for c in together[:half]] != [c.token_ids for c in together[half:]]


def pictured(num: int) -> Dataset:
    """The toy rows, every other one with an image."""
    made = [
        replace(row, image=tiny.picture(i)) if i % 2 else row for i, row in enumerate(rows(num))
    ]
    return Dataset.of(made)


def seen_by(architecture: Architecture, num: int) -> Dataset:
    if architecture.text_alone:
        return pictured(num)
    return Dataset.of([replace(row, image=tiny.picture(i)) for i, row in enumerate(rows(num))])


def fitted_saved_and_loaded(architecture: Architecture, method, num: int, folder) -> None:
    """The policy that was fitted and the one that was read again give the same answers."""
    model, data = architecture.build(), seen_by(architecture, num)
    policy = Policy(steerers={"s": method.fit(model, data)})
    steersman.save_artifact(Artifact(policy=policy, model=model.spec), folder)
    loaded = steersman.load_artifact(folder, model.spec).policy
    prompts = [to_prompt(row) for row in data.rows[:4]]
    first, second = (
        model.generate([Request(p, used, max_new_tokens=2) for p in prompts])
        for used in (policy, loaded)
    )
    assert [c.token_ids for c in first] == [c.token_ids for c in second]
    assert [c.trace for c in first] == [c.trace for c in second]
    assert all(c.trace["s"].tokens_written > 0 for c in first)


@every
def test_a_mean_vector_is_fitted_on_images_saved_and_loaded(architecture, tmp_path):
    method = MeanVector(site=SITE, contrasts=RULE)
    fitted_saved_and_loaded(architecture, method, 6, tmp_path / "mean")


@pytest.mark.slow
@every
def test_a_steering_network_is_fitted_on_images_saved_and_loaded(architecture, tmp_path):
    method = L2S(site=SITE, context=READ, contrasts=RULE, net=NetTraining(hidden=8, epochs=5))
    fitted_saved_and_loaded(architecture, method, 12, tmp_path / "l2s")


@every
def test_a_forced_beginning_of_the_answer_goes_on_as_if_the_model_had_said_it(architecture):
    model = architecture.build()
    words = model.chat.tokenizer.convert_ids_to_tokens
    for prompt in prompts_for(architecture):
        (said,) = model.generate([Request(prompt, max_new_tokens=4)])
        begun = replace(prompt, completion=" ".join(words(list(said.token_ids[:2]))))
        (rest,) = model.generate([Request(begun, max_new_tokens=2)])
        assert rest.token_ids == said.token_ids[2:]


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
@every
def test_every_point_is_written_as_by_hand_or_refused(architecture, point):
    model, site = architecture.build(), Site(LAYERS - 1 if point == "head_in" else 1, point)
    if point not in architecture.points:
        with pytest.raises(ModelError, match="is not to be had"):
            model.capture(prompts_for(architecture)[-1:], [site])
        return
    tap = model.blocks.tap(site)
    for prompt in prompts_for(architecture):
        inputs = oracle.inputs_of(model, prompt)
        steered = logits_steered(model, inputs, site=site, scope=Scope.ALL)
        with written_by_hand(tap.module, before=tap.before):
            by_hand = oracle.plain_logits(model, inputs)
        assert torch.allclose(steered, by_hand, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(steered, oracle.plain_logits(model, inputs), atol=1e-4)
    requests = [
        Request(p, oracle.policy(VECTOR, site=site), max_new_tokens=2)
        for p in prompts_for(architecture)
    ]
    together = model.generate(requests)
    assert [c.token_ids for c in together] == [model.generate([r])[0].token_ids for r in requests]
    assert all(c.trace["s"].tokens_written == 2 for c in together)


@contextmanager
def written_by_hand(module: torch.nn.Module, *, before: bool):
    """Adds the vector to what goes into a module, or to what comes out of it."""
    if not before:
        with oracle.hand_hook(module, lambda h: h + VECTOR):
            yield
        return

    def add(_module, args, kwargs):
        if args:
            return (args[0] + VECTOR, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"] + VECTOR}

    handle = module.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def test_the_cross_attention_blocks_of_mllama_are_layers_that_text_does_not_run():
    architecture = BY_NAME["Llama 3.2 Vision"]
    model = architecture.build()
    text, *_, seeing = prompts_for(architecture)
    inputs = oracle.inputs_of(model, seeing)
    by_hand = logits_by_hand(
        architecture, inputs, torch.ones_like(inputs["input_ids"]).bool(), CROSS.layer
    )
    steered = logits_steered(model, inputs, site=CROSS, scope=Scope.ALL)
    assert torch.allclose(steered, by_hand, rtol=1e-4, atol=1e-4)
    with pytest.raises(ModelError, match="did not run"):
        model.capture([seeing, text], [CROSS])
    with pytest.raises(NotSteeredError):
        model.generate([Request(text, oracle.policy(VECTOR, site=CROSS), max_new_tokens=2)])
    for point in ("attn_out", "mlp_out", "attn_heads"):
        with pytest.raises(ModelError, match="is not to be had in MllamaCrossAttention"):
            model.capture([seeing], [Site(CROSS.layer, point)])


def test_models_that_need_an_image_refuse_prompts_without_one():
    text = Prompt("how do i ?")
    with pytest.raises(ModelError, match="PaliGemmaProcessor could not process .*images"):
        BY_NAME["PaliGemma"].build().capture([text], [SITE])
    with pytest.raises(RecipeError, match="no image, but this model cannot run without one"):
        BY_NAME["BLIP-2"].build().capture([text], [SITE])


def test_a_model_of_one_image_refuses_two():
    """transformers would read the images of one prompt into the next."""
    two = Prompt("a b", images=(tiny.picture(), tiny.picture(1)))
    with pytest.raises(RecipeError, match="several images, but this model reads one"):
        BY_NAME["BLIP-2"].build().capture([two], [SITE])


@pytest.mark.parametrize(
    "architecture", [a for a in VISION if a.name != "BLIP-2"], ids=lambda a: a.name
)
def test_two_images_of_a_prompt_are_both_seen_alone_and_beside_one(architecture):
    model, site = architecture.build(), Site(2)
    first, second, third = (tiny.picture(i) for i in range(3))
    seen = [(first, second), (first, third), (third, second), (first,)]
    prompts = [Prompt("a b", images=images) for images in seen]
    together = model.capture(prompts, [site])[site]
    alone = torch.cat([model.capture([prompt], [site])[site] for prompt in prompts])
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-4)
    for other in alone[1:]:
        assert (alone[0] - other).abs().max() > 1e-5 * alone[0].abs().max()


def test_no_turn_is_closed_without_a_template():
    closed = Prompt("a b", images=(tiny.picture(),), completion="yes", close_turn=True)
    for name in ("Chameleon", "PaliGemma", "BLIP-2"):
        with pytest.raises(RecipeError, match="no template. Leave close_turn out"):
            BY_NAME[name].build().capture([closed], [SITE])


def test_separators_that_a_processor_adds_are_read_with_and_without_an_image():
    model = BY_NAME["Chameleon"].build()
    separator = model.chat.tokenizer.sep_token_id
    for prompt in (Prompt("a b"), Prompt("a b", images=(tiny.picture(),))):
        assert model.chat.encode([prompt]).inputs["input_ids"][0, -1] == separator
