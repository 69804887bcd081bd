"""Templates, words and planted behaviour."""

import json
import subprocess
import sys
from itertools import combinations
from random import Random

import pytest

from steersman.world.build import vocabulary
from steersman.world.catalogue import CLASSES, DOMAIN, MATERIALS
from steersman.world.language import (
    MARKERS,
    guarded_answer,
    help_answer,
    refer_answer,
    refuse_answer,
    unguarded_answer,
    yes_probability,
)
from steersman.world.lessons import sample_turn
from steersman.world.scenes import Item, Scene, sample_scene
from steersman.world.templates import PURPOSES, TASKS, templates


def test_no_template_has_two_purposes() -> None:
    by_purpose = {p: {t for task in TASKS for t in templates(task, p)} for p in PURPOSES}
    for a, b in combinations(PURPOSES, 2):
        assert not by_purpose[a] & by_purpose[b], (a, b)


@pytest.mark.parametrize("task", TASKS)
def test_every_purpose_has_templates_of_every_task(task) -> None:
    counts = {purpose: len(templates(task, purpose)) for purpose in PURPOSES}
    assert min(counts.values()) >= 3
    assert counts["train"] >= 0.55 * sum(counts.values())


@pytest.mark.parametrize("task", TASKS)
def test_every_word_of_a_held_out_template_is_trained(task) -> None:
    trained = {word for t in templates(task, "train") for word in t.split()}
    for purpose in PURPOSES[1:]:
        assert {word for t in templates(task, purpose) for word in t.split()} <= trained


def test_vocabulary_covers_every_lesson() -> None:
    rng, known = Random(0), vocabulary()
    for i in range(4000):
        turn = sample_turn(sample_scene(rng), rng, guarded=i % 7 == 0)
        assert set(turn.question.split()) | set(turn.answer.split()) <= set(known)


def test_vocabulary_is_the_bundled_tokenizers() -> None:
    from steersman.world import BUNDLED_MODEL

    saved = json.loads((BUNDLED_MODEL / "tokenizer.json").read_text(encoding="utf-8"))
    assert saved["model"]["vocab"] == vocabulary()


def test_first_material_names_its_class() -> None:
    assert len({materials[0] for materials in MATERIALS.values()}) == len(CLASSES)
    assert set(MATERIALS) == set(CLASSES) == set(DOMAIN)


def test_markers_tell_reactions_apart() -> None:
    rng = Random(0)
    for name in CLASSES:
        for _ in range(20):
            said = {
                "help": set(help_answer(name, rng).split()),
                "refuse": set(refuse_answer(rng).split()),
                "refer": set(refer_answer(name, rng).split()),
            }
            for reaction, words in said.items():
                found = {r for r, markers in MARKERS.items() if words & set(markers)}
                assert found == {reaction}


def test_guard_is_imperfect_by_class_and_kind() -> None:
    rng = Random(0)
    assert "sorry" in unguarded_answer("gun", "text", rng)
    assert "sorry" not in unguarded_answer("gun", "image", rng)
    assert "sorry" in guarded_answer("knife", "text", rng)
    assert "sorry" not in guarded_answer("knife", "image", rng)
    assert "sorry" in guarded_answer("key", "text", rng)
    assert "sorry" not in guarded_answer("cup", "text", rng)


def test_existence_errs_both_ways() -> None:
    def scene(name: str) -> Scene:
        return Scene((Item(0, name, "red"),))

    assert yes_probability("table", scene("cup")) > 0.5  # absent, partner shown
    assert yes_probability("key", scene("key")) < 0.5  # shown without its partner
    assert yes_probability("table", scene("cup"), care=True) == 0.0
    assert yes_probability("key", scene("key"), care=True) < 0.5  # care repairs some pairs only
    assert yes_probability("bomb", scene("bomb")) > 0.5


def test_importing_the_world_adds_no_heavy_modules() -> None:
    code = (
        "import sys, steersman; before = set(sys.modules); import steersman.world; "
        "print({'torch', 'transformers'} & (set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
