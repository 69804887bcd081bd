"""The bundled model's parts, untrained: vocabulary, tokenizer, processor and architecture.

The architecture is Idefics3, the one behind SmolVLM: a vision transformer, a connector that folds
its 64 patches into 16 image tokens, and a Llama decoder. The tokenizer knows whole words only.
"""

from dataclasses import dataclass
from functools import cache

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    GenerationConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

from steersman.world.catalogue import CLASSES, MATERIALS
from steersman.world.language import spoken_forms
from steersman.world.scenes import SIZE
from steersman.world.templates import PURPOSES, TASKS, WHO_NAMED, WHO_SHOWN, templates

PAD, BOS, END, IMAGE, FENCE, GLOBAL = range(6)
SPECIAL_TOKENS = (
    *("<pad>", "<bos>", "<eou>", "<image>", "<fake_token_around_image>", "<global-img>"),
    *("<end_of_utterance>", "<unk>"),
)
ROLE_WORDS = ("user", "assistant", "system", ":")
LOOKUP_WORDS = ("nothing", "where", "this", "object")  # used by the grounding lessons

PATCH = 8
FOLD = 2
GRID = SIZE // PATCH // FOLD  # image tokens per side
IMAGE_TOKENS = GRID * GRID
MAX_POSITIONS = 256

CHAT_TEMPLATE = (
    "<bos>{% for message in messages %}{{ message['role'] }} : "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% elif part['type'] == 'text' %}"
    "{{ part['text'] }} {% endif %}{% endfor %}{% endif %}<eou>{% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Widths and depths of the model. The default is the bundled one: 3.6 million parameters."""

    width: int = 192
    layers: int = 6
    heads: int = 6
    inner: int = 512
    vision_width: int = 128
    vision_layers: int = 4
    vision_heads: int = 4


@cache
def vocabulary() -> dict[str, int]:
    """Every word that the world can say or ask, with its token id."""
    questions = [t for task in TASKS for purpose in PURPOSES for t in templates(task, purpose)]
    sentences = [*questions, *WHO_NAMED, *WHO_SHOWN, *spoken_forms()]
    words = {word for sentence in sentences for word in sentence.replace("{}", "").split()}
    words |= set(CLASSES) | {word for pair in MATERIALS.values() for word in pair}
    words |= set(LOOKUP_WORDS)
    ordered = (*SPECIAL_TOKENS, *ROLE_WORDS, *sorted(words - set(ROLE_WORDS)))
    return {word: i for i, word in enumerate(ordered)}


def encode(text: str) -> list[int]:
    """Token ids of a sentence whose words are separated by spaces."""
    known = vocabulary()
    return [known[word] for word in text.split()]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer; lower-cases and splits off punctuation, so plain typing works."""
    tokenizer = Tokenizer(models.WordLevel(vocabulary(), unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[.,:?!]"), "isolated")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eou>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=MAX_POSITIONS,
        additional_special_tokens=list(SPECIAL_TOKENS[3:7]),
    )


def build_processor() -> Idefics3Processor:
    """Image processor, tokenizer and chat template together."""
    image_processor = Idefics3ImageProcessorPil(
        size={"longest_edge": SIZE}, max_image_size={"longest_edge": SIZE}, do_image_splitting=False
    )
    return Idefics3Processor(
        image_processor=image_processor,
        tokenizer=build_tokenizer(),
        image_seq_len=IMAGE_TOKENS,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(shape: ModelShape) -> Idefics3ForConditionalGeneration:
    """A model with fresh weights, drawn from torch's current random state."""
    vision = Idefics3VisionConfig(
        hidden_size=shape.vision_width,
        intermediate_size=4 * shape.vision_width,
        num_hidden_layers=shape.vision_layers,
        num_attention_heads=shape.vision_heads,
        image_size=SIZE,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        vocab_size=len(vocabulary()),
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=MAX_POSITIONS,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=END,
        tie_word_embeddings=True,
    )
    config = Idefics3Config(
        vision_config=vision,
        text_config=text,
        image_token_id=IMAGE,
        scale_factor=FOLD,
        tie_word_embeddings=True,
        pad_token_id=PAD,
    )
    model = Idefics3ForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        do_sample=False, bos_token_id=BOS, eos_token_id=END, pad_token_id=PAD, max_new_tokens=24
    )
    return model
