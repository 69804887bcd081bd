"""Models that something lies around: PEFT, torch.compile, DataParallel-like modules."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import peft
import pytest
import torch
from torch import nn

import oracle
from calling import byhand
from calling.byhand import NUM, POLICY
from steersman.backends.hf import HFModel
from steersman.core.errors import ModelError
from steersman.core.requests import Request

PROMPT = oracle.PROMPTS[0]


def adapted(model: nn.Module) -> peft.PeftModel:
    """With LoRA weights that change what the model says."""
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"])
    made = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    draw = torch.Generator().manual_seed(7)
    for name, weight in made.named_parameters():
        if "lora_B" in name:
            weight.data = 0.5 * torch.randn(weight.shape, generator=draw)
    return made.eval()


def assert_steered(caller, model):
    """Generate of `caller` gives what it gives under a plain hook, and is as before afterwards."""
    inputs = oracle.inputs_of(model, PROMPT)

    def run():
        torch.manual_seed(0)
        with torch.no_grad():
            out = caller.generate(
                **inputs,
                max_new_tokens=NUM,
                do_sample=False,
                pad_token_id=0,
                output_logits=True,
                return_dict_in_generate=True,
            )
        return out.sequences, torch.stack(out.logits, 1)

    plain = run()
    with byhand.pushed(model):
        wanted = run()
    with model.steer(POLICY):
        made = run()
    after = run()
    assert torch.equal(made[0], wanted[0])
    assert byhand.close(made[1], wanted[1])
    assert not byhand.close(made[1], plain[1], 1e-2)
    assert torch.equal(after[1], plain[1])


def test_a_model_that_was_wrapped_by_lora_before():
    bare = byhand.fresh()
    unadapted = oracle.plain_logits(bare, oracle.inputs_of(bare, PROMPT))
    wrapper = adapted(bare.model)
    model = HFModel(wrapper, bare.chat.processor)
    inputs = oracle.inputs_of(model, PROMPT)
    assert not byhand.close(oracle.plain_logits(model, inputs), unadapted, 1e-2)
    assert_steered(wrapper, model)
    assert_steered(wrapper.get_base_model(), model)
    tokens, _ = byhand.greedy(model, inputs)
    assert byhand.alone(model, PROMPT) == tokens


def test_a_model_that_is_wrapped_by_lora_afterwards():
    model = byhand.fresh()
    before = oracle.plain_logits(model, oracle.inputs_of(model, PROMPT))
    wrapper = adapted(model.model)
    assert not byhand.close(
        oracle.plain_logits(model, oracle.inputs_of(model, PROMPT)), before, 1e-2
    )
    assert_steered(wrapper, model)
    with wrapper.disable_adapter():
        assert_steered(wrapper, model)


def test_adapters_can_be_wrapped_and_switched_inside_a_with():
    model = byhand.fresh()
    inputs = oracle.inputs_of(model, PROMPT)
    with model.steer(POLICY):
        wrapper = adapted(model.model)
        made = wrapper(**inputs).logits
        with wrapper.disable_adapter():
            bare = wrapper(**inputs).logits
    with byhand.pushed(model):
        assert torch.equal(made, wrapper(**inputs).logits)
        with wrapper.disable_adapter():
            assert torch.equal(bare, wrapper(**inputs).logits)
    assert not byhand.close(made, bare, 1e-2)


def test_merged_adapters():
    model = byhand.fresh()
    merged = adapted(model.model).merge_and_unload()
    assert merged is model.model
    assert_steered(merged, model)


class Around(nn.Module):
    """What DataParallel and the like look like: the model is a child."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, **inputs):
        return self.module(**inputs)


def test_a_module_around_the_model():
    bare = byhand.fresh()
    around = Around(bare.model)
    model = HFModel(around, bare.chat.processor)
    inputs = oracle.inputs_of(model, PROMPT)
    with torch.no_grad(), byhand.pushed(model):
        wanted = around(**inputs).logits
    with torch.no_grad(), model.steer(POLICY):
        made = around(**inputs).logits
    assert torch.equal(made, wanted)
    parallel = nn.DataParallel(bare.model)
    with torch.no_grad(), HFModel(parallel, bare.chat.processor).steer(POLICY):
        assert torch.equal(parallel(**inputs).logits, wanted)


def test_what_holds_no_transformers_model_is_refused():
    with pytest.raises(ModelError, match="Linear holds no transformers model"):
        HFModel(nn.Linear(2, 2), byhand.llama().chat.processor)


