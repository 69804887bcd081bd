"""Write the world's suites to disk in the documented dataset format."""

import json
import os
import shutil
from pathlib import Path

from steersman.world.language import CARE_SENTENCES, GUARD_SENTENCES, MARKERS
from steersman.world.rows import SPLITS, SUITES, Row, Sizes, Split, Suite, rows

BASELINES: dict[Suite, str] = {"safety": GUARD_SENTENCES[0], "pope": CARE_SENTENCES[0]}


def write_world(out: Path, *, seed: int = 0, sizes: Sizes | None = None) -> None:
    """Write `out/{safety,pope,utility}/{fit,calibration,test}`, each with rows and images.

    Each split's folder appears whole or not at all; one that exists is replaced.
    """
    sizes = sizes or Sizes()
    for suite in SUITES:
        for split in SPLITS:
            members = rows(suite, split, seed, sizes.of(suite).of(split))
            _write_split(out / suite / split, members, _card(suite, split, seed, members))


def _card(suite: Suite, split: Split, seed: int, members: list[Row]) -> dict[str, object]:
    """What `dataset.json` says of a split: where it came from, and its baseline and markers."""
    card: dict[str, object] = {
        "suite": suite,
        "split": split,
        "seed": seed,
        "templates": sorted({row.template for row in members}),
    }
    if suite in BASELINES:
        card["prompt_baseline"] = BASELINES[suite]
    if suite == "safety":
        card["markers"] = {reaction: list(words) for reaction, words in MARKERS.items()}
    return card


def _write_split(folder: Path, members: list[Row], card: dict[str, object]) -> None:
    draft = folder.with_name(f"{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    (draft / "images").mkdir(parents=True)
    lines = []
    for row in members:
        image = f"images/{row.id}.png"
        row.image.save(draft / image)
        line: dict[str, object] = {"id": row.id, "prompt": row.prompt, "image": image}
        line["behaviour"] = row.behaviour
        if row.answer is not None:
            line["answer"] = row.answer
        lines.append(json.dumps({**line, "labels": row.labels}))
    (draft / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (draft / "dataset.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(draft, folder)
