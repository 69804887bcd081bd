"""What travels with a request to vLLM, and what blocks of its prefix cache are keyed with."""

from types import SimpleNamespace

import pytest

from steersman.backends.vllm.keys import extra_keys
from steersman.backends.vllm.wire import (
    KEY,
    Order,
    Settings,
    asked_of,
    order_of,
    read_asked,
    settings_of,
)
from steersman.core.errors import RecipeError
from steersman.core.serving import RefusedError, Steering

ORDER = Order("l2s", "digest", 1.5, "last", False, "t1", 2, "key", 40, -1)


def test_an_order_comes_out_as_it_went_in():
    assert order_of({KEY: ORDER.as_dict()}) == ORDER
    assert order_of(None) is None and order_of({"other": 1}) is None
    assert ORDER.steering == Steering("l2s", 1.5, "last", False)


def test_callers_write_an_object_or_its_json():
    assert asked_of({KEY: {"policy": "l2s"}}) == asked_of({KEY: '{"policy": "l2s"}'})
    assert asked_of({}) is None and asked_of(None) is None
    for wrong in ("{", "[]", "1", 3, "[" * 5000):
        with pytest.raises(RefusedError, match="E_STEERING"):
            asked_of({KEY: wrong})


def test_a_trace_has_a_plain_name():
    assert read_asked({"policy": "l2s", "trace": "a-1"}, ("l2s",)) == (Steering("l2s"), "a-1")
    for wrong in ("a b", "x" * 65, 3, None, "../a"):
        with pytest.raises(RefusedError, match="E_STEERING"):
            read_asked({"policy": "l2s", "trace": wrong}, ("l2s",))


def test_settings_are_read_strictly():
    assert settings_of({}) is None and settings_of(None) is None
    given = {"policies": "p", "sites": ["resid_post[1]"], "force": True}
    assert settings_of({KEY: given}) == Settings("p", force=True, sites=("resid_post[1]",))
    with pytest.raises(RecipeError, match="Did you mean 'policies'"):
        settings_of({KEY: {"policies": "p", "policy": "q"}})
    for wrong in ("p", {}, {"policies": 3}, {"policies": "p", "force": "yes"}):
        with pytest.raises(RecipeError, match="additional_config"):
            settings_of({KEY: wrong})


def request(order, name="r"):
    extra = None if order is None else {KEY: order.as_dict()}
    return SimpleNamespace(request_id=name, sampling_params=SimpleNamespace(extra_args=extra))


def test_blocks_are_keyed_from_the_first_steered_token_on():
    assert extra_keys(request(ORDER), 40) == []
    assert extra_keys(request(ORDER), 41) == [(KEY, "key")]
    assert extra_keys(request(None), 1000) == []
    assert extra_keys(SimpleNamespace(request_id="r", sampling_params=None), 9) == []


def test_what_must_be_run_for_one_request_is_keyed_with_its_name():
    order = Order("l2s", "digest", 1.0, None, False, "", 2, "key", 40, 37)
    assert extra_keys(request(order, "a"), 37) == []
    assert extra_keys(request(order, "a"), 38) == [(f"{KEY}_apart", "a")]
    assert extra_keys(request(order, "a"), 41) != extra_keys(request(order, "b"), 41)
