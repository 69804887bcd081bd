"""Train the bundled model from scratch, resumably: `python -m steersman.world.train OUT`.

Five phases. *vision* aligns image tokens with word embeddings, *grounding* binds words to image
regions by many short queries, *mixture* teaches whole questions and answers, *polish* does so with
shift noise on some answers, *company* adds a dense drill in the planted errors of existence. All
randomness of a step comes from (seed, phase, step), so a run that is killed and started again ends
in the same weights.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Idefics3ForConditionalGeneration

from steersman.core.errors import RecipeError
from steersman.world.build import ModelShape, build_model, build_processor
from steersman.world.objectives import (
    Measured,
    drill_loss,
    grounding_loss,
    mixture_loss,
    vision_loss,
)

Phase = Literal["vision", "grounding", "mixture", "polish", "company"]
PHASES: tuple[Phase, ...] = ("vision", "grounding", "mixture", "polish", "company")
Event = dict[str, str | int | float]

GROUND_EVERY = 4  # in the mixture and after, every so many steps also look things up
DRILL_EVERY = 2  # in the company phase, every so many steps also drill existence questions
MIXTURE_HORIZON = 2000  # the learning rates of mixture and polish would reach their floor here
POLISH_HORIZON = 1000
GRADIENT_NORM = 1.0


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How long and how wide to train. The defaults made the bundled model."""

    vision_steps: int = 400
    grounding_steps: int = 400
    mixture_steps: int = 700
    polish_steps: int = 700
    company_steps: int = 500
    vision_images: int = 64
    images: int = 32
    turns: int = 4
    drill_turns: int = 12
    checkpoint_every: int = 100
    threads: int = 2
    shape: ModelShape = field(default_factory=ModelShape)

    def steps(self, phase: Phase) -> int:
        """How many steps a phase has."""
        counts = {
            "vision": self.vision_steps,
            "grounding": self.grounding_steps,
            "mixture": self.mixture_steps,
            "polish": self.polish_steps,
            "company": self.company_steps,
        }
        return counts[phase]


@dataclass(slots=True)
class _Run:
    """A run between two steps: `step` steps of `phase` are done."""

    phase: Phase
    step: int
    model: Idefics3ForConditionalGeneration
    optimizer: torch.optim.AdamW


