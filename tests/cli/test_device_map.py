"""Models larger than one device on the command line."""

import json

import pytest
from typer.testing import CliRunner

import tiny
from steersman.cli import shared
from steersman.cli.main import app
from steersman.core.errors import RecipeError


@pytest.fixture
def asked(monkeypatch):
    """What the loader was asked for."""
    found = []
    monkeypatch.setattr(shared, "load", lambda source, **how: found.append(how) or tiny.llama())
    return found


def invoke(*words: str):
    return CliRunner().invoke(app, list(words))


def test_a_device_map_reaches_the_loader_in_the_place_of_a_device(asked):
    made = invoke("generate", "a b", "--max-new-tokens", "2", "--device-map", "auto", "--json")
    assert json.loads(made.stdout)["unsteered"]["num_generated_tokens"] == 2
    invoke("generate", "a b", "--max-new-tokens", "2", "--json")
    assert [(how["device"], how["device_map"]) for how in asked] == [(None, "auto"), ("cpu", None)]


@pytest.mark.parametrize("verb", ["fit", "eval", "generate", "compare"])
def test_every_verb_that_runs_a_model_has_it(verb):
    assert "--device-map" in invoke(verb, "--help").stdout


def test_a_device_and_a_device_map_exclude_each_other(asked):
    made = invoke("generate", "a b", "--device", "cuda", "--device-map", "auto")
    assert isinstance(made.exception, RecipeError) and not asked
    assert "--device cuda and --device-map auto" in str(made.exception)


def test_several_processes_of_torchrun_would_write_the_same_files(asked, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    made = invoke("generate", "a b")
    assert isinstance(made.exception, RecipeError) and not asked
    assert "torchrun started 2 processes" in str(made.exception)
