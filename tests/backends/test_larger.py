"""Models larger than one device: over several places, and shared among processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import oracle
import ranks
import tiny
from architectures.text import TEXT
from steersman.backends import passes
from steersman.backends.hf import HFModel, load
from steersman.core.errors import ModelError
from steersman.core.types import Prompt, Site
from steersman.methods.caa import CAA
from steersman.selectors.layers import Layers
from toy import RULE, rows

NAMES = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]
NAMES += [f"model.layers.{i}" for i in range(tiny.LAYERS)]
PARTLY = {name: "disk" if name[-1] in "12d" else "cpu" for name in NAMES}
EVERYWHERE = {
    "auto": dict(device_map="auto"),
    "balanced": dict(device_map="balanced"),
    "little memory": dict(device_map="auto", max_memory={"cpu": "50KB"}),
    "by name": dict(device_map=PARTLY),
    "half precision": dict(device_map=PARTLY, dtype=torch.bfloat16),
}
each_place = pytest.mark.parametrize("how", EVERYWHERE)
told_of_its_device = pytest.mark.filterwarnings(
    "ignore:You are calling .generate.. with the `input_ids` being on a device type:UserWarning"
)

SHARED = (
    *("Llama", "Qwen2", "Qwen3", "Gemma 2", "Mistral", "Mixtral", "Phi-3", "GPT-NeoX", "Cohere 2"),
    *("DeepSeek-V3", "OLMo 2", "OLMoE", "Qwen3-Next", "Qwen3 MoE", "Llama 4"),
)
SEEING = {"LLaVA": tiny.llava, "Qwen2-VL": tiny.qwen2_vl}
COPIED = ("GPT-2", "Falcon", "Mamba", "Jamba", "GPT-OSS")
TOLERANCE = 2e-6  # of the length of a state: float32 sums in another order
both = [*SHARED, *SEEING]


def saved(model: HFModel, folder: Path) -> Path:
    model.model.save_pretrained(folder)
    (model.chat.processor if model.chat.takes_images else model.chat.tokenizer).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return saved(oracle.MODELS["llama"](), tmp_path_factory.mktemp("placed") / "m")


def in_pairs(folder: Path, how: str, tmp_path) -> tuple[HFModel, HFModel]:
    """Spread out, and in one place."""
    given = EVERYWHERE[how]
    whole = load(folder, dtype=given.get("dtype", torch.float32))
    return load(folder, offload_folder=tmp_path / "off", **given), whole


def places(model: HFModel) -> set[str]:
    return {p.device.type for p in model.model.parameters()}


@told_of_its_device
@each_place
def test_spread_out_it_gives_the_same_bits(how, llama, tmp_path):
    spread, whole = in_pairs(llama, how, tmp_path)
    away = how in ("little memory", "by name", "half precision")
    assert places(spread) == ({"cpu", "meta"} if away else {"cpu"})
    assert spread.spec.fingerprint == whole.spec.fingerprint
    sites = [Site(1, p) for p in (*ranks.POINTS, "attn_heads")]
    made, wanted = (m.capture(ranks.PROMPTS, sites) for m in (spread, whole))
    assert all(torch.equal(made[s], wanted[s]) for s in sites)
    made, wanted = (m.answer_states(ranks.PROMPTS) for m in (spread, whole))
    assert torch.equal(made.states, wanted.states)
    assert ranks.answers(spread) == ranks.answers(whole)
    assert places(spread) == ({"cpu", "meta"} if away else {"cpu"})  # nothing stays fetched


@told_of_its_device
@each_place
def test_a_fit_on_a_model_that_is_spread_out_is_the_same(how, llama, tmp_path):
    method = CAA(layers=Layers(layers=(0, 2)), contrasts=RULE)
    fitted = [method.fit(m, rows(9)) for m in in_pairs(llama, how, tmp_path)]
    assert torch.equal(*(f.synthesizer.vectors for f in fitted))


@each_place
def test_the_output_head_is_read_wherever_it_is_kept(how, llama, tmp_path):
    spread, whole = in_pairs(llama, how, tmp_path)
    states = torch.linspace(-1, 1, 3 * tiny.WIDTH).reshape(3, -1)
    assert torch.equal(spread.logits(states), whole.logits(states))


def test_memory_that_runs_out_is_no_reason_to_go_on_alone(monkeypatch):
    """Others would wait for ever for the pass that this process gave up."""
    model, calls = tiny.llama(), []

    def fail(*_):
        calls.append(1)
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(passes, "is_sharded", lambda _model: True)
    handle = model.blocks.layers[0].register_forward_pre_hook(fail)
    try:
        with pytest.raises(ModelError, match="Give HFModel a smaller token_budget"):
            model.capture([Prompt("how do i ?"), Prompt("a b")], [Site(1)])
    finally:
        handle.remove()
    assert len(calls) == 1


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> list[dict]:
    """What two processes that share models found out, by process."""
    folder = tmp_path_factory.mktemp("shared")
    for made in TEXT:
        if made.name in (*SHARED, *COPIED):
            saved(made.build(), folder / made.name)
    for name, make in SEEING.items():
        saved(make(), folder / name)
    odd = json.loads((saved(tiny.llama(), folder / "odd") / "config.json").read_text())
    (folder / "odd" / "config.json").write_text(json.dumps({**odd, "num_key_value_heads": 1}))
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run = subprocess.run(
        [sys.executable, *start, ranks.__file__, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(ranks.__file__).parent)},
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads((folder / f"rank{n}.json").read_text()) for n in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", both)
def test_shared_among_processes_it_gives_the_same_states(name, told):
    for rank in told:
        assert rank[name]["known"]
        assert {"resid_pre", "resid_post"} <= rank[name]["apart"].keys()
        assert max(rank[name]["apart"].values()) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", both)
def test_all_processes_have_the_same_bits(name, told):
    first, second = (rank[name] for rank in told)
    assert first["bits"] == second["bits"] and first["answers"] == second["answers"]


@pytest.mark.slow
@pytest.mark.parametrize("name", both)
def test_shared_among_processes_it_says_the_same(name, told):
    shared, whole = told[0][name]["answers"]
    assert shared == whole
    unsteered, steered = whole[1::3], whole[0::3] + whole[2::3]
    assert unsteered != steered[:3] or unsteered != steered[3:]


@pytest.mark.slow
def test_each_process_holds_a_part(told):
    for rank in told:
        part, whole = rank["in depth"]["parts"]
        assert part < 0.6 * whole


@pytest.mark.slow
def test_answers_logits_and_fits_agree(told):
    first, second = (rank["in depth"] for rank in told)
    for rank in (first, second):
        assert max(rank[k] for k in ("answer_states", "logits", "fitted")) < TOLERANCE
        assert rank["own_call"][0] == rank["own_call"][1]
        assert rank["in_step"] == [True, False]
    assert first["fitted_bits"] == second["fitted_bits"]


@pytest.mark.slow
def test_single_heads_are_refused_where_each_process_has_some(told):
    for rank in told:
        for message in rank["in depth"]["heads"]:
            assert "attn_heads[1] is not to be had with tensor parallelism" in message


@pytest.mark.slow
@pytest.mark.parametrize("name", COPIED)
def test_a_model_that_would_be_copied_to_every_process_is_refused(name, told):
    for rank in told:
        assert "no plan for sharing the blocks of" in rank[name]["refused"]


@pytest.mark.slow
def test_heads_that_cannot_be_dealt_out_are_refused(told):
    for rank in told:
        assert "2 processes cannot share num_key_value_heads = 1" in rank["odd"]["refused"]
