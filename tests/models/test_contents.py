"""A digest for caches: the same for the same model, and another after the smallest change."""

import copy

import peft
import pytest
import torch
from tokenizers import normalizers

import tiny
from steersman.backends.cached import CachedModel
from steersman.backends.hf import HFModel
from steersman.core.types import Prompt, Site
from steersman.data.store import RowStore
from steersman.models.contents import Contents


@pytest.fixture(params=["llama", "llava"])
def parts(request):
    """A model and its processor, to be changed at will."""
    whole = {"llama": tiny.llama, "llava": tiny.llava}[request.param]()
    return copy.deepcopy(whole.model), copy.deepcopy(whole.chat.processor)


def words(processor):
    return getattr(processor, "tokenizer", processor)


def test_a_copy_has_the_same_digest_and_use_does_not_change_it(parts):
    model, processor = parts
    before = Contents(*parts).digest()
    assert Contents(copy.deepcopy(model), copy.deepcopy(processor)).digest() == before
    words(processor)(["a", "b c"], padding=True, truncation=True, max_length=1)
    assert Contents(model, processor).digest() == before


def test_one_number_that_a_fingerprint_does_not_sample_is_noticed(parts):
    model, processor = parts
    whole = HFModel(model, processor)
    contents, before = Contents(model, processor), Contents(model, processor).digest()
    assert contents.digest() == before
    with torch.no_grad():
        model.get_input_embeddings().weight[3, 5] += 1e-6
    assert contents.digest() == Contents(model, processor).digest() != before
    assert HFModel(model, processor).spec.fingerprint == whole.spec.fingerprint


def test_a_weight_that_is_replaced_is_noticed(parts):
    model, processor = parts
    contents = Contents(model, processor)
    before = contents.digest()
    weight = model.get_input_embeddings().weight
    weight.data = weight.data * 2
    assert contents.digest() != before


def test_how_text_is_split_is_part_of_it(parts):
    model, processor = parts
    before = Contents(model, processor).digest()
    words(processor).backend_tokenizer.normalizer = normalizers.Lowercase()
    assert Contents(model, processor).digest() != before


def test_how_a_processor_counts_image_tokens_is_part_of_it():
    model, processor = tiny.llava().model, copy.deepcopy(tiny.llava().chat.processor)
    before = Contents(model, processor).digest()
    processor.num_additional_image_tokens = 0
    assert Contents(model, processor).digest() != before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_every_number_type_can_be_summed(parts, dtype):
    model, processor = parts
    before = Contents(model, processor).digest()
    assert Contents(model.to(dtype), processor).digest() != before


def test_rows_of_a_model_are_not_taken_for_those_of_an_edited_one(tmp_path):
    model = copy.deepcopy(tiny.llama().model)
    engine = HFModel(model, tiny.llama().chat.processor)
    cached = CachedModel(engine, RowStore(tmp_path))
    asked = ([Prompt("how do i ?")], [Site(1)])
    before = cached.capture(*asked)[Site(1)]
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[:, 3] = 0
    after = cached.capture(*asked)[Site(1)]
    assert torch.equal(after, engine.capture(*asked)[Site(1)]) and not torch.equal(before, after)


def test_settings_are_looked_at_each_time(parts):
    model, processor = parts
    contents = Contents(model, processor)
    seen = [contents.digest()]
    processor.chat_template = "{{ messages[0]['content'] }}"
    seen.append(contents.digest())
    model.generation_config.repetition_penalty = 2.0
    seen.append(contents.digest())
    model.config.initializer_range = 0.3
    seen.append(contents.digest())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen.append(contents.digest())
    assert len(set(seen)) == len(seen)
    assert contents.digest() == Contents(model, processor).digest() == seen[-2]


def test_adapters_that_are_switched_are_noticed(parts):
    model, processor = parts
    lora = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    tuned = peft.get_peft_model(model, lora, adapter_name="first")
    tuned.add_adapter("second", lora)
    contents = Contents(model, processor)
    seen = [contents.digest()]
    tuned.set_adapter("second")
    seen.append(contents.digest())
    with tuned.disable_adapter():
        seen.append(contents.digest())
    assert len(set(seen)) == len(seen)
    tuned.set_adapter("first")
    assert contents.digest() == Contents(model, processor).digest() == seen[0]


def test_rows_read_through_one_adapter_are_not_taken_for_anothers(tmp_path):
    made = tiny.llama()
    model = copy.deepcopy(made.model)
    lora = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    tuned = peft.get_peft_model(model, lora, adapter_name="first")
    tuned.add_adapter("second", lora)
    given, site, store = [Prompt("a b c")], Site(1), RowStore(tmp_path)
    for name in ("first", "second"):
        tuned.set_adapter(name)
        engine = HFModel(tuned, made.chat.processor)
        kept = CachedModel(engine, store).capture(given, [site])[site]
        assert torch.equal(kept, engine.capture(given, [site])[site])
