"""`steersman show`: what a fit recorded, in sentences and as a page."""

import json

import pytest
import torch
from typer.testing import CliRunner

import tiny
from fitted import ALL, LAYERS
from steersman.cli.main import app
from steersman.core.errors import RecipeError
from steersman.core.io import MANIFEST, Artifact, save_artifact
from steersman.core.steerer import Policy, Steerer
from steersman.gates.always import AlwaysOpen
from steersman.operators.add import Add
from steersman.synthesizers.static import StaticVector
from toy import SITE


def invoke(*words: object):
    return CliRunner().invoke(app, [str(w) for w in words])


@pytest.fixture
def policy(tmp_path):
    def write(**provenance):
        spec = tiny.llama().spec
        vector = torch.ones(1, spec.d_model)
        steerer = Steerer(
            sites=(SITE,),
            gate=AlwaysOpen(),
            synthesizer=StaticVector(sites=(SITE,), vectors=vector),
            operator=Add(),
        )
        artifact = Artifact(Policy(steerers={"safety": steerer}), spec, provenance, "0.1.0")
        return save_artifact(artifact, tmp_path / "policy")

    return write


def test_show_says_each_record_in_a_line(policy):
    said = invoke("show", policy(method="caa", fit=list(ALL))).output
    assert "how it was fitted" in said
    assert "layer 4 by sas 0.35 [0.30, 0.41], not distinguishable from layer 5" in said
    assert "net: 3 epochs" in said
    several = invoke("show", policy(fit={"safety": [LAYERS]})).output
    assert "how safety was fitted" in several
    assert "was fitted" not in invoke("show", policy(method="caa")).output


def test_the_page_is_written_beside_what_is_printed(policy, tmp_path):
    out = tmp_path / "deep" / "fit.html"
    shown = invoke(
        "show", policy(method="caa", data_hash="ab" * 32, fit=list(ALL)), "--report", out
    )
    assert shown.exit_code == 0, shown.output
    page = out.read_text(encoding="utf-8")
    assert page.count("<svg") == 1 + len(ALL) and "ab" * 32 in page and ">caa<" in page
    as_json = invoke("show", tmp_path / "policy", "--report", out, "--json")
    assert json.loads(as_json.output)["provenance"]["fit"][0]["chosen"] == 4


def test_there_is_nothing_to_draw(policy, tmp_path):
    out = tmp_path / "fit.html"
    for words, problem in (
        (("show", "l2s"), "l2s was given"),
        (("show",), "nothing was given"),
        (("show", policy(method="caa")), "holds no records of its fit"),
    ):
        error = invoke(*words, "--report", out).exception
        assert isinstance(error, RecipeError) and problem in str(error)
    assert not out.exists()


def test_a_policy_is_never_written_over(policy):
    made = policy(fit=[LAYERS])
    before = (made / MANIFEST).read_bytes()
    for out in (made, made / MANIFEST, made / "fit.html"):
        error = invoke("show", made, "--report", out).exception
        assert isinstance(error, RecipeError) and "Write the page beside it" in str(error)
    assert (made / MANIFEST).read_bytes() == before and len(list(made.iterdir())) == 2
