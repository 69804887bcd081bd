"""The same model is recognised whatever it is loaded in; another one is not."""

from copy import deepcopy

import pytest
import torch
from transformers import AutoModelForCausalLM

import tiny
from steersman.models.fingerprint import _weights, fingerprint


def of(model):
    return fingerprint(model.model, model.chat.processor)


def different(first, second):
    return {k for k in first if first[k] != second[k]}


@pytest.mark.parametrize("make", [tiny.llama, tiny.llava, tiny.qwen2_vl])
def test_it_repeats_and_another_seed_has_other_weights(make):
    model = make()
    assert of(model) == model.spec.fingerprint == of(model)
    assert set(of(model)) == {"config", "weights", "chat_template", "processor"}
    assert different(of(model), of(make(seed=20))) == {"weights"}


def test_the_type_that_it_is_loaded_in_does_not_matter(tmp_path):
    model = tiny.llama()
    model.model.save_pretrained(tmp_path)
    hashes = [
        fingerprint(AutoModelForCausalLM.from_pretrained(tmp_path, **how), model.chat.tokenizer)
        for how in (
            {"dtype": torch.float32},
            {"dtype": torch.bfloat16},
            {"dtype": torch.float32, "attn_implementation": "eager"},
        )
    ]
    assert different(hashes[0], hashes[1]) == set() == different(hashes[0], hashes[2])


def test_trained_further_it_is_another_model():
    model = deepcopy(tiny.llama().model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    assert different(of(tiny.llama()), fingerprint(model, tiny.tokenizer())) == {"weights"}


def test_a_changed_template_changes_its_own_hash_only():
    words = tiny.tokenizer(tiny.TEMPLATE + " ")
    assert different(of(tiny.llama()), fingerprint(tiny.llama().model, words)) == {"chat_template"}


def test_a_changed_image_size_changes_the_processors_hash_only():
    model = tiny.llava()
    processor = deepcopy(model.chat.processor)
    processor.image_processor.size = {"shortest_edge": 56}
    assert different(of(model), fingerprint(model.model, processor)) == {"processor"}


def test_changed_positions_change_the_config():
    config = deepcopy(tiny.llama().model.config)
    config.rope_parameters = {**config.rope_parameters, "rope_theta": 5.0}
    model = deepcopy(tiny.llama().model)
    model.config = config
    assert different(of(tiny.llama()), fingerprint(model, tiny.tokenizer())) == {"config"}


def test_a_very_large_tensor_is_sampled_to_its_end():
    """float32 has no 131,072,000 - 1: an index in it falls behind the end of such an embedding."""

    class Large(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(
                torch.zeros(1, dtype=torch.bfloat16).expand(131_072_000)
            )

    assert len(_weights(Large())) == 64


def test_every_tensor_counts():
    model = tiny.llama(5).model
    before = _weights(model)
    for name, tensor in model.state_dict().items():
        kept = tensor.clone()
        tensor.flatten()[0].add_(1)
        assert _weights(model) != before, name
        tensor.copy_(kept)
