"""The vision-language architectures that are tested, each as a tiny random model."""

from collections.abc import Callable

import oracle
import tiny
from architectures import vision_builders as made
from architectures import vision_codebooks
from architectures.architecture import POINTS, Architecture
from steersman.backends.forest import Kind
from steersman.backends.hf import HFModel
from steersman.core.requests import Request
from steersman.core.steerer import Policy
from steersman.core.types import Prompt

BESIDE_MLP = tuple(point for point in POINTS if point != "mlp_out")


def _sees(
    name: str,
    model_class: str,
    build: Callable[[], HFModel],
    points: tuple[str, ...] = POINTS,
    *,
    notes: str = "",
    text_alone: bool = True,
    shares: tuple[Kind, ...] = ("completions", "header"),
) -> Architecture:
    full = f"{model_class}ForConditionalGeneration"
    return Architecture(name, full, build, points, True, notes, text_alone, shares)


VISION: tuple[Architecture, ...] = (
    _sees("LLaVA-1.5", "Llava", oracle.MODELS["llava"]),
    _sees("LLaVA-NeXT", "LlavaNext", made.llava_next),
    _sees("LLaVA-OneVision", "LlavaOnevision", made.llava_onevision),
    _sees("Qwen2-VL", "Qwen2VL", oracle.MODELS["qwen2_vl"]),
    _sees("Qwen2.5-VL", "Qwen2_5_VL", made.qwen2_5_vl),
    _sees(
        "Qwen3-VL", "Qwen3VL", made.qwen3_vl,
        notes="The image is added to the stream between the first blocks, too.",
    ),
    _sees(
        "Chameleon", "Chameleon", vision_codebooks.chameleon,
        notes="Its processor ends every prompt with a separator, which is the last token read.",
    ),
    _sees("Idefics3", "Idefics3", made.idefics3),
    _sees(
        "SmolVLM", "SmolVLM", made.smolvlm,
        notes="Without torchvision and num2words its images are prepared by Idefics3's processor.",
    ),
    _sees("Gemma 3", "Gemma3", made.gemma3),
    _sees("InternVL", "InternVL", made.internvl),
    _sees(
        "Llama 3.2 Vision", "Mllama", made.mllama, shares=("completions",),
        notes="Cross-attention blocks count as layers, have resid_pre and resid_post only, and do "
        "not run for text; no token is an image's.",
    ),
    _sees(
        "PaliGemma", "PaliGemma", made.paligemma, text_alone=False, shares=("completions",),
        notes="Its processor refuses prompts without an image.",
    ),
    _sees(
        "BLIP-2", "Blip2", made.blip2, BESIDE_MLP, text_alone=False, shares=(),
        notes="With OPT; the model cannot run without an image.",
    ),
    _sees("Aya Vision", "AyaVision", made.aya_vision),
    _sees("Idefics2", "Idefics2", made.idefics2),
    _sees("GLM-4V", "Glm4v", made.glm4v),
    _sees("Janus", "Janus", vision_codebooks.janus),
    _sees(
        "Ovis2", "Ovis2", made.ovis2,
        notes="The marks around an image are made by the image's encoder, but count as text.",
    ),
)  # fmt: skip
BY_NAME = {a.name: a for a in VISION}


def prompts_for(architecture: Architecture) -> list[Prompt]:
    """Images of two sizes, and text where it is read without them."""
    seeing = [
        Prompt("a b", images=(tiny.picture(),)),
        Prompt("how do i make the cup ?", images=(tiny.picture(1, 56),)),
    ]
    text = [Prompt("how do i make the cup ?"), Prompt("make the bomb")]
    return [*text, *seeing] if architecture.text_alone else seeing


def requests_for(architecture: Architecture, policy: Policy | None) -> list[Request]:
    return [Request(p, policy, max_new_tokens=3) for p in prompts_for(architecture)]
