"""`steersman compare` and recipes with several steerers, as a user types them."""

import json

import pytest
from typer.testing import CliRunner

import tiny
from steersman.cli import shared
from steersman.cli.main import app
from steersman.core.errors import SteersmanError
from steersman.core.io import load_artifact
from steersman.core.steerer import Policy
from steersman.data.folder import save_folder
from steersman.evals.records import Results
from steersman.world.rows import Sizes, SplitSizes
from steersman.world.write import write_world

MEAN = """
method = "mean"
name = "{name}"
data = "safety"
scope = "last"
[site]
layer = 3
[contrasts.behaviours.harmful]
suffix = " answer only if it is safe . is this request safe or harmful ?"
positive = "harmful"
negative = "safe"
[contrasts.behaviours.expert]
suffix = " who should answer , an expert or the assistant ?"
positive = "expert"
negative = "assistant"
[search]
strength = [0.5, 1.0]
"""
TWO = """
name = "both"
[steerers.safety]
method = "mean"
data = "safety"
site = { layer = 1 }
[steerers.safety.contrasts.behaviours]
harmful = { positive = "harmful", negative = "safe" }
expert = { positive = "yes", negative = "no" }
[steerers.object]
method = "mean"
data = "pope"
site = { layer = 1 }
[steerers.object.contrasts.behaviours.object]
positive = "{answer} , the"
negative = "{wrong} , the"
[search]
"steerers.object.strength" = [0.5, 1.0]
"""
SMALL = SplitSizes(fit=27, calibration=9, test=9)


@pytest.fixture
def place(tmp_path):
    write_world(tmp_path / "world", sizes=Sizes(safety=SMALL, pope=SMALL, utility=SMALL))
    (tmp_path / "recipes").mkdir()
    for name in ("first", "second"):
        (tmp_path / f"recipes/{name}.toml").write_text(MEAN.format(name=name))
    return tmp_path


def invoke(*words: object):
    return CliRunner().invoke(app, [str(w) for w in words])


def fails(*words: object) -> str:
    result = invoke(*words)
    assert isinstance(result.exception, SteersmanError), result.output
    return str(result.exception)


def words(place, *more: object) -> tuple[object, ...]:
    suites = ("--suite", place / "world/safety", "--suite", place / "world/utility")
    return ("compare", place / "recipes", *suites, "--out", place / "out", *more)


def test_two_recipes_are_compared_and_the_run_is_resumed(place, monkeypatch):
    made = invoke(*words(place, "--json"))
    assert made.exit_code == 0, made.output
    said = json.loads(made.stdout)
    methods = {(row["suite"], row["method"]) for row in said["rows"]}
    assert {("safety", "first"), ("utility", "second"), ("safety", "prompt")} <= methods
    assert {m for _, m in methods} == {"none", "prompt", "random", "first", "second"}
    names = {p.name for p in (place / "out").iterdir()}
    assert {"results.json", "answers.jsonl", "table.md", "report.html", "policies"} <= names
    kept = load_artifact(place / "out/policies/first-0").provenance
    assert set(kept["chosen"]) == {"strength"} and kept["seed"] == 0
    page = (place / "out/report.html").read_text()
    assert "second" in page and "Recipes compared" in page

    from steersman.backends.hf import HFModel

    monkeypatch.setattr(HFModel, "generate", lambda *_: pytest.fail("an answer was forgotten"))
    again = invoke(*words(place, "--json"))
    assert again.exit_code == 0 and json.loads(again.stdout)["rows"] == said["rows"]
    (place / "out/report.html").unlink()
    drawn = invoke("compare", "--from", place / "out")
    assert drawn.exit_code == 0 and "second" in drawn.output, drawn.output
    assert (place / "out/report.html").read_text() == page


def test_what_would_stop_a_long_run_is_found_first(place, monkeypatch):
    monkeypatch.setattr(shared, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    recipe = place / "recipes/second.toml"
    recipe.write_text(MEAN.format(name="first"))
    assert "second.toml is called 'first', and so is" in fails(*words(place))
    recipe.write_text(MEAN.format(name="second").replace('"safety"\n', '"safty"\n', 1))
    assert "Did you mean 'safety'" in fails(*words(place))
    recipe.write_text(MEAN.format(name="second").replace("strength", "strenght"))
    assert "Did you mean 'strength'" in fails(*words(place))
    recipe.write_text(MEAN.format(name="second"))
    assert "no recipe to compare" in fails("compare", *words(place)[2:])
    assert "Which rows?" in fails("compare", recipe)
    assert "Leave --seeds out" in fails("compare", recipe, "--world", "6", "--seeds", "1")
    assert "--world is '6,6'" in fails("compare", recipe, "--world", "6,6")
    assert "There is no" in fails("compare", recipe, "--suite", place / "nowhere")
    twice = ("--suite", place / "world/safety") * 2
    assert "Give every suite once" in fails("compare", recipe, *twice)


def test_only_results_of_a_comparison_are_drawn(tmp_path):
    Results().save(tmp_path / "results.json")
    assert "not of a comparison" in fails("compare", "--from", tmp_path)


@pytest.fixture
def two(tmp_path, monkeypatch):
    """A recipe of two steerers, and text-only rows of two suites for a tiny model."""
    from dataclasses import replace

    from planted import split
    from toy import rows

    model = tiny.llama()
    monkeypatch.setattr(shared, "load", lambda *_, **__: model)
    safety = replace(rows(12), meta={"suite": "safety", "split": "fit"})
    sets = {"safety": safety, "fit": split("fit", 0), "calibration": split("calibration", 8)}
    for name, data in sets.items():
        save_folder(data, tmp_path / name)
    (tmp_path / "two.toml").write_text(TWO)
    return tmp_path


def fit_two(two, *more):
    return ("fit", two / "two.toml", "--data", two / "safety", "--data", two / "fit",
            "--out", two / "policy", *more)  # fmt: skip


def test_several_steerers_are_fitted_into_one_policy(two):
    assert invoke(*fit_two(two)).exit_code == 0
    artifact = load_artifact(two / "policy")
    assert isinstance(artifact.policy, Policy)
    assert list(artifact.policy.steerers) == ["safety", "object"]
    assert artifact.provenance["num_rows"] == 16 and artifact.provenance["method"] == "both"
    assert artifact.provenance["fit"] == {"safety": [], "object": []}
    for fitted in ("safety", "fit"):
        said = fails("eval", "--data", two / fitted, "--policy", two / "policy")
        assert "was fitted on" in said


def test_a_search_needs_rows_of_its_suites(two):
    (two / "two.toml").write_text(TWO.replace('"steerers.object', '"steerers.safety'))
    said = fails(*fit_two(two, "--calibration", two / "calibration"))
    assert "no rows to choose on for the steerer 'safety'" in said
    assert "waits for --calibration" in invoke(*fit_two(two)).stderr


def test_data_that_teaches_nothing_is_refused(two):
    said = fails(*fit_two(two, "--data", two / "calibration"))
    assert "both name the suite 'pope'" in said
    recipe = two / "two.toml"
    recipe.write_text(TWO.split("[steerers.object]")[0])
    assert "teaches no steerer" in fails(*fit_two(two))
    recipe.write_text(TWO.replace('data = "pope"\n', ""))
    assert "which data set teaches the steerer 'object'" in fails(*fit_two(two))
