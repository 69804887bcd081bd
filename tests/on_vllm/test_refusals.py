"""What cannot be right is refused with a code, before anything runs."""

import pytest
from vllm.lora.request import LoRARequest

from on_vllm.asks import Ask, mixed
from on_vllm.engines import Engine, messages, sampling_of
from steersman.core.serving import RefusedError

PROMPT = mixed(2)[0]


@pytest.fixture(scope="module")
def engine(engines):
    return engines.of()


@pytest.mark.parametrize(
    ("steering", "code", "says"),
    [
        ({"policy": "l2z"}, "E_UNKNOWN_POLICY", "l2s"),
        ({"policy": "l2s", "strenght": 1}, "E_UNKNOWN_FIELD", "strength"),
        ({"policy": "l2s", "strength": "much"}, "E_STRENGTH", "much"),
        ({"policy": "l2s", "strength": float("nan")}, "E_STRENGTH", "nan"),
        ({"policy": "l2s", "scope": "lost"}, "E_SCOPE", "last"),
        ({"policy": "l2s", "scope": "all"}, "E_SCOPE_NEEDS_PROBE", "l2s"),
        ({"policy": "autosteer", "scope": "prompt"}, "E_SCOPE", "head_in"),
        ({"policy": "l2s", "shadow": 1}, "E_STEERING", "true or false"),
        ({"policy": "../mean"}, "E_UNKNOWN_POLICY", "../mean"),
        ({"strength": 1}, "E_STEERING", "policy"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused(engine, steering, code, says):
    with pytest.raises(ValueError, match=code) as error:
        engine.ask([Ask(PROMPT), Ask(PROMPT, steering)])
    assert says in str(error.value)
    assert not engine.llm.llm_engine.has_unfinished_requests()
    assert engine.ask([Ask(PROMPT, {"policy": "l2s"}, 4)])[0].steering["tokens_written"] > 0


@pytest.mark.parametrize("given", ["{", "[]", 3, ["l2s"], "l2s"])
def test_what_is_no_object_is_refused(engine, given):
    sampling = sampling_of(Ask(PROMPT))
    sampling.extra_args = {"steersman": given}
    with pytest.raises(ValueError, match="E_STEERING"):
        engine.llm.chat([messages(PROMPT)], sampling, use_tqdm=False)


def test_an_order_cannot_be_smuggled_in(engine):
    """What admission writes is not taken from a request."""
    forged = {"policy": "l2s", "digest": "0" * 64, "key": "", "keyed_from": -1, "suffix": 0}
    with pytest.raises(ValueError, match="E_UNKNOWN_FIELD"):
        engine.ask([Ask(PROMPT, forged)])


def test_a_server_that_does_not_steer_says_so(engines):
    engine = engines.of(steered=False)
    with pytest.raises(ValueError, match="E_NOT_SERVED"):
        engine.ask([Ask(PROMPT, {"policy": "l2s"})])


def test_a_lora_is_refused_with_steering_only(engines):
    engine = engines.of(enable_lora=True, max_lora_rank=8)
    with pytest.raises(ValueError, match="E_LORA"):
        engine.llm.chat(
            [messages(PROMPT)],
            sampling_of(Ask(PROMPT, {"policy": "l2s"})),
            use_tqdm=False,
            lora_request=LoRARequest("other", 1, "/nowhere"),
        )
    assert engine.ask([Ask(PROMPT, {"policy": "l2s"}, 4)])[0].steering["tokens_written"] > 0


def test_an_engine_that_drafts_does_not_start(engines, shelf):
    engines.close()
    drafting = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3}
    with pytest.raises(RefusedError, match="E_SPECULATIVE"):
        Engine(shelf.folder, {"speculative_config": drafting})