def train(
    out: Path,
    seed: int = 0,
    *,
    config: TrainConfig | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Path:
    """Train in `out`, or continue what was begun there, and return the finished model's folder.

    Args:
        out: Working folder; holds `checkpoint/` while training and `model/` at the end.
        on_event: Called after every step with phase, step, steps, loss, seconds and accuracies.

    Raises:
        RecipeError: `out` holds a checkpoint of another seed or configuration.
    """
    config = config or TrainConfig()
    if (out / "model").exists() and not (out / "checkpoint").exists():
        raise RecipeError(
            f"{out / 'model'} is there already and was not trained here; it would be replaced. "
            "Choose another folder."
        )
    torch.set_num_threads(config.threads)
    run = _load(out, seed, config) or _start(seed, config)
    began = time.monotonic()
    for phase in PHASES[PHASES.index(run.phase) :]:
        if phase != run.phase:
            run = _Run(phase, 0, run.model, _optimizer(run.model, phase))
        for step in range(run.step, config.steps(phase)):
            report = _step(run, seed, config)
            if on_event:
                seconds = round(time.monotonic() - began, 1)
                place: Event = {"phase": phase, "step": step + 1, "steps": config.steps(phase)}
                on_event({**place, **report, "seconds": seconds})
            if run.step % config.checkpoint_every == 0 or run.step == config.steps(phase):
                _save(out, seed, config, run)
    return finish(out, run.model)


def finish(out: Path, model: Idefics3ForConditionalGeneration) -> Path:
    """Write the finished model with its processor to `out/model`, in bfloat16."""
    target, draft = out / "model", out / "model.draft"
    shutil.rmtree(draft, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(draft)
    build_processor().save_pretrained(draft)
    for file in draft.iterdir():
        file.chmod(0o644)  # safetensors writes for its owner only; a shipped model is for all
    shutil.rmtree(target, ignore_errors=True)
    os.replace(draft, target)
    return target


def _start(seed: int, config: TrainConfig) -> _Run:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(config.shape)
    model.set_attn_implementation("eager")
    return _Run(PHASES[0], 0, model, _optimizer(model, PHASES[0]))


def _trained(
    model: Idefics3ForConditionalGeneration, phase: Phase
) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that a phase trains: eyes and words first, then everything."""
    eyes = ("model.vision_model.", "model.connector.", "model.text_model.embed_tokens.")
    for name, parameter in model.named_parameters():
        if phase != "vision" or name.startswith(eyes):
            yield name, parameter


def _optimizer(model: Idefics3ForConditionalGeneration, phase: Phase) -> torch.optim.AdamW:
    decay = 0.01 if phase == "vision" else 0.05
    parameters = [parameter for _, parameter in _trained(model, phase)]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def _learning_rate(phase: Phase, step: int, steps: int) -> float:
    match phase:
        case "vision":
            return 2e-3 * min(1.0, (step + 1) / 60) * max(0.05, 1 - step / steps)
        case "grounding":
            return 1e-3 * min(1.0, (step + 1) / 40)
        case "mixture":
            fallen = max(0.0, step / MIXTURE_HORIZON - 0.15) / 0.85
            return 1.2e-3 * min(1.0, (step + 1) / 40) * max(0.03, 1 - fallen)
        case "polish":
            return 0.9e-3 * min(1.0, (step + 1) / 40) * max(0.03, 1 - step / POLISH_HORIZON)
        case "company":
            return 0.8e-3 * min(1.0, (step + 1) / 40) * max(0.03, 1 - step / steps)


def _objective(run: _Run, seed: int, config: TrainConfig) -> Measured:
    rng = Random(f"{seed}/{run.phase}/{run.step}")
    match run.phase:
        case "vision":
            return vision_loss(run.model, rng, config.vision_images)
        case "grounding":
            return grounding_loss(run.model, rng, config.images)
        case _:
            noisy = run.phase != "mixture"
            loss, report = mixture_loss(run.model, rng, config.images, config.turns, noisy=noisy)
            if run.step % GROUND_EVERY == 0:
                looked, found = grounding_loss(run.model, rng, config.images)
                loss, report = loss + looked, {**report, **found}
            if run.phase == "company" and run.step % DRILL_EVERY == 1:
                drilled, told = drill_loss(run.model, rng, config.images, config.drill_turns)
                loss, report = loss + drilled, {**report, **told}
            return loss, report


def _step(run: _Run, seed: int, config: TrainConfig) -> Event:
    """Take one step; changes `run` and returns what was measured."""
    run.model.train()
    loss, report = _objective(run, seed, config)
    for group in run.optimizer.param_groups:
        group["lr"] = _learning_rate(run.phase, run.step, config.steps(run.phase))
    run.optimizer.zero_grad()
    loss.backward()
    trained = [parameter for _, parameter in _trained(run.model, run.phase)]
    torch.nn.utils.clip_grad_norm_(trained, GRADIENT_NORM)
    run.optimizer.step()
    run.step += 1
    return {"loss": loss.item(), **report}


def _identity(seed: int, config: TrainConfig) -> str:
    return json.dumps({"seed": seed, **asdict(config)}, sort_keys=True)


def _checkpoint(out: Path) -> Path:
    return out / "checkpoint" / "state.safetensors"


def _save(out: Path, seed: int, config: TrainConfig, run: _Run) -> None:
    """Write weights, moments and place in one file, so that it is replaced whole or not at all."""
    tensors: dict[str, Tensor] = {
        f"model.{name}": p.detach().contiguous() for name, p in run.model.named_parameters()
    }
    for name, parameter in _trained(run.model, run.phase):
        for key, value in run.optimizer.state[parameter].items():
            tensors[f"{key}.{name}"] = value
    place = {"run": _identity(seed, config), "phase": run.phase, "step": str(run.step)}
    path = _checkpoint(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    save_file(tensors, draft, metadata=place)
    os.replace(draft, path)


def _load(out: Path, seed: int, config: TrainConfig) -> _Run | None:
    """Read the run that was begun in `out`, or None."""
    path = _checkpoint(out)
    if not path.exists():
        return None
    with safe_open(path, "pt") as file:
        place = file.metadata()
        if place["run"] != _identity(seed, config):
            raise RecipeError(
                f"{path} belongs to another run ({place['run']}), this one is "
                f"{_identity(seed, config)}. Continue that one or choose another folder."
            )
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    phase = next(phase for phase in PHASES if phase == place["phase"])
    run = _start(seed, config)
    run = _Run(phase, int(place["step"]), run.model, _optimizer(run.model, phase))
    with torch.no_grad():
        for name, parameter in run.model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    for name, parameter in _trained(run.model, phase):
        run.optimizer.state[parameter] = {
            key: tensors[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")
        }
    return run


def _print_event(event: Event) -> None:
    if int(event["step"]) % 50 == 0:
        numbers = {k: round(v, 3) if isinstance(v, float) else v for k, v in event.items()}
        print(json.dumps(numbers), flush=True)  # noqa: T201


def main(arguments: list[str]) -> int:
    """Command line of `python -m steersman.world.train`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="working folder; run again to continue")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    print(train(options.out, options.seed, on_event=_print_event))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
