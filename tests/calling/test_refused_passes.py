"""Passes that look like something they are not: rows that moved, cut caches, several in one row."""

import contextvars
import gc
from threading import Barrier, Thread
from weakref import ref

import pytest
import torch
from transformers import DynamicCache, StaticCache

import oracle
from calling import byhand
from calling.byhand import POLICY, PUSH
from steersman.backends.entered import anything
from steersman.backends.hf import HFModel
from steersman.core.errors import ModelError, NotSteeredError, RecipeError
from steersman.core.requests import Request
from steersman.core.types import Prompt, Read, Scope, Site

LAST = oracle.policy(PUSH, scope=Scope.LAST)
AGAIN = oracle.policy(
    PUSH, gate=oracle.gate_between(Read(Site(1), every=2), byhand.OTHER, 2 * byhand.OTHER)
)


def ids(num: int, rows: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randint(9, 28, (rows, num), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model: HFModel, given: torch.Tensor, **more) -> torch.Tensor:
    return model.model(given, **more).logits


@pytest.mark.parametrize("rows", [2, 3])
def test_rows_that_were_copied_behind_the_prompt_are_refused(rows):
    model = byhand.llama()
    cache = DynamicCache(config=model.model.config)
    with model.steer(POLICY):
        logits(model, ids(6), past_key_values=cache)
        cache.batch_repeat_interleave(rows)
        with pytest.raises(ModelError, match=f"{rows} rows came, and the cache was filled with 1"):
            logits(model, ids(1).repeat(rows, 1), past_key_values=cache)


def test_rows_that_were_dropped_behind_the_prompt_are_refused():
    model = byhand.llama()
    cache = DynamicCache(config=model.model.config)
    with model.steer([POLICY, None, POLICY]):
        logits(model, ids(6, 3), past_key_values=cache)
        cache.batch_select_indices(torch.tensor([1, 2]))
        with pytest.raises(ModelError, match="2 rows came, and the cache was filled with 3"):
            logits(model, ids(1, 2), past_key_values=cache)


def test_a_cache_that_was_cut_into_the_prompt_is_refused():
    model = byhand.llama()
    cache = DynamicCache(config=model.model.config)
    with model.steer(POLICY):
        logits(model, ids(6), past_key_values=cache)
        cache.crop(4)
        with pytest.raises(ModelError, match="cut to 4 tokens, into the prompt of 6"):
            logits(model, ids(1), past_key_values=cache)


def test_several_sequences_in_one_row_are_refused():
    model, position = byhand.llama(), torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
    with (
        model.steer(POLICY),
        pytest.raises(ModelError, match="it holds several sequences"),
    ):
        logits(model, ids(9), position_ids=position, use_cache=False)


def test_positions_that_count_padding_as_one_are_no_second_sequence():
    """As `generate` makes them for a mask of four dimensions."""
    model = byhand.llama()
    real = torch.tensor([[False] * 3 + [True] * 6])
    sees = torch.ones(9, 9).tril().bool()[None, None] & real[:, None, None]
    position = torch.tensor([[1, 1, 1, 0, 1, 2, 3, 4, 5]])
    with model.steer(LAST):
        padded = logits(model, ids(9), attention_mask=sees, position_ids=position)
        bare = logits(model, ids(9)[:, 3:])
    assert byhand.close(padded[:, 3:], bare)


def test_logits_asked_for_in_a_scored_prompt_do_not_make_its_end_an_answer():
    model = byhand.llama()
    with model.steer(POLICY):
        cache = DynamicCache(config=model.model.config)
        some = logits(model, ids(8), past_key_values=cache, logits_to_keep=4)
        whole = logits(model, ids(8))
    assert byhand.close(some, whole[:, -4:])


def test_logits_asked_for_by_a_tensor_do_not_hide_the_refusal():
    model = byhand.llama()
    cache, which = DynamicCache(config=model.model.config), torch.tensor([0, 2])
    with model.steer(POLICY):
        logits(model, ids(8), past_key_values=cache)
        with pytest.raises(ModelError, match="3 more tokens came at once behind a prompt"):
            logits(model, ids(3), past_key_values=cache, logits_to_keep=which)


def test_one_token_in_a_static_cache_that_was_reset_is_a_prompt():
    model = byhand.llama()
    cache = StaticCache(config=model.model.config, max_cache_len=16)
    with model.steer(LAST):
        logits(model, ids(6), past_key_values=cache)
        logits(model, ids(1), past_key_values=cache)
        cache.reset()
        again = logits(model, ids(1), past_key_values=cache)
        assert byhand.close(again, logits(model, ids(1)))


def test_a_token_that_ran_outside_is_noticed_in_a_static_cache():
    model = byhand.llama()
    cache = StaticCache(config=model.model.config, max_cache_len=16)
    with model.steer(POLICY):
        logits(model, ids(6), past_key_values=cache)
        contextvars.Context().run(logits, model, ids(1), past_key_values=cache)
        with pytest.raises(ModelError, match="holds 7 tokens, and steering saw 6"):
            logits(model, ids(1), past_key_values=cache)


def test_every_row_is_checked_where_one_policy_steers_all():
    model, scope = byhand.llama(), Scope(start=-9, stop=-7)
    mask = torch.tensor([[1] * 12, [0] * 8 + [1] * 4])  # the second has no such token
    with (
        pytest.raises(NotSteeredError, match="wrote no token"),
        model.steer(oracle.policy(PUSH, scope=scope)),
    ):
        logits(model, ids(12, 2), attention_mask=mask)


@pytest.mark.parametrize("strength", [1e39, -1e39, 1e-50])
def test_a_strength_that_float32_does_not_hold_is_refused(strength):
    with (
        pytest.raises(RecipeError, match="0 or a finite number that float32 holds"),
        byhand.llama().steer(POLICY, strength),
    ):
        pass


@pytest.mark.parametrize(("name", "value"), [("num_return_sequences", 2), ("num_beams", 2)])
def test_settings_of_the_model_leave_one_answer_a_request(name, value):
    model, request = byhand.fresh(), Request(Prompt("a b"), POLICY, max_new_tokens=3)
    settings = model.model.generation_config
    settings.num_beams, settings.return_dict_in_generate = 2, True
    setattr(settings, name, value)
    assert len(model.generate([request])) == 1


def test_caches_are_left_as_they_were_and_freed_at_once():
    """Following beams neither stays behind nor keeps a cache alive."""
    model = byhand.llama()
    cache = StaticCache(config=model.model.config, max_cache_len=16)
    told = dict(max_new_tokens=3, num_beams=2, do_sample=False, pad_token_id=0)
    with model.steer(AGAIN):
        model.model.generate(ids(6), past_key_values=cache, **told)
        assert "reorder_cache" in vars(cache)
    assert "reorder_cache" not in vars(cache)
    gc.disable()
    try:
        with model.steer(AGAIN):
            passing = DynamicCache(config=model.model.config)
            model.model.generate(ids(6), past_key_values=passing, **told)
            kept = ref(passing)
            del passing
            assert kept() is None
    finally:
        gc.enable()


def test_two_withs_for_all_threads_in_different_threads_are_refused_and_the_cure_works():
    model, begun, errors, made = byhand.llama(), Barrier(2), [], {}
    policies = {"a": POLICY, "b": oracle.policy(byhand.OTHER)}

    def enter(name: str) -> None:
        try:
            with model.steer(policies[name], threads="all"):
                begun.wait(60)
                logits(model, ids(6))
                begun.wait(60)
        except ModelError as error:
            errors.append(str(error))

    def cure(name: str) -> None:
        def work() -> None:
            made[name] = logits(model, ids(6))

        with model.steer(policies[name]):
            begun.wait(60)
            worker = Thread(target=contextvars.copy_context().run, args=(work,))
            worker.start()
            worker.join()
            begun.wait(60)

    first = Thread(target=enter, args=("a",))
    first.start()
    begun.wait(60)
    enter("b")  # refused before it waits
    begun.wait(60)
    first.join()
    assert len(errors) == 1
    assert "Thread(target=contextvars.copy_context().run" in errors[0]
    both = [Thread(target=cure, args=(name,)) for name in policies]
    [thread.start() for thread in both]
    [thread.join() for thread in both]
    for name, policy in policies.items():
        with model.steer(policy):
            assert torch.equal(made[name], logits(model, ids(6)))


def test_a_generator_that_another_context_closes_leaves_its_own_clean():
    model, context = byhand.llama(), contextvars.copy_context()

    def opened():
        with model.steer(POLICY):
            yield

    held = opened()
    context.run(next, held)
    assert context.run(anything)
    held.close()
    assert not context.run(anything)
    with model.steer(POLICY, threads="all"):  # the other context would not be adopted
        inside = contextvars.Context().run(logits, model, ids(6))
        assert torch.equal(context.run(logits, model, ids(6)), inside)


def test_a_model_can_be_wrapped_while_it_is_steered():
    model = byhand.llama()
    with model.steer(POLICY):
        logits(model, ids(6))
        again = HFModel(model.model, model.chat.tokenizer)
    assert again.blocks == model.blocks


def test_gradients_pass_a_cap_beside_rows_without_one():
    model = byhand.fresh()
    capped = oracle.policy(PUSH, cap=0.1)
    with model.steer([capped, POLICY]):
        model.model(ids(6, 2), labels=ids(6, 2)).loss.backward()
    grads = [p.grad for p in model.model.parameters() if p.grad is not None]
    assert grads
    assert all(bool(grad.isfinite().all()) for grad in grads)


def test_a_model_in_float64_is_steered():
    model = byhand.fresh()
    double = HFModel(model.model.double(), model.chat.tokenizer)
    with double.steer(POLICY):
        steered = logits(double, ids(6))
    with byhand.pushed(double, PUSH.double()), torch.no_grad():
        wanted = double.model(ids(6)).logits
    assert byhand.close(steered, wanted, atol=1e-5)
