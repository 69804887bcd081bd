"""Models larger than one device on the command line."""

import json
import re

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


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--device-map", "atuo"), "--device-map is 'atuo', which is none. Did you mean 'auto'"),
        (("--device", "cudaa"), "--device is 'cudaa', which is none. Did you mean 'cuda'"),
        (("--device", "cuda:x"), "--device is 'cuda:x', which is none. Did you mean 'cuda"),
        (("--device", "cuda"), "--device is cuda, and torch .* sees no GPU here"),
        (("--device", "mps"), "--device is mps, and torch has no such device here"),
    ],
)
def test_devices_that_there_are_not_are_refused_before_anything_is_loaded(
    asked, monkeypatch, given, says
):
    monkeypatch.setattr(shared.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shared.torch.backends.mps, "is_available", lambda: False)
    made = invoke("generate", "a b", *given)
    assert isinstance(made.exception, RecipeError) and not asked
    assert re.search(says, str(made.exception))


def test_a_gpu_beyond_the_last_is_refused(asked, monkeypatch):
    monkeypatch.setattr(shared.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(shared.torch.cuda, "device_count", lambda: 2)
    made = invoke("generate", "a b", "--device", "cuda:2")
    assert "torch sees 2 GPUs here. Write cuda:0 to cuda:1" in str(made.exception) and not asked
    invoke("generate", "a b", "--max-new-tokens", "2", "--device", "cuda:1")
    assert [how["device"] for how in asked] == ["cuda:1"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--device", "cudaa"), "--device is 'cudaa', which is none"),
        (("--device-map", "atuo"), "--device-map is 'atuo', which is none"),
    ],
)
def test_a_cluster_is_not_started_for_a_device_that_there_is_not(given, says):
    option, value = given
    with (
        pytest.raises(RecipeError, match=says),
        shared.open_engine(
            "bundled", shared.Workers("local"), **{option[2:].replace("-", "_"): value}
        ),
    ):
        pytest.fail("it was opened")


@pytest.mark.parametrize("name", ["auto", "balanced", "balanced_low_0", "sequential", "cpu"])
def test_every_map_that_accelerate_knows_reaches_the_loader(asked, name):
    invoke("generate", "a b", "--max-new-tokens", "2", "--device-map", name)
    assert [how["device_map"] for how in asked] == [name]
