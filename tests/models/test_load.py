"""Models by path or hub id; what cannot be loaded says so in one sentence."""

import ast
import json
from pathlib import Path

import pytest
import torch

import oracle
import steersman
import tiny
from steersman.backends.hf import load
from steersman.core.errors import ModelError
from steersman.core.requests import Request


@pytest.fixture
def saved(tmp_path):
    model = tiny.llama()
    model.model.save_pretrained(tmp_path / "m")
    model.chat.tokenizer.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def refusal(source) -> str:
    with pytest.raises(ModelError) as caught:
        load(str(source))
    message = str(caught.value)
    assert str(source) in message and "Give a folder" in message
    assert "Traceback" not in message and "\n" not in message and len(message) < 700
    return message


def test_a_saved_model_comes_back_as_it_was(saved):
    loaded, model = load(str(saved)), tiny.llama()
    assert loaded.spec.fingerprint == model.spec.fingerprint
    assert loaded.spec.id == str(saved)
    first, second = (
        m.generate([Request(p, oracle.policy(), max_new_tokens=3) for p in oracle.PROMPTS])
        for m in (loaded, model)
    )
    assert [c.token_ids for c in first] == [c.token_ids for c in second]
    assert load(str(saved), dtype=torch.bfloat16).model.dtype == torch.bfloat16


@pytest.mark.parametrize("make", [tiny.llava, tiny.qwen2_vl])
def test_a_saved_model_that_sees_still_sees(make, tmp_path):
    model = make()
    model.model.save_pretrained(tmp_path / "m")
    model.chat.processor.save_pretrained(tmp_path / "m")
    loaded = load(str(tmp_path / "m"))
    assert loaded.spec.modalities == ("text", "image")
    assert loaded.spec.fingerprint["weights"] == model.spec.fingerprint["weights"]
    prompt = oracle.prompts_for("llava")[3]
    acts = [m.capture([prompt], [oracle.SITE])[oracle.SITE] for m in (loaded, model)]
    assert torch.allclose(*acts, atol=1e-5)


def test_a_path_that_does_not_exist(tmp_path):
    assert "There is no model at" in refusal(tmp_path / "nowhere")
    assert "There is no model at" in refusal("./nowhere")


def test_a_hub_id_that_is_not_on_this_machine():
    assert "could not be loaded" in refusal("nobody/no-such-model-of-steersman")


def test_an_empty_folder(tmp_path):
    refusal(tmp_path)


def test_a_config_that_is_cut_off(saved):
    text = (saved / "config.json").read_text()
    (saved / "config.json").write_text(text[: len(text) // 2])
    refusal(saved)


def test_a_config_of_an_unknown_architecture(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "model_type": "unheard_of"}))
    assert "unheard_of" in refusal(saved)


def test_weights_that_are_cut_off(saved):
    blob = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(blob[: len(blob) // 2])
    refusal(saved)


def test_weights_that_are_missing(saved):
    (saved / "model.safetensors").unlink()
    refusal(saved)


def test_weights_of_another_size(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "hidden_size": 16}))
    refusal(saved)


def test_a_missing_tokenizer(saved):
    for file in saved.glob("tokenizer*"):
        file.unlink()
    refusal(saved)


def test_code_from_the_model_is_never_run(saved, monkeypatch):
    """A folder may bring Python of its own; it stays unread, also when the user would say yes."""
    (saved / "evil.py").write_text(f"open({str(saved / 'ran')!r}, 'w')\nclass C: pass\n")
    config = json.loads((saved / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C"}}
    (saved / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    refusal(saved)
    assert not (saved / "ran").exists()


def test_no_source_file_turns_remote_code_on():
    checked = 0
    for path in Path(steersman.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, path
                checked += 1
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            if called and node.func.attr == "from_pretrained":
                assert any(k.arg == "trust_remote_code" for k in node.keywords), path
    assert checked >= 5


@pytest.mark.parametrize("name", ["Unheard", None])
def test_a_model_that_sees_with_a_processor_that_does_not(tmp_path, name):
    """transformers answers with the tokenizer alone, and every image would be dropped."""
    model = tiny.llava()
    model.model.save_pretrained(tmp_path / "m")
    model.chat.processor.save_pretrained(tmp_path / "m")
    for file in ("processor_config.json", "tokenizer_config.json"):
        settings = json.loads((tmp_path / "m" / file).read_text())
        settings["processor_class"] = name
        (tmp_path / "m" / file).write_text(json.dumps(settings))
    if name is None:
        (tmp_path / "m" / "processor_config.json").unlink()
    assert "prepares no images" in refusal(tmp_path / "m") or name is None
