"""`steersman eval`: a policy beside the unsteered model, a prompt and a random vector."""

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from steersman.cli.console import out as console
from steersman.cli.console import print_json, say, stages
from steersman.cli.shared import VERSION, Workers, limited, open_artifact, open_data, open_engine
from steersman.cli.summary import summaries
from steersman.core.errors import DataError, RecipeError
from steersman.core.io import Artifact
from steersman.core.steerer import Policy
from steersman.data.rows import Dataset
from steersman.evals.records import Results, save_answers
from steersman.evals.run import Evaluation, evaluate
from steersman.experiments.compare import randomised
from steersman.methods.fit import fitted_on

Subject = tuple[str, Policy | None, str]
"""What is measured: its name in the table, its policy, and a sentence in front of questions."""


@dataclass(frozen=True)
class EvalJob:
    """What was asked for on the command line."""

    data: tuple[str, ...]
    policy: Path | None
    model: str
    strength: float
    prompt: str | None
    out: Path
    limit: int | None
    force: bool
    device: str
    dtype: str
    device_map: str | None = None
    workers: Workers = Workers()


def run_eval(job: EvalJob, *, as_json: bool) -> None:
    """Measures on every data set given, and writes results.json and answers.jsonl."""
    if job.strength == 0:
        raise RecipeError("--strength is 0, which is the unsteered model. Give another number.")
    whole = [open_data(source) for source in job.data]
    sets = [limited(data, job.limit) for data in whole]
    suites = [str(data.meta.get("suite", "")) for data in sets]
    if len(set(suites)) < len(suites):
        raise RecipeError(
            f"Two data sets are of one suite ({', '.join(suites)}), so their rows could not be "
            "told apart. Evaluate them one at a time, each with its own --out."
        )
    refuse_foreign(job.out / "results.json")
    with ExitStack() as stack:
        note = stack.enter_context(stages(quiet=as_json))
        note("loading the model", 0.0)
        model = stack.enter_context(
            open_engine(
                job.model,
                job.workers,
                device=job.device,
                device_map=job.device_map,
                dtype=job.dtype,
            )
        )
        artifact = open_artifact(job.policy, model, force=job.force) if job.policy else None
        for data in whole:
            if artifact is not None and fitted_on(artifact.provenance, data):
                raise RecipeError(
                    f"{data.source} holds the rows that {job.policy} was fitted on; figures on "
                    "them would flatter it. Evaluate on other rows."
                )
        runs: list[Evaluation] = []
        asked = [(data, *subject) for data in sets for subject in _subjects(job, artifact, data)]
        for i, (data, name, policy, prefix) in enumerate(asked):
            note(f"{name} on {data.source}", i / len(asked))
            key = "/".join([VERSION, job.dtype, *model.spec.fingerprint.values()])
            if policy is not None:
                key += Artifact(policy, model.spec).content_hash()
            runs.append(
                evaluate(
                    model,
                    data,
                    method=name,
                    policy=policy,
                    prefix=prefix,
                    strength=job.strength,
                    cache=job.out / "answers.cache.jsonl",
                    key=key,
                )
            )
    results = Results().merge(*(run.results for run in runs))
    results.save(job.out / "results.json")
    save_answers([a for run in runs for a in run.answers], job.out / "answers.jsonl")
    if as_json:
        print_json(json.loads((job.out / "results.json").read_text("utf-8")))
        return
    for table in summaries(results):
        console.print(table)
    say(f"Written: {job.out / 'results.json'} and answers.jsonl beside it.")


def refuse_foreign(file: Path) -> None:
    """Results of ours may be replaced; somebody else's file may not."""
    if file.exists():
        try:
            Results.load(file)
        except DataError as error:
            raise RecipeError(
                f"{file} is there and is not Steersman's. Choose another --out."
            ) from error


def _subjects(job: EvalJob, artifact: Artifact | None, data: Dataset) -> list[Subject]:
    prompt = job.prompt or str(data.meta.get("prompt_baseline", ""))
    subjects: list[Subject] = [("none", None, "")]
    if prompt:
        subjects.append(("prompt", None, prompt))
    if artifact is not None:
        name = str(artifact.provenance.get("method", "policy"))
        if name in ("none", "prompt"):
            raise RecipeError(f"A policy cannot be called {name!r}: a baseline is. Rename it.")
        subjects += [("random", randomised(artifact.policy), ""), (name, artifact.policy, "")]
    return subjects