class Counting:
    """A backend of torch.compile that runs the graph as it is and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, graph, _examples):
        def run(*args):
            self.calls += 1
            return graph(*args)

        return run


def compiled(how: str, model: nn.Module, backend) -> nn.Module:
    """The model, compiled in one of the three ways that people write."""
    if how == "torch.compile(model)":
        return torch.compile(model, backend=backend)
    if how == "model.compile()":
        model.compile(backend=backend)
    else:
        model.forward = torch.compile(model.forward, backend=backend)
    return model


HOW = ("torch.compile(model)", "model.compile()", "model.forward = torch.compile(model.forward)")


@pytest.fixture(autouse=True)
def forget_compiled():
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("wrap", [False, True], ids=["HFModel(model)", "HFModel(compiled)"])
def test_a_model_compiled_before_is_steered_inside_and_compiled_after(how, wrap):
    model, count = byhand.fresh(), Counting()
    caller = compiled(how, model.model, count)
    if wrap:
        model = HFModel(caller, model.chat.processor)
    inputs = oracle.inputs_of(model, PROMPT)

    def run():
        with torch.no_grad():
            return caller(**inputs, use_cache=False).logits

    plain = run()
    ran = count.calls
    assert ran > 0
    with model.steer(POLICY):
        made = run()
    assert count.calls == ran, "compiled code does not see hooks, so it must not run"
    tokens, logits = byhand.greedy(byhand.llama(), inputs, 1)
    assert byhand.close(made[0, -1], logits[0]) and not byhand.close(made, plain, 1e-2)
    ran = count.calls
    assert torch.equal(run(), plain) and count.calls > ran
    assert byhand.alone(model, PROMPT, 1) == tokens


@pytest.mark.parametrize("how", HOW)
def test_generate_of_a_compiled_model(how):
    model = byhand.fresh()
    caller = compiled(how, model.model, "eager")
    inputs = oracle.inputs_of(model, PROMPT)
    with torch.no_grad(), model.steer(POLICY):
        out = caller.generate(
            **inputs,
            max_new_tokens=NUM,
            do_sample=False,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    tokens, wanted = byhand.greedy(byhand.llama(), inputs)
    assert byhand.said(out, inputs) == [tokens]
    assert byhand.close(torch.stack(out.logits, 1)[0], wanted)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_a_model_compiled_inside_the_with(how, backend):
    model = byhand.fresh()
    inputs = oracle.inputs_of(model, PROMPT)
    with torch.no_grad():
        plain = model.model(**inputs, use_cache=False).logits
        with model.steer(POLICY):
            caller = compiled(how, model.model, backend)
            made = caller(**inputs, use_cache=False).logits
        after = caller(**inputs, use_cache=False).logits
    wanted = byhand.greedy(byhand.llama(), inputs, 1)[1]
    assert byhand.close(made[0, -1], wanted[0])
    assert byhand.close(after, plain)


def test_a_compiled_block_is_steered():
    model = byhand.fresh()
    block = model.blocks.layers[1]
    block.compile(backend="eager")
    inputs = oracle.inputs_of(model, PROMPT)
    before = oracle.plain_logits(model, inputs)
    wanted = byhand.greedy(byhand.llama(), inputs, 1)[1]
    with model.steer(POLICY):
        made = oracle.plain_logits(model, inputs)
    assert byhand.close(made[0, -1], wanted[0])
    assert torch.equal(oracle.plain_logits(model, inputs), before)


@pytest.mark.slow
def test_requests_to_a_compiled_model():
    model = byhand.fresh()
    model.model.compile(backend="eager")
    made = model.generate([Request(PROMPT, POLICY, max_new_tokens=NUM), Request(PROMPT)])
    tokens, _ = byhand.greedy(byhand.llama(), oracle.inputs_of(model, PROMPT))
    assert list(made[0].token_ids) == tokens


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
def test_a_compiled_model_in_threads(how):
    """Steered in one that entered and in one that did not; the first to leave ends it for none."""
    model = byhand.fresh()
    caller = compiled(how, model.model, "eager")
    inputs = oracle.inputs_of(model, PROMPT)

    @torch.no_grad()
    def run():
        return caller(**inputs, use_cache=False).logits

    plain, wanted = run(), byhand.greedy(byhand.llama(), inputs, 1)[1][0]
    left, entered = Event(), Event()

    def own():
        with model.steer(POLICY):
            entered.set()
            assert left.wait(60)
            return run()

    with ThreadPoolExecutor(2) as pool:
        with model.steer(POLICY, threads="all"):
            assert byhand.close(pool.submit(run).result()[0, -1], wanted)
            inside = pool.submit(own)
            assert entered.wait(60)
        left.set()
        assert byhand.close(inside.result()[0, -1], wanted)
        assert torch.equal(pool.submit(run).result(), plain)
    assert torch.equal(run(), plain)
