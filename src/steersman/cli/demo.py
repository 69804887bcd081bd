"""`steersman demo`: the whole line on the bundled model, ending in a page to look at."""

import json
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from PIL import Image

from steersman.cli.console import out as console
from steersman.cli.console import print_json, say, stages
from steersman.cli.shared import VERSION, open_model
from steersman.cli.summary import summaries
from steersman.cli.world import POLICIES, all_answers, merged, spec_hashes, world_ladder
from steersman.core.io import save_artifact
from steersman.data.load import load as load_data
from steersman.evals.records import Results, save_answers
from steersman.evals.report import render
from steersman.experiments.ladder import Outcome, Search
from steersman.methods.fit import with_metrics
from steersman.selectors.layers import FractionalDepth
from steersman.world.rows import Sizes, SplitSizes
from steersman.world.write import write_world

FULL = Sizes(
    safety=SplitSizes(1080, 180, 450),
    pope=SplitSizes(960, 160, 800),
    utility=SplitSizes(240, 80, 240),
)
QUICK = Sizes(
    safety=SplitSizes(270, 36, 54), pope=SplitSizes(160, 32, 64), utility=SplitSizes(16, 16, 32)
)
SEARCH = Search(
    sites=FractionalDepth(start=0.6, stop=1.0),
    contexts=FractionalDepth(start=0.6, stop=1.0),
    strengths=(0.5, 0.75, 1.0),
)
NOTE = (
    "The model and its world are synthetic and small: words trained to be causes make steering "
    "possible by design. These figures prove that the code works, and how methods compare here. "
    "They prove nothing about any real model; measure yours with the same commands."
)


def run_demo(out: Path, *, quick: bool, as_json: bool) -> None:
    """Writes the world, fits, chooses, measures, saves policies, and renders the report."""
    began = time.monotonic()
    data = out / "world"
    with stages(quiet=as_json) as note:
        note("writing the world", 0.0)
        write_world(data, seed=0, sizes=QUICK if quick else FULL)
        note("loading the bundled model", 0.01)
        model = open_model("bundled", batch_size=128)
        outcomes = world_ladder(model, data, seed=0, note=note, search=SEARCH, cache=out / "cache")
        results = merged(list(outcomes.values()))
        hashes = spec_hashes(model.spec)
        for suite, outcome in outcomes.items():
            artifact = outcome.artifact("l2s", model.spec, VERSION)
            artifact = with_metrics(artifact, _metrics(results, suite))
            save_artifact(artifact, out / "policies" / POLICIES[suite])
            hashes[f"policy {POLICIES[suite]}"] = artifact.content_hash()
            hashes[f"data {suite}"] = outcome.fit.hash
        results.save(out / "results.json")
        save_answers(all_answers(list(outcomes.values())), out / "answers.jsonl")
        note("rendering the report", 0.99)
        page = _report(out, results, outcomes, hashes)
    if as_json:
        print_json(json.loads((out / "results.json").read_text("utf-8")))
        return
    for table in summaries(results):
        console.print(table)
    say(f"\ndone in {time.monotonic() - began:.0f} s")
    say(f"  report    {page}")
    say(f"  results   {out / 'results.json'}")
    say(f"  policies  {out / 'policies'}")


def _metrics(results: Results, suite: str) -> dict[str, float]:
    rows = results.select(suite=suite, method="l2s", split="all")
    return {row.metric: row.value for row in rows}


def _images(data: Path) -> dict[tuple[str, str], Image.Image]:
    """The pictures of the test rows, by suite and id, for the gallery."""
    found = {}
    for suite in ("safety", "pope", "utility"):
        for row in load_data(data / suite / "test").rows:
            if isinstance(row.image, Path):
                with Image.open(row.image) as image:
                    found[suite, row.id] = image.convert("RGB")
    return found


def _report(
    out: Path, results: Results, outcomes: Mapping[str, Outcome], hashes: Mapping[str, str]
) -> Path:
    """The page: figures, plots, a gallery, commands and hashes."""
    choices = {
        f"{suite}: {what}": choice
        for suite, outcome in outcomes.items()
        for what, choice in outcome.choices.items()
    }
    return render(
        results,
        all_answers(list(outcomes.values())),
        out=out / "report.html",
        title="Steering a small vision-language model with L2S",
        images=_images(out / "world"),
        commands=COMMANDS,
        hashes=hashes,
        versions={
            "steersman": VERSION, "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers")},
        },
        choices=choices,
        note=NOTE,
    )  # fmt: skip


COMMANDS = (
    "make demo",
    "steersman generate --policy runs/demo/policies/safety --image PICTURE.png "
    '"how do i make the object in the image ?"',
    "steersman eval --policy runs/demo/policies/hallucination --data runs/demo/world/pope/test",
    "steersman show runs/demo/policies/safety",
)
