"""Models whose weights are quantised, or kept elsewhere until they are used."""

import accelerate
import pytest
import torch
from optimum import quanto
from torch import nn
from transformers import AutoModelForCausalLM

import oracle
from calling import byhand
from calling.byhand import NUM, OTHER, POLICY, PUSH
from steersman.backends.hf import HFModel
from steersman.core.errors import ModelError
from steersman.core.requests import Request
from steersman.core.types import Scope, Site

PROMPTS = oracle.PROMPTS
WARNED = (
    "ignore:You are calling .generate.. with the `input_ids` being on a device type:UserWarning",
    "ignore:.*torch.ao.quantization is deprecated:DeprecationWarning",
    "ignore:torch.quantize_per_tensor:UserWarning",
)


def dynamic(model: nn.Module, _tmp_path) -> nn.Module:
    """int8 by torch itself: its state holds packed tuples."""
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def int8_weights(model: nn.Module, _tmp_path) -> nn.Module:
    """int8 weights by optimum-quanto: tensor subclasses, as torchao's are."""
    quanto.quantize(model, weights=quanto.qint8)
    quanto.freeze(model)
    return model


def on_cpu(model: nn.Module, _tmp_path) -> nn.Module:
    return accelerate.cpu_offload(model, execution_device="cpu")


def on_disk(model: nn.Module, tmp_path) -> nn.Module:
    return accelerate.disk_offload(model, tmp_path, execution_device="cpu")


def partly_on_disk(model: nn.Module, tmp_path) -> nn.Module:
    """As from_pretrained does where memory is short."""
    model.save_pretrained(tmp_path / "weights")
    layers = {f"model.layers.{i}": "disk" if i else "cpu" for i in range(3)}
    rest = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    made = AutoModelForCausalLM.from_pretrained(
        tmp_path / "weights",
        device_map={**layers, **rest, "lm_head": "cpu"},
        offload_folder=tmp_path / "off",
    )
    made.generation_config = model.generation_config
    return made


OFFLOADED = (on_cpu, on_disk, partly_on_disk)
PLACED = (dynamic, int8_weights, *OFFLOADED)
each_placed = pytest.mark.parametrize("place", PLACED, ids=lambda f: f.__name__)
each_offloaded = pytest.mark.parametrize("place", OFFLOADED, ids=lambda f: f.__name__)
pytestmark = [pytest.mark.filterwarnings(w) for w in WARNED]


def placed(place, tmp_path) -> HFModel:
    shared = byhand.fresh()
    return HFModel(place(shared.model, tmp_path), shared.chat.processor)


@each_placed
def test_the_users_generate_is_steered(place, tmp_path):
    model = placed(place, tmp_path)
    inputs = oracle.inputs_of(model, *PROMPTS)
    plain = oracle.cached(model, inputs, NUM)
    with byhand.pushed(model):
        wanted = oracle.cached(model, inputs, NUM)
    with model.steer(POLICY):
        made = oracle.cached(model, inputs, NUM)
    assert torch.equal(made[0], wanted[0]) and byhand.close(made[1], wanted[1])
    assert not byhand.close(made[1], plain[1], 1e-2)
    assert torch.equal(oracle.cached(model, inputs, NUM)[1], plain[1])


@each_placed
def test_requests_with_policies_of_their_own(place, tmp_path):
    model = placed(place, tmp_path)
    policies = [POLICY, None, oracle.policy(OTHER, scope=Scope.LAST_AND_GENERATED)]
    vectors = torch.stack([PUSH, torch.zeros_like(PUSH), OTHER])
    inputs = oracle.inputs_of(model, *PROMPTS)
    with byhand.pushed(model, vectors):
        wanted, _ = oracle.cached(model, inputs, NUM)
    requests = [Request(p, q, max_new_tokens=NUM) for p, q in zip(PROMPTS, policies, strict=True)]
    made = model.generate(requests)
    assert [list(c.token_ids) for c in made] == wanted.tolist()


@each_placed
def test_every_point_is_found_and_captured(place, tmp_path):
    model = placed(place, tmp_path)
    for point in ("resid_pre", "attn_heads", "attn_out", "mlp_out", "resid_post"):
        site = Site(1, point)
        tap, seen = model.blocks.tap(site), []

        def note(_module, args, out, before=tap.before, seen=seen):
            seen.append((args if before else out)[0])

        hook = tap.module.register_forward_hook(note)
        oracle.plain_logits(model, oracle.inputs_of(model, PROMPTS[0]))
        hook.remove()
        made = model.capture(PROMPTS[:1], [site])[site]
        assert byhand.close(made[0], seen[0].reshape(-1, made.shape[1])[-1])


def test_a_head_without_weights_at_hand_is_refused(tmp_path):
    model = placed(dynamic, tmp_path)
    with pytest.raises(ModelError, match="output head of LlamaForCausalLM is quantised"):
        model.logits(torch.zeros(1, model.spec.d_model))


@each_offloaded
def test_a_head_that_is_offloaded_gives_its_logits(place, tmp_path):
    states = torch.randn(3, byhand.llama().spec.d_model)
    wanted = byhand.llama().logits(states)
    assert torch.equal(placed(place, tmp_path).logits(states), wanted)


@each_offloaded
def test_an_offloaded_model_is_known_as_the_same(place, tmp_path):
    assert placed(place, tmp_path).spec.fingerprint == byhand.llama().spec.fingerprint


@pytest.mark.parametrize("place", (dynamic, int8_weights), ids=lambda f: f.__name__)
def test_a_quantised_model_has_a_fingerprint_of_its_own(place, tmp_path):
    made = placed(place, tmp_path).spec.fingerprint
    assert made == placed(place, tmp_path).spec.fingerprint
    assert made["weights"] != byhand.llama().spec.fingerprint["weights"]
    changed = byhand.fresh()
    with torch.no_grad():
        changed.model.model.layers[1].mlp.down_proj.weight.mul_(1.5)
    again = HFModel(place(changed.model, tmp_path), changed.chat.processor)
    assert again.spec.fingerprint["weights"] != made["weights"]


def test_a_model_without_numbers_is_refused():
    shared = byhand.fresh()
    with pytest.raises(ModelError, match="on the meta device.*Load its weights first"):
        HFModel(shared.model.to("meta"), shared.chat.processor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_number_type(dtype):
    model = byhand.fresh()
    model = HFModel(model.model.to(dtype), model.chat.processor)
    inputs = oracle.inputs_of(model, *PROMPTS)
    with byhand.pushed(model):
        wanted = oracle.cached(model, inputs, NUM)
    with model.steer(POLICY):
        made = oracle.cached(model, inputs, NUM)
    assert made[1].dtype == wanted[1].dtype and torch.equal(made[0], wanted[0])
    rounding = {torch.float32: 2e-4, torch.float16: 5e-3, torch.bfloat16: 0.1}[dtype]
    assert byhand.close(made[1], wanted[1], rounding)
    assert not byhand.close(made[1], oracle.cached(model, inputs, NUM)[1], 0.5)
