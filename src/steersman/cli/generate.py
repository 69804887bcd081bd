"""`steersman generate`: steered beside unsteered, with the trace."""

from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from steersman.cli.console import out as console
from steersman.cli.console import print_json, say, stages
from steersman.cli.shared import open_model, open_policy
from steersman.core.requests import Completion, Request
from steersman.core.types import Prompt
from steersman.data.images import open_image


@dataclass(frozen=True)
class GenerateJob:
    """What was asked for on the command line."""

    question: str
    policy: Path | None
    model: str
    images: tuple[Path, ...]
    system: str | None
    strength: float
    max_new_tokens: int
    temperature: float
    force: bool
    device: str
    dtype: str
    device_map: str | None = None


def run_generate(job: GenerateJob, *, as_json: bool) -> None:
    """Answers the question once unsteered and, with a policy, once steered."""
    prompt = Prompt(job.question, tuple(open_image(p) for p in job.images), job.system)
    with stages(quiet=as_json) as note:
        note("loading the model", 0.0)
        model = open_model(job.model, device=job.device, device_map=job.device_map, dtype=job.dtype)
        policy = open_policy(job.policy, model, force=job.force)
        note("generating", 0.5)
        plain = Request(prompt, max_new_tokens=job.max_new_tokens, temperature=job.temperature)
        steered = Request(
            prompt, policy, job.strength, max_new_tokens=job.max_new_tokens,
            temperature=job.temperature,
        )  # fmt: skip
        made = model.generate([plain] if policy is None else [plain, steered])
    if as_json:
        names = ("unsteered", "steered")
        print_json({name: _plain(c) for name, c in zip(names, made, strict=False)})
        return
    _show(job, made)


def _show(job: GenerateJob, made: list[Completion]) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_row("question", Text(job.question))
    table.add_row("unsteered", Text(made[0].text or "(nothing)"))
    if len(made) > 1:
        table.add_row("[bold]steered[/]", Text(made[1].text or "(nothing)", style="bold"))
    console.print(table)
    for name, trace in (made[1].trace if len(made) > 1 else {}).items():
        did = trace.reason or (
            f"wrote {trace.tokens_written} of {trace.tokens_in_scope} tokens in scope, "
            f"|dh|/|h| {trace.relative_norm:.2f}"
        )
        say(f"  {name}: gate {trace.gate:.2f}, strength {trace.strength:.2f}, {did}")


def _plain(completion: Completion) -> dict[str, object]:
    return {
        "text": completion.text,
        "num_prompt_tokens": completion.num_prompt_tokens,
        "num_generated_tokens": len(completion.token_ids),
        "trace": {name: asdict(trace) for name, trace in completion.trace.items()},
    }
