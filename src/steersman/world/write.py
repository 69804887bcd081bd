"""Write the world's suites to disk in the documented dataset format."""

from pathlib import Path

from steersman.core.errors import StorageError
from steersman.data import rows as data
from steersman.data.folder import save_folder
from steersman.data.rows import Dataset
from steersman.world.language import CARE_SENTENCES, GUARD_SENTENCES, MARKERS
from steersman.world.rows import SPLITS, SUITES, Row, Sizes, Split, Suite, rows

MADE_BY = "steersman world"
BASELINES: dict[Suite, str] = {"safety": GUARD_SENTENCES[0], "pope": CARE_SENTENCES[0]}


def write_world(out: Path, *, seed: int = 0, sizes: Sizes | None = None) -> None:
    """Write `out/{safety,pope,utility}/{fit,calibration,test}`, each with rows and images.

    Each split's folder appears whole or not at all; a dataset that is there already is replaced.

    Raises:
        StorageError: the disk refused, or something else than a dataset is in the way.
    """
    sizes = sizes or Sizes()
    for suite in SUITES:
        for split in SPLITS:
            _refuse_others(out / suite / split)
    for suite in SUITES:
        for split in SPLITS:
            members = rows(suite, split, seed, sizes.of(suite).of(split))
            save_folder(
                Dataset.of(
                    [_plain(row) for row in members], meta=_card(suite, split, seed, members)
                ),
                out / suite / split,
            )


def _refuse_others(folder: Path) -> None:
    """Somebody's own data set may stand where a split goes."""
    card = folder / "dataset.json"
    ours = card.is_file() and f'"{MADE_BY}"' in card.read_text("utf-8")
    if folder.exists() and not ours:
        raise StorageError(
            f"{folder} is there already, and the world did not write it. Choose another folder, or "
            "move it away."
        )


def _plain(row: Row) -> data.Row:
    """The row as any dataset has it: the template stays behind."""
    return data.Row(
        id=row.id,
        prompt=row.prompt,
        image=row.image,
        behaviour=row.behaviour,
        answer=row.answer,
        labels=row.labels,
    )


def _card(suite: Suite, split: Split, seed: int, members: list[Row]) -> dict[str, object]:
    """What `dataset.json` says of a split: where it came from, and its baseline and markers."""
    card: dict[str, object] = {
        "made_by": MADE_BY,
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
