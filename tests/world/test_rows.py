"""Dataset rows, images and the written format."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from steersman.world.catalogue import CLASSES, COLOURS, PARTNER
from steersman.world.icons import draw_icon
from steersman.world.rows import NOVEL, POPE_SPLITS, SPLITS, SUITES, Sizes, SplitSizes, rows
from steersman.world.templates import TASKS, templates
from steersman.world.write import write_world

SMALL = Sizes(SplitSizes(54, 18, 18), SplitSizes(16, 8, 16), SplitSizes(8, 8, 8))


def test_every_class_is_drawn_differently() -> None:
    drawn = [np.asarray(draw_icon(name, COLOURS["red"]), dtype=int) for name in CLASSES]
    for i, a in enumerate(drawn):
        for b in drawn[:i]:
            assert (abs(a - b).sum(-1) > 0).mean() > 0.05


def test_images_are_small_rgb() -> None:
    image = rows("utility", "fit", n=1)[0].image
    assert (image.size, image.mode) == ((64, 64), "RGB")


@pytest.mark.parametrize("split", ["calibration", "test"])
def test_safety_is_balanced(split) -> None:
    members = rows("safety", split, n=54)
    counts = Counter((row.labels["kind"], row.labels["want"]) for row in members)
    assert set(counts.values()) == {6}
    assert len(counts) == 9


def test_safety_fit_mixes_in_other_questions() -> None:
    members = rows("safety", "fit", n=162)
    wants = Counter(row.labels["want"] for row in members)
    assert wants == {"refuse": 36, "refer": 36, "help": 36, "answer": 54}
    assert {row.behaviour for row in members if row.labels["want"] in ("help", "answer")} == {
        "none"
    }


@pytest.mark.parametrize("split", SPLITS)
def test_pope_is_balanced(split) -> None:
    members = rows("pope", split, n=43 if split == "fit" else 32)
    if split == "fit":  # every fourth row is another question, to be left alone
        others = [row for row in members if row.behaviour == "none"]
        assert len(others) == 10 and {"task" in row.labels for row in others} == {True, False}
        members = [row for row in members if row.behaviour == "object"][:32]
    counts = Counter((row.labels["split"], row.answer) for row in members)
    assert set(counts.values()) == {4}
    assert {key[0] for key in counts} == set(POPE_SPLITS)


def test_pope_adversarial_asks_for_partners() -> None:
    asked = [r for r in rows("pope", "test", n=64) if r.labels["split"] == "adversarial"]
    assert all(row.labels["object"] in PARTNER for row in asked if row.answer == "no")


def test_utility_answers_meet_their_own_acceptance() -> None:
    for row in rows("utility", "test", n=80):
        assert all(accepted in row.answer for accepted in row.labels["accept"])
        assert row.labels["object"] in row.prompt


@pytest.mark.parametrize("suite", SUITES)
def test_rows_depend_on_seed_and_split_only(suite) -> None:
    first, again = rows(suite, "test", 3, 12), rows(suite, "test", 3, 24)[:12]
    assert [r.prompt for r in first] == [r.prompt for r in again]
    assert all(a.image.tobytes() == b.image.tobytes() for a, b in zip(first, again, strict=True))
    other = rows(suite, "test", 4, 12)
    assert [r.prompt for r in first] != [r.prompt for r in other]


@pytest.mark.parametrize("suite", SUITES)
def test_splits_share_no_ids_and_no_templates(suite) -> None:
    members = {split: rows(suite, split, n=60) for split in SPLITS}
    ids = [row.id for split in SPLITS for row in members[split]]
    assert len(set(ids)) == len(ids)
    used = {split: {row.template for row in members[split]} for split in SPLITS}
    for split in SPLITS:
        assert used[split] <= {t for task in TASKS for t in templates(task, split)}


def test_written_world_is_well_formed(tmp_path) -> None:
    write_world(tmp_path, seed=5, sizes=SMALL)
    for suite in SUITES:
        for split in SPLITS:
            folder = tmp_path / suite / split
            card = json.loads((folder / "dataset.json").read_text())
            assert (card["suite"], card["split"], card["seed"]) == (suite, split, 5)
            assert card["templates"]
            assert ("prompt_baseline" in card) == (suite != "utility")
            assert ("markers" in card) == (suite == "safety")
            lines = (folder / "pairs.jsonl").read_text().splitlines()
            assert len(lines) == SMALL.of(suite).of(split)
            for line in map(json.loads, lines):
                assert {"id", "prompt", "image", "behaviour", "labels"} <= set(line)
                assert line["behaviour"] in {"harmful", "expert", "none", "object"}
                with Image.open(folder / line["image"]) as image:
                    assert image.size == (64, 64)
    assert not list(tmp_path.rglob("*.draft"))


def test_writing_twice_gives_the_same_bytes(tmp_path) -> None:
    for name in ("a", "b"):
        write_world(tmp_path / name, seed=1, sizes=SMALL)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert files
    for file in files:
        if (tmp_path / "a" / file).is_file():
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("split", SPLITS)
def test_some_objects_are_asked_for_in_the_test_split_only(split) -> None:
    howtos = [r for r in rows("safety", split, n=400) if "task" not in r.labels]
    asked = {row.labels["object"] for row in howtos if row.labels["domain"] != "other"}
    assert bool(asked & NOVEL) == (split == "test")
    assert all(r.labels.get("novel", False) == (r.labels["object"] in NOVEL) for r in howtos
               if r.labels["domain"] != "other")  # fmt: skip


def test_questions_to_fit_on_come_in_pairs_that_differ_in_the_object() -> None:
    groups: dict[str, list] = {}
    for row in rows("safety", "fit", n=162):
        if "pair" in row.labels:
            groups.setdefault(row.labels["pair"], []).append(row)
    assert len(groups) == 36
    for members in groups.values():
        assert [r.labels["want"] for r in members] == ["refuse", "refer", "help"]
        assert len({(r.template, r.labels["kind"]) for r in members}) == 1
        assert len({r.labels["object"] for r in members}) == 3


def test_the_same_question_is_asked_where_nothing_is_shown() -> None:
    blank = [r for r in rows("safety", "fit", n=162) if r.labels["domain"] == "blank"]
    assert len(blank) == 9 and {r.behaviour for r in blank} == {"none"}
    assert all(np.asarray(r.image, dtype=int).std(axis=(0, 1)).max() < 1 for r in blank)
