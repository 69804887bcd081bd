"""One of the processes that share models; torchrun starts it with a folder of models.

Every model is loaded twice: shared, and whole in this process. What they gave is written beside
them, one file for each process.
"""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch.distributed import destroy_process_group, get_rank

import oracle
import tiny
from steersman.backends.hf import HFModel, load
from steersman.core.errors import ModelError
from steersman.core.requests import Request
from steersman.core.types import Position, Prompt, Site
from steersman.methods.caa import CAA
from steersman.selectors.layers import Layers
from toy import RULE, rows

POINTS = ("resid_pre", "attn_out", "mlp_out", "resid_post")
HEADS = Site(1, "attn_heads")
PROMPTS = [
    Prompt(text, completion=said)
    for text in ("how do i make the cup ?", "how do i make the bomb ?", "a b")
    for said in ("yes", "no , no")
]
SEEN = [Prompt("how do i ?", images=(tiny.picture(n),), completion=c) for n in (0, 1) for c in "ab"]


def apart(made: torch.Tensor, wanted: torch.Tensor) -> float:
    """How far apart, in parts of the length."""
    return float((made - wanted).norm() / wanted.norm()) if made.shape == wanted.shape else 9e9


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def refusal(act) -> str:
    try:
        act()
    except ModelError as error:
        return str(error)
    return ""


def states(model: HFModel, point: str, prompts: list[Prompt]) -> torch.Tensor:
    site = Site(1, point)
    return model.capture(prompts, [site], Position("completion", "mean"))[site]


def answers(model: HFModel) -> list[tuple[int, ...]]:
    policies = (oracle.policy(), None, oracle.policy(-oracle.VECTOR))
    asked = [Request(p, q, max_new_tokens=5) for p in oracle.PROMPTS for q in policies]
    return [completion.token_ids for completion in model.generate(asked)]


def words(model: HFModel) -> HFModel:
    """With our own tokenizer: transformers knows better for some architectures."""
    if "image" in model.spec.modalities:
        return model
    return HFModel(model.model, tiny.tokenizer(), id=model.spec.id)


def of(folder: Path) -> dict[str, object]:
    """What sharing changed of one model."""
    try:
        shared = words(load(folder, tp="auto"))
    except ModelError as error:
        return {"refused": str(error)}
    whole = words(load(folder))
    prompts = [*PROMPTS, *SEEN] if "image" in whole.spec.modalities else PROMPTS
    told: dict[str, object] = {"known": shared.spec.fingerprint == whole.spec.fingerprint}
    found = [p for p in POINTS if not refusal(lambda p=p: whole.blocks.tap(Site(1, p)))]
    made = {p: states(shared, p, prompts) for p in found}
    told["apart"] = {p: apart(made[p], states(whole, p, prompts)) for p in found}
    told["bits"] = {p: digest(made[p]) for p in found}
    told["answers"] = [answers(shared), answers(whole)]
    return told


def in_depth(folder: Path) -> dict[str, object]:
    """More of a model that has everything."""
    shared, whole = load(folder, tp="auto"), load(folder)
    states = [m.answer_states(PROMPTS).states for m in (shared, whole)]
    some = torch.linspace(-1, 1, 3 * tiny.WIDTH).reshape(3, -1)
    method = CAA(layers=Layers(layers=(0, 2)), contrasts=RULE)
    fitted = [method.fit(m, rows(9)).synthesizer.vectors for m in (shared, whole)]
    own = []
    for model in (shared, whole):
        inputs = oracle.inputs_of(model, *oracle.PROMPTS)
        with model.steer(oracle.policy(50 * oracle.VECTOR)):
            own.append(model.model.generate(**inputs, max_new_tokens=5, do_sample=False).tolist())
    request = Request(oracle.PROMPTS[0], oracle.policy(site=HEADS), max_new_tokens=1)
    return {
        "answer_states": apart(*states),
        "logits": apart(shared.logits(some), whole.logits(some)),
        "fitted": apart(*fitted),
        "fitted_bits": digest(fitted[0]),
        "own_call": own,
        "in_step": [shared.in_step, whole.in_step],
        "heads": [
            refusal(lambda: shared.capture(PROMPTS, [HEADS])),
            refusal(lambda: shared.generate([replace(request)])),
        ],
        "parts": [
            sum(p.to_local().numel() if hasattr(p, "to_local") else p.numel() for p in shard)
            for shard in (shared.model.parameters(), whole.model.parameters())
        ],
    }


def main(folder: Path) -> None:
    models = sorted(f for f in folder.iterdir() if f.is_dir())
    told = {model.name: of(model) for model in models}
    told["in depth"] = in_depth(folder / "Llama")
    (folder / f"rank{get_rank()}.json").write_text(json.dumps(told))
    destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
