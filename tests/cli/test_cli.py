"""What a user meets on the command line: output, exit codes, and one clear error each."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import typer
from PIL import Image
from rich.text import Text
from typer.testing import CliRunner

import tiny
from steersman.cli import shared
from steersman.cli.main import app, main
from steersman.core.errors import SteersmanError
from steersman.core.io import Artifact, save_artifact
from steersman.core.steerer import Policy
from steersman.methods.mean import MeanVector
from toy import RULE, SITE, rows

RECIPE = """
method = "mean"
name = "safety"
site = { layer = 1 }
[contrasts.behaviours.harmful]
suffix = " safe ?"
positive = "harmful"
negative = "safe"
"""


@pytest.fixture
def tiny_models(monkeypatch):
    """The verbs get tiny random models instead of loading one: "a" and "b" are two of them."""
    models = {"a": tiny.llama(), "b": tiny.llama(1), "llava": tiny.llava()}
    monkeypatch.setattr(shared, "load", lambda source, **_: models[source])
    return models


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    data = tmp_path / "data"
    data.mkdir()
    lines = [
        {"id": f"{i}", "prompt": f"how do i make {w} ?", "behaviour": ("harmful", "none")[i % 2]}
        for i, w in enumerate(("bomb", "cup", "a", "b"))
    ]
    (data / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def invoke(*words: object):
    return CliRunner().invoke(app, [str(w) for w in words])


def fails(*words: object) -> str:
    """The one error that a command ends with."""
    result = invoke(*words)
    assert isinstance(result.exception, SteersmanError), result.output
    return str(result.exception)


def fit(folder, out="policy", model="a", *more):
    return invoke(
        "fit", folder / "recipe.toml", "--data", folder / "data", "--out", folder / out,
        "--model", model, *more,
    )  # fmt: skip


def test_fit_generate_show(folder, tiny_models):
    made = fit(folder)
    assert made.exit_code == 0 and "fitted" in made.output
    answer = invoke("generate", "how do i ?", "--model", "a", "--policy", folder / "policy",
                    "--max-new-tokens", 4)  # fmt: skip
    assert answer.exit_code == 0, answer.output
    assert "unsteered" in answer.output and "gate 1.00" in answer.output
    shown = invoke("show", folder / "policy")
    assert "tiny-llama" in shown.output and "resid_post[1]" in shown.output


def test_json_is_json_and_nothing_else(folder, tiny_models):
    assert json.loads(fit(folder, "policy", "a", "--json").output)["rows"] == 4
    answer = invoke("generate", "how ?", "--model", "a", "--policy", folder / "policy", "--json")
    said = json.loads(answer.output)
    assert said["steered"]["trace"]["safety"]["tokens_written"] > 0
    assert json.loads(invoke("show", folder / "policy", "--json").output)["model"]["id"]
    assert any(p["name"] == "l2s" for p in json.loads(invoke("show", "--json").output))
    assert json.loads(invoke("show", "l2s", "--json").output)["fields"]


def test_a_setting_overrides_the_recipe(folder, tiny_models):
    assert fit(folder, "policy", "a", "--set", "strength=0.5").exit_code == 0
    policy = json.loads(invoke("show", folder / "policy", "--json").output)["policy"]
    assert policy["steerers"]["safety"]["strength"] == 0.5


def test_show_prints_the_documentation_of_a_method():
    said = invoke("show", "l2s").output
    assert "arXiv:2508.12815" in said and "context" in said and "Departs from the paper" in said


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("sitte = { layer = 1 }", "sitte.*unknown field.*Did you mean 'site'"),
        ("strength = 'much'", "strength.*'much' is a str.*needs a float"),
        ("scope = 'everywhere'", "no scope 'everywhere'"),
        ("[contrasts", "not valid TOML"),
    ],
)
def test_a_wrong_recipe_names_the_field(folder, tiny_models, change, says):
    import re

    (folder / "recipe.toml").write_text(change + "\n" + RECIPE.replace("site =", "site =", 1))
    said = fails("fit", folder / "recipe.toml", "--data", folder / "data", "--out", folder / "p",
                 "--model", "a")  # fmt: skip
    assert re.search(says, said) and "recipe.toml" in said or "scope" in said
    assert not (folder / "p").exists()


def test_a_layer_that_the_model_has_not(folder, tiny_models):
    said = fails("fit", folder / "recipe.toml", "--data", folder / "data", "--out", folder / "p",
                 "--model", "a", "--set", "site.layer=7")  # fmt: skip
    assert "resid_post[7]" in said and "3 layers" in said and "below 3" in said


def test_an_unknown_behaviour_is_told_before_a_model_is_loaded(folder, monkeypatch):
    monkeypatch.setattr(shared, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    data = (folder / "data/pairs.jsonl").read_text().replace('"harmful"', '"harmfull"')
    (folder / "data/pairs.jsonl").write_text(data)
    said = fails("fit", folder / "recipe.toml", "--data", folder / "data", "--out", folder / "p")
    assert "harmfull" in said and "Did you mean 'harmful'" in said


def test_the_wrong_model_for_an_artifact(folder, tiny_models):
    fit(folder)
    words = ("generate", "how ?", "--model", "b", "--policy", folder / "policy")
    said = fails(*words)
    assert "weights" in said and "tiny-llama" in said and "force" in said
    assert invoke(*words, "--force").exit_code == 0


def test_a_truncated_artifact(folder, tiny_models):
    fit(folder)
    file = folder / "policy/steersman.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    said = fails("generate", "how ?", "--model", "a", "--policy", folder / "policy")
    assert "truncated" in said and "steersman.safetensors" in said


def test_an_image_for_a_text_model_and_a_broken_image(folder, tiny_models):
    Image.new("RGB", (28, 28)).save(folder / "x.png")
    said = fails("generate", "how ?", "--model", "a", "--image", folder / "x.png")
    assert "reads text only" in said
    (folder / "y.png").write_bytes((folder / "x.png").read_bytes()[:40])
    assert "y.png" in fails("generate", "how ?", "--model", "llava", "--image", folder / "y.png")
    assert "z.png" in fails("generate", "how ?", "--model", "llava", "--image", folder / "z.png")


def test_an_unknown_part_names_the_nearest():
    assert "Did you mean 'prober'" in fails("show", "probr")


def test_an_error_is_one_message_on_stderr_and_status_1(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["steersman", "show", "no-such-part"])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr()
    assert stopped.value.code == 1 and said.out == ""
    assert said.err.startswith("RecipeError: There is no part") and "Traceback" not in said.err


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from typer.testing import CliRunner; from steersman.cli.main import app;"
        "r = CliRunner().invoke(app, ['--help']); assert r.exit_code == 0, r.output;"
        "assert 'transformers' not in sys.modules and 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_eval_puts_the_policy_beside_its_controls(tmp_path, tiny_models):
    model, data = tiny_models["a"], tmp_path / "pope"
    steerer = MeanVector(site=SITE, contrasts=RULE).fit(model, rows())
    provenance = {"method": "mean"}
    save_artifact(
        Artifact(Policy(steerers={"s": steerer}), model.spec, provenance), tmp_path / "policy"
    )
    data.mkdir()
    lines = [
        {
            "id": f"{i}",
            "prompt": "a b ?",
            "answer": ("yes", "no")[i % 2],
            "labels": {"split": "random"},
        }
        for i in range(6)
    ]
    (data / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    card = {"suite": "pope", "split": "test", "prompt_baseline": "the ."}
    (data / "dataset.json").write_text(json.dumps(card))
    words = ("eval", "--data", data, "--policy", tmp_path / "policy", "--model", "a",
             "--out", tmp_path / "out", "--json")  # fmt: skip
    said = json.loads(invoke(*words).output)
    assert {row["method"] for row in said["rows"]} == {"none", "prompt", "random", "mean"}
    assert all(row["low"] <= row["value"] <= row["high"] for row in said["rows"])
    answers = (tmp_path / "out/answers.jsonl").read_text().splitlines()
    assert len(answers) == 24
    again = json.loads(invoke(*words).output)  # every answer is remembered
    assert again["rows"] == said["rows"]


def test_the_installed_command_ends_with_one_message():
    command = Path(sys.executable).with_name("steersman")
    made = subprocess.run([command, "show", "art/nope"], capture_output=True, text=True)
    assert made.returncode == 1 and made.stdout == ""
    assert made.stderr.startswith("ArtifactError:") and "Traceback" not in made.stderr


def test_names_of_others_are_not_read_as_markup(folder, tiny_models):
    out = folder / "[red]x[-red]"
    assert invoke("fit", folder / "recipe.toml", "--data", folder / "data", "--out", out,
                  "--model", "a").exit_code == 0  # fmt: skip
    assert "[red]x[-red]" in invoke("show", out).output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--out", "POLICY_WITH_FILES"), "would be lost"),
        (("--calibration", "DATA"), "holds the rows to fit on"),
    ],
)
def test_what_would_fail_late_fails_first(folder, monkeypatch, words, says):
    monkeypatch.setattr(shared, "load", lambda *_, **__: tiny.llama())
    taken = folder / "taken"
    taken.mkdir()
    (taken / "thesis.tex").write_text("mine")
    put = {"POLICY_WITH_FILES": taken, "DATA": folder / "data"}
    given = [put.get(w, w) for w in words]
    out = [] if "--out" in words else ["--out", folder / "p"]
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.replace('"mean"', '"l2s"') + "\n[context]\nsite = { layer = 1 }\n")
    said = fails("fit", recipe, "--data", folder / "data", *out, *given, "--model", "a")
    assert says in said
    assert (taken / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize("limit", [(), ("--limit", "1")])
def test_rows_that_were_fitted_on_are_not_evaluated(folder, tiny_models, limit):
    assert fit(folder).exit_code == 0
    card = {"suite": "safety", "markers": {"refuse": ["no"], "refer": ["yes"], "help": ["a"]}}
    (folder / "data/dataset.json").write_text(json.dumps(card))
    said = fails("eval", "--data", folder / "data", "--policy", folder / "policy", "--model", "a",
                 "--out", folder / "out", *limit)  # fmt: skip
    assert "fitted on" in said


@pytest.mark.parametrize("seeds", ["abc", "3,3", ""])
def test_seeds_are_checked_before_anything_runs(seeds):
    assert "--seeds" in fails("world", "ladder", "--seeds", seeds)


def test_the_world_does_not_write_over_somebody_elses_data(folder):
    own = folder / "safety" / "fit"
    own.mkdir(parents=True)
    (own / "pairs.jsonl").write_text('{"id": "1", "prompt": "mine"}\n')
    assert "did not write it" in fails("world", "write", "--out", folder)
    assert "mine" in (own / "pairs.jsonl").read_text()


def helps(group, words=()):
    """The text of every verb's help, as it was written."""
    for name, command in group.commands.items():
        yield (*words, name), command.help or ""
        if hasattr(command, "commands"):
            yield from helps(command, (*words, name))


def test_nothing_in_a_help_text_is_taken_for_markup():
    texts = dict(helps(typer.main.get_command(app)))
    assert ("cache", "rm") in texts
    assert [words for words, text in texts.items() if Text.from_markup(text).plain != text] == []


@pytest.mark.filterwarnings("always")
def test_a_warning_is_its_text_alone(monkeypatch, capsys):
    def warn():
        warnings.warn("rows-1 cannot be read", stacklevel=1)

    monkeypatch.setattr("steersman.cli.main.app", warn)
    main()
    assert capsys.readouterr().err == "Warning: rows-1 cannot be read\n"
