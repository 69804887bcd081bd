"""`steersman fit` and `steersman import l2s`."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from steersman.backends.hf import HFModel
from steersman.cli.console import print_json, say, stages
from steersman.cli.shared import VERSION, open_data, open_model
from steersman.core.errors import DataError, RecipeError, nearest
from steersman.core.io import refuse_other, save_artifact
from steersman.core.recipe import Recipe, read_recipe
from steersman.core.steerer import Method
from steersman.core.tree import Plain
from steersman.data.rows import Dataset, check_behaviours
from steersman.experiments.ladder import METRICS, Ladder, Note, Splits
from steersman.methods.contrast import ContrastRule
from steersman.methods.fit import fit_policy, with_metrics
from steersman.methods.importers import PRESETS, import_l2s, preset
from steersman.methods.l2s import L2S


@dataclass(frozen=True)
class FitJob:
    """What was asked for on the command line."""

    recipe: str
    data: str
    out: Path
    model: str
    split: str | None
    overrides: tuple[str, ...]
    calibration: str | None
    device: str
    dtype: str


def run_fit(job: FitJob, *, as_json: bool) -> None:
    """Fits and saves a policy; says where it is and what it holds."""
    read = preset if job.recipe in PRESETS else read_recipe
    plan = read(job.recipe, job.overrides)
    refuse_other(job.out)
    rows = open_data(job.data, job.split)
    rule = contrasts_of(plan.method)
    if rule is not None:
        check_behaviours(rows, rule.behaviours)
    began = time.monotonic()
    with stages(quiet=as_json) as note:
        note("loading the model", 0.0)
        backend = open_model(job.model, device=job.device, dtype=job.dtype)
        note(f"fitting {plan.name} on {len(rows.rows)} rows", 0.2)
        if job.calibration is not None:
            plan, scores = _chosen(backend, plan, rows, job.calibration, note)
        else:
            scores = {}
        artifact = with_metrics(fit_policy(backend, plan, rows, VERSION), scores)
        note("saving", 0.95)
        save_artifact(artifact, job.out)
    said = {
        "policy": str(job.out),
        "method": plan.method.part_name,
        "steerer": plan.name,
        "model": artifact.model.id,
        "rows": artifact.provenance["num_rows"],
        "content_hash": artifact.content_hash(),
        "seconds": round(time.monotonic() - began, 1),
    }
    if as_json:
        print_json(said)
        return
    say(f"fitted {plan.name} in {said['seconds']} s")
    for name in ("policy", "method", "rows", "model", "content_hash"):
        say(f"  {name:12} {said[name]}")


def _chosen(
    model: HFModel, plan: Recipe, rows: Dataset, source: str, note: Note
) -> tuple[Recipe, dict[str, Plain]]:
    """The recipe with site, context and strength chosen on calibration rows, and how it scored."""
    method = plan.method
    if not isinstance(method, L2S):
        raise RecipeError(
            f"--calibration chooses layers and strength for 'l2s', not for {method.part_name!r}. "
            "Leave it out, or set the fields with --set."
        )
    calibration = open_data(source)
    if calibration.hash == rows.hash:
        raise DataError(f"{source} holds the rows to fit on. Choose on other rows.")
    if calibration.meta.get("split") == "test":
        raise DataError(
            f"{source} is a test split. No tuning on the split that is reported: choose on a "
            "calibration split."
        )
    suite = str(calibration.meta.get("suite", ""))
    if suite not in METRICS:
        raise DataError(
            f"{source}: dataset.json names the suite {suite!r}, by which nothing can be chosen."
            f"{nearest(suite, METRICS)}"
        )
    splits = Splits(rows, calibration, calibration)
    ladder = Ladder(
        model=model,
        base=method,
        data=splits,
        metric=METRICS[suite],
        seed=method.net.seed,
        note=note,
    )
    steerer = ladder.tuned().steerer
    assert steerer is not None
    chosen = replace(
        method,
        site=steerer.sites[0],
        context=steerer.synthesizer.reads[0],
        strength=steerer.strength,
    )
    scores: dict[str, Plain] = {
        f"calibration: {what}": f"{choice.best} ({choice.ranking[0][1].value:.3f})"
        for what, choice in ladder.choices.items()
    }
    return replace(plan, method=chosen), scores


def contrasts_of(method: Method[object]) -> ContrastRule | None:
    """The contrasts that a method learns from, where it has any."""
    for name in ("contrasts", "method"):
        value = vars(method).get(name)
        if isinstance(value, ContrastRule):
            return value
        if isinstance(value, Method):
            return contrasts_of(value)
    return None


def run_import(file: Path, preset_name: str, out: Path, model: str | None) -> None:
    """Converts a released net."""
    spec = open_model(model).spec if model else None
    artifact = import_l2s(file, preset_name, spec, VERSION)
    save_artifact(artifact, out)
    say(f"{out}  {file.name} as {preset_name}, for {artifact.model.id}")
    if spec is None:
        say("It carries the model's name and sizes, but no fingerprint: give --model to add it.")
