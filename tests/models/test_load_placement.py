"""Where the weights go: one way of saying it at a time, and nothing is quietly left out."""

import sys

import pytest

import tiny
from steersman.backends.hf import load
from steersman.core.errors import MissingExtraError, ModelError, RecipeError


@pytest.fixture
def saved(tmp_path):
    model = tiny.llama()
    model.model.save_pretrained(tmp_path / "m")
    model.chat.tokenizer.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


@pytest.mark.parametrize(
    "given",
    [
        dict(device="cpu", device_map="auto"),
        dict(device="cpu", tp="auto"),
        dict(device_map="auto", tp="auto"),
    ],
)
def test_two_ways_of_placing_exclude_each_other(given, saved):
    with pytest.raises(RecipeError) as caught:
        load(saved, **given)
    assert all(name in str(caught.value) for name in given)
    assert "Give one of them" in str(caught.value)


@pytest.mark.parametrize("given", [dict(max_memory={"cpu": "1GB"}), dict(offload_folder="off")])
def test_what_only_a_device_map_uses_is_not_ignored(given, saved):
    with pytest.raises(RecipeError, match='needs a device_map. Add device_map="auto"'):
        load(saved, **given)


def test_sharing_needs_more_than_one_process(saved, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ModelError, match="this one is alone. Start the script with: torchrun"):
        load(saved, tp="auto")
    monkeypatch.setenv("WORLD_SIZE", "2")  # of somebody else: torchrun also says which one this is
    with pytest.raises(ModelError, match="this one is alone"):
        load(saved, tp="auto")


@pytest.mark.parametrize("given", [dict(device_map="auto"), dict(tp="auto")])
def test_without_accelerate_the_extra_is_named(given, saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'steersman\[large\]'"):
        load(saved, **given)
    assert load(saved).model.device.type == "cpu"


def test_a_device_map_that_names_no_device_says_what_there_is(saved):
    with pytest.raises(ModelError, match="could not be loaded.*'balanced'.*nowhere"):
        load(saved, device_map="nowhere")
