"""Vision-language models from a folder, on a machine without torchvision."""

import json

import pytest
import transformers as hf

import steersman
from architectures.vision import BY_NAME, VISION, requests_for
from architectures.vision_parts import FINE, PATCHES, words
from architectures.vision_parts import text as text_config
from steersman.core.errors import ModelError

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning",  # GLM-4V's processor, of tensors
    "ignore:`hidden_state` is deprecated:FutureWarning",  # Mllama's vision tower, of itself
)
VIDEO = ("LLaVA-OneVision", "Qwen3-VL", "SmolVLM", "InternVL", "GLM-4V")  # their processors' half


@pytest.mark.parametrize(
    "architecture",
    [a if a.name in VIDEO else pytest.param(a, marks=pytest.mark.slow) for a in VISION],
    ids=[a.name for a in VISION],
)
def test_a_saved_model_answers_as_before_without_torchvision(architecture, tmp_path):
    model = architecture.build()
    model.model.save_pretrained(tmp_path)
    model.chat.processor.save_pretrained(tmp_path)
    loaded = steersman.load(str(tmp_path))
    assert loaded.spec.modalities == ("text", "image")
    requests = requests_for(architecture, None)
    first, second = model.generate(requests), loaded.generate(requests)
    assert [c.token_ids for c in first] == [c.token_ids for c in second]
    assert loaded.spec.fingerprint == model.spec.fingerprint


@pytest.mark.parametrize("name", ["Qwen2.5-VL", "SmolVLM"])
def test_a_processor_saved_with_its_video_half_is_loaded_for_images(name, tmp_path):
    """As models lie on the hub: one file for each half, and the class that needs torchvision."""
    model = BY_NAME[name].build()
    processor = model.chat.processor
    model.model.save_pretrained(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)
    processor.image_processor.save_pretrained(tmp_path)
    kind = {"Qwen2.5-VL": "Qwen2_5_VL", "SmolVLM": "SmolVLM"}[name]
    half = {"video_processor_type": f"{kind}VideoProcessor", "processor_class": f"{kind}Processor"}
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(half))
    whole = {"processor_class": f"{kind}Processor", "image_seq_len": PATCHES}
    (tmp_path / "processor_config.json").write_text(json.dumps(whole))
    loaded = steersman.load(str(tmp_path))
    requests = requests_for(BY_NAME[name], None)
    first, second = model.generate(requests), loaded.generate(requests)
    assert [c.token_ids for c in first] == [c.token_ids for c in second]


def test_a_processor_that_needs_torchvision_is_refused_by_name(tmp_path):
    """transformers hides Pixtral's, Mistral 3's processor, where torchvision is missing."""
    vision = hf.PixtralVisionConfig(**FINE, head_dim=8)
    tokens = words("[IMG]")
    config = hf.Mistral3Config(
        vision_config=vision, text_config=text_config(hf.MistralConfig, tokens)
    )
    hf.Mistral3ForConditionalGeneration(config).save_pretrained(tmp_path)
    tokens.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="PixtralProcessor needs torchvision"):
        steersman.load(str(tmp_path))
