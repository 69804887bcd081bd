import pickle
import zipfile

import pytest
import torch

import tiny
from steersman.core.errors import ArtifactError, RecipeError
from steersman.core.io import load_artifact, save_artifact
from steersman.core.types import ModelSpec, Scope
from steersman.methods.importers import PRESETS, import_l2s, preset
from steersman.methods.l2s import L2S
from toy import rows

QWEN = "l2s-safety-qwen2-vl"
D, K = 3584, 100


def tensors(d=D, k=K):
    draw = torch.Generator().manual_seed(0)
    return {
        "encoder.weight": torch.randn(k, d, generator=draw) * 0.02,
        "encoder.bias": torch.randn(k, generator=draw),
        "decoder.weight": torch.randn(d, k, generator=draw) * 0.1,
    }


def saved(path, content):
    torch.save(content, path)
    return path


@pytest.mark.parametrize("wrapped", [False, True])
def test_both_released_containers_give_the_authors_function(tmp_path, wrapped):
    net = tensors()
    file = saved(tmp_path / "net.pt", {"steering_model": net} if wrapped else net)
    artifact = import_l2s(file, QWEN)
    save_artifact(artifact, tmp_path / "policy")
    steerer = load_artifact(tmp_path / "policy").policy.steerers["safety"]
    context = torch.randn(3, D)
    hidden = torch.tanh(context @ net["encoder.weight"].T + net["encoder.bias"])
    assert torch.allclose(
        steerer.synthesizer.synthesize(context), hidden @ net["decoder.weight"].T, atol=1e-4
    )
    assert steerer.strength == 2.2 and steerer.scope == Scope.ALL
    assert steerer.sites[0].layer == 14 and not steerer.synthesizer.read.generation_prompt
    assert artifact.model.fingerprint == {} and "Qwen" in artifact.model.id


@pytest.mark.parametrize(
    ("name", "site", "context", "hidden", "strength"),
    [
        ("l2s-safety-llava-1.5", 15, 30, 100, 2.2),
        ("l2s-safety-qwen2-vl", 14, 14, 100, 2.2),
        ("l2s-pope-llava-1.5", 14, 14, 100, 1.0),
        ("l2s-pope-qwen2-vl", 17, 17, 400, 1.0),
    ],
)
def test_presets_hold_the_published_values(name, site, context, hidden, strength):
    method = preset(name).method
    assert isinstance(method, L2S)
    assert (method.site.layer, method.context.site.layer) == (site, context)
    assert (method.net.hidden, method.strength) == (hidden, strength)
    safety = "safety" in name
    assert method.context.generation_prompt != safety
    assert method.contrasts.position.reduce == ("last" if safety else "mean")
    assert method.contrasts.norms == ("match" if safety else "keep")
    assert sum(name.startswith("l2s") for name in PRESETS) == 4


def test_the_qwen_safety_preset_reads_its_referrals_one_token_earlier():
    rule = preset(QWEN).method.contrasts
    assert {b: p.skip_last for b, p in rule.position_of.items()} == {
        "legal": 1, "financial": 1, "health": 1,
    }  # fmt: skip


def test_a_preset_runs_on_a_tiny_model_once_its_layers_fit():
    small = ["site.layer=1", "context.site.layer=2", "net.hidden=4", "net.epochs=2"]
    words = ['contrasts.behaviours.expert={positive="yes", negative="no"}']
    recipe = preset("l2s-safety-llava-1.5", [*small, *words])
    steerer = recipe.method.fit(tiny.llama(), rows(12))
    assert steerer.strength == 2.2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({**tensors(8, 4), "extra": torch.zeros(1)}, "holds .*extra.* and nothing else"),
        ({"encoder.weight": torch.zeros(4, 8)}, "holds encoder.weight"),
        ({**tensors(8, 4), "decoder.bias": torch.ones(8)}, "decoder bias"),
        ({**tensors(8, 4), "encoder.bias": torch.zeros(5)}, "do not belong to one net"),
        ({**tensors(8, 4), "encoder.bias": torch.full((4,), float("nan"))}, "NaN"),
        ({"a": 1}, "not a table of tensors"),
        (torch.zeros(3), "not a table of tensors"),
        (tensors(8, 4), "states of 8 numbers.*3584"),
        (tensors(D, 7), "7 hidden units.*100"),
    ],
)
def test_anything_else_in_the_file_is_refused(tmp_path, content, says):
    with pytest.raises(ArtifactError, match=says):
        import_l2s(saved(tmp_path / "net.pt", content), QWEN)


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code from a file ran')",))


def test_code_in_the_file_never_runs(tmp_path):
    file = tmp_path / "net.pt"
    torch.save({"steering_model": Bomb()}, file)
    with pytest.raises(ArtifactError, match="more than tensors"):
        import_l2s(file, QWEN)
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ArtifactError, match="damaged, or holds more"):
        import_l2s(tmp_path / "raw.pt", QWEN)


def test_a_truncated_file_is_refused(tmp_path):
    file = saved(tmp_path / "net.pt", tensors())
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match="damaged"):
        import_l2s(file, QWEN)
    with zipfile.ZipFile(tmp_path / "empty.pt", "w"):
        pass
    with pytest.raises(ArtifactError):
        import_l2s(tmp_path / "empty.pt", QWEN)


def test_an_unknown_preset_names_the_nearest(tmp_path):
    with pytest.raises(RecipeError, match="Did you mean 'l2s-safety-qwen2-vl'"):
        import_l2s(tmp_path / "x.pt", "l2s-safety-qwen2vl")


def test_a_models_fingerprint_is_stamped_when_it_is_at_hand(tmp_path):
    spec = ModelSpec(
        "local", "Qwen2VLForConditionalGeneration", D, 28, fingerprint={"weights": "x"}
    )
    artifact = import_l2s(saved(tmp_path / "n.pt", tensors()), QWEN, spec)
    assert artifact.model.fingerprint == {"weights": "x"}
