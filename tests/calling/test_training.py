"""Training with steering at work: gradients flow through it, and hooks see the recomputation."""

import pytest
import torch

import oracle
import tiny
from calling import byhand
from calling.byhand import POLICY, PUSH
from steersman.core.errors import ModelError
from steersman.core.types import Read, Scope, Site
from steersman.synthesizers.given import GivenVector

ALL = oracle.policy(PUSH, scope=Scope.ALL)


def gradients(model, inputs):
    model.model.zero_grad()
    out = model.model(**inputs, labels=inputs["input_ids"], use_cache=False)
    out.loss.backward()
    return out.loss.detach(), [p.grad.clone() for p in model.model.parameters()]


@pytest.fixture
def model():
    made = byhand.fresh()
    made.model.train()
    return made


@pytest.fixture
def inputs(model):
    return oracle.inputs_of(model, *oracle.PROMPTS)


def by_hand(model, inputs):
    real = inputs["attention_mask"].bool()[..., None]
    with oracle.hand_hook(model.blocks.layers[1], lambda h: torch.where(real, h + PUSH, h)):
        return gradients(model, inputs)


def test_gradients_are_those_under_a_plain_hook(model, inputs):
    plain, _ = gradients(model, inputs)
    loss, wanted = by_hand(model, inputs)
    with model.steer(ALL):
        made, grads = gradients(model, inputs)
    assert byhand.close(made, loss) and not byhand.close(made, plain, 1e-3)
    assert all(byhand.close(a, b) for a, b in zip(grads, wanted, strict=True))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_is_refused(model, inputs, use_reentrant):
    """Its second run of a block would see no ids, and on a GPU it comes in another thread."""
    loss, wanted = by_hand(model, inputs)
    model.model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    with (
        pytest.raises(ModelError, match=r"Call gradient_checkpointing_disable\(\) before"),
        model.steer(ALL),
    ):
        gradients(model, inputs)
    model.model.eval()  # where nothing is run again
    with model.steer(ALL):
        assert byhand.close(model.model(**inputs, labels=inputs["input_ids"]).loss, loss)
    model.model.train()
    model.model.gradient_checkpointing_disable()
    with model.steer(ALL):
        _, grads = gradients(model, inputs)
    assert all(byhand.close(a, b) for a, b in zip(grads, wanted, strict=True))


def test_gradients_reach_a_vector_that_comes_with_the_call(model, inputs):
    vector = PUSH.clone().requires_grad_()
    policy = oracle.policy(synthesizer=GivenVector(), scope=Scope.ALL)
    with model.steer(policy, vectors=[{"s": vector}]):
        gradients(model, inputs)
    by_steering = vector.grad.clone()
    vector.grad = None
    real = inputs["attention_mask"].bool()[..., None]
    with oracle.hand_hook(model.blocks.layers[1], lambda h: torch.where(real, h + vector, h)):
        gradients(model, inputs)
    assert byhand.close(by_steering, vector.grad)


def test_a_policy_that_is_probed_trains_too(model, inputs):
    policy = oracle.policy(site=Site(0), synthesizer=oracle.net(Read(Site(2))), scope=Scope.ALL)
    model.model.eval()
    states = model.capture(oracle.PROMPTS, [Site(2)])[Site(2)]
    model.model.train()
    vectors = oracle.net(Read(Site(2))).synthesize(states)[:, None]
    real = inputs["attention_mask"].bool()[..., None]
    with oracle.hand_hook(model.blocks.layers[0], lambda h: torch.where(real, h + vectors, h)):
        loss, wanted = gradients(model, inputs)
    with model.steer(policy):
        made, grads = gradients(model, inputs)
    assert byhand.close(made, loss)
    assert all(byhand.close(a, b, 1e-3) for a, b in zip(grads, wanted, strict=True))


def test_many_training_steps_inside_one_with(model, inputs):
    """Each is a batch of its own, and its counts are checked when the `with` is left."""
    before = [p.clone() for p in model.model.parameters()]
    steps = torch.optim.SGD(model.model.parameters(), lr=0.01)
    losses = []
    with model.steer(POLICY) as run:
        for _ in range(70):
            loss, _ = gradients(model, inputs)
            steps.step()
            losses.append(float(loss))
            assert run.traces()[0]["s"].tokens_written == 1
    assert losses[-1] < losses[0]
    assert any(not torch.equal(a, b) for a, b in zip(before, model.model.parameters(), strict=True))


def test_a_steered_model_is_not_trained_by_steering_it(model, inputs):
    width = POLICY.steerers["s"].synthesizer.vectors
    with model.steer(ALL):
        gradients(model, inputs)
    assert width.shape == (1, tiny.WIDTH) and width.grad is None and not width.requires_grad
