"""`steersman fit` and `steersman import l2s`."""

import time
from pathlib import Path

from steersman.cli.console import out as console
from steersman.cli.console import print_json, stages
from steersman.cli.shared import VERSION, open_data, open_model
from steersman.core.io import Artifact, save_artifact
from steersman.core.recipe import Recipe, read_recipe
from steersman.core.steerer import Method
from steersman.data.rows import check_behaviours
from steersman.methods.contrast import ContrastRule
from steersman.methods.fit import fit_policy
from steersman.methods.importers import PRESETS, import_l2s, preset


def run_fit(
    recipe: str, data: str, out: Path, model: str, split: str | None, overrides: list[str],
    device: str, dtype: str, as_json: bool,
) -> None:  # fmt: skip
    """Fits and saves a policy; says where it is and what it holds."""
    plan = preset(recipe, overrides) if recipe in PRESETS else read_recipe(recipe, overrides)
    rows = open_data(data, split)
    rule = contrasts_of(plan.method)
    if rule is not None:
        check_behaviours(rows, rule.behaviours)
    began = time.monotonic()
    with stages(quiet=as_json) as note:
        note("loading the model", 0.0)
        backend = open_model(model, device=device, dtype=dtype)
        note(f"fitting {plan.name} on {len(rows.rows)} rows", 0.2)
        artifact = fit_policy(backend, plan, rows, VERSION)
        note("saving", 0.95)
        save_artifact(artifact, out)
    _report(artifact, plan, out, time.monotonic() - began, as_json)


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
    console.print(f"[bold]{out}[/]  {file.name} as {preset_name}, for {artifact.model.id}")
    if spec is None:
        console.print(
            "It carries the model's name and sizes, but no fingerprint: give --model to add it."
        )


def _report(artifact: Artifact, plan: Recipe, out: Path, seconds: float, as_json: bool) -> None:
    said = {
        "policy": str(out),
        "method": plan.method.part_name,
        "steerer": plan.name,
        "model": artifact.model.id,
        "rows": artifact.provenance["num_rows"],
        "content_hash": artifact.content_hash(),
        "seconds": round(seconds, 1),
    }
    if as_json:
        print_json(said)
        return
    console.print(f"[bold green]fitted[/] {plan.name} ({said['method']}) in {seconds:.1f} s")
    console.print(f"  policy   {out}")
    console.print(f"  rows     {said['rows']}")
    console.print(f"  model    {artifact.model.id}")
    console.print(f"  hash     {artifact.content_hash()[:16]}")
    console.print(f"Try it:    steersman generate --model {artifact.model.id} --policy {out} ...")
