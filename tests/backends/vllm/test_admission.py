"""The front end's side of the plugin: what is admitted, with which key, and what is refused."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import steersman
from steersman.backends.vllm.admission import Admission, completed
from steersman.backends.vllm.features import REASONS, found, refuse_engine
from steersman.backends.vllm.wire import KEY, Settings, order_of
from steersman.core.io import Artifact, save_artifact
from steersman.core.serving import RefusedError, Steering
from steersman.core.steerer import Policy, Steerer
from steersman.core.types import Read, Scope, Site
from steersman.gates.always import AlwaysOpen
from steersman.models.load import bundled_path
from steersman.operators.add import Add
from steersman.synthesizers.net import SteeringNet
from steersman.synthesizers.static import StaticVector

WIDTH = 192
KIND = SimpleNamespace(model=str(bundled_path()), is_hybrid=False, is_attention_free=False)
CONFIG = SimpleNamespace(model_config=KIND)


def static(scope=Scope.LAST_AND_GENERATED):
    made = StaticVector(sites=(Site(3),), vectors=torch.ones(1, WIDTH))
    return Steerer(
        sites=(Site(3),), gate=AlwaysOpen(), synthesizer=made, operator=Add(), scope=scope
    )


def reading(read):
    made = SteeringNet(
        read=read,
        mean=torch.zeros(WIDTH),
        spread=torch.ones(WIDTH),
        encoder=torch.ones(2, WIDTH),
        bias=torch.ones(2),
        decoder=torch.ones(WIDTH, 2),
    )
    return Steerer(sites=(Site(3),), gate=AlwaysOpen(), synthesizer=made, operator=Add())


@pytest.fixture(scope="module")
def spec():
    return steersman.load("bundled").spec


@pytest.fixture
def folder(tmp_path, spec):
    steerers = {
        "static": static(),
        "above": reading(Read(Site(5))),
        "user": reading(Read(Site(3), generation_prompt=False)),
    }
    for name, steerer in steerers.items():
        save_artifact(Artifact(Policy(steerers={"s": steerer}), spec), tmp_path / "shelf" / name)
    return tmp_path / "shelf"


@pytest.fixture
def admission(folder):
    return Admission(Settings(str(folder)), CONFIG)


def order(admission, prompt, **asked):
    return admission.order(Steering(**asked), "t", prompt=prompt)


def test_equal_steering_has_one_key(admission):
    prompt = list(range(40))
    first = order(admission, prompt, policy="static")
    assert first == order(admission, prompt, policy="static")
    assert (first.keyed_from, first.apart_from) == (39, -1)
    others = [
        order(admission, [*prompt, 7], policy="static"),  # its end lies elsewhere
        order(admission, prompt, policy="static", strength=1.1),
        order(admission, prompt, policy="static", scope="last"),
        order(admission, prompt, policy="above"),
    ]
    assert len({first.key, *(other.key for other in others)}) == 5


def test_what_is_written_everywhere_is_shared_by_prompts_that_begin_alike(admission):
    keys = {order(admission, list(range(n)), policy="static", scope="all").key for n in (30, 40)}
    assert len(keys) == 1
    ends = {order(admission, list(range(n)), policy="static", scope="prompt").key for n in (30, 40)}
    assert len(ends) == 2


def test_what_leaves_no_mark_has_no_key(admission):
    for asked in ({"strength": 0.0}, {"shadow": True}):
        made = order(admission, list(range(40)), policy="static", **asked)
        assert (made.key, made.keyed_from) == ("", -1)


def test_a_read_before_the_generation_prompt_needs_to_find_it(admission):
    suffix = steersman.load("bundled").chat.suffix_ids()
    made = order(admission, [5, 6, 7, 8, *suffix], policy="user")
    assert made.suffix == len(suffix) and made.apart_from == 3
    with pytest.raises(RefusedError, match="E_GENERATION_PROMPT"):
        order(admission, [5, 6, 7, 8], policy="user")


def test_a_scope_that_cannot_be_right_is_refused(admission):
    assert admission.asked({KEY: {"policy": "static", "scope": "all"}})
    with pytest.raises(RefusedError, match="E_SCOPE_NEEDS_PROBE"):
        admission.asked({KEY: {"policy": "above", "scope": "all"}})


def test_a_default_policy_steers_those_that_name_none(folder):
    made = Admission(Settings(str(folder), default_policy="static"), CONFIG)
    assert made.asked(None) == (Steering("static"), "")
    with pytest.raises(RefusedError, match="E_UNKNOWN_POLICY"):
        Admission(Settings(str(folder), default_policy="statik"), CONFIG)


def test_a_folder_with_a_policy_that_cannot_be_served_stops_the_start(folder, spec):
    wrong = replace(reading(Read(Site(3))), scope=Scope.ALL)
    save_artifact(Artifact(Policy(steerers={"s": wrong}), spec), folder / "wrong")
    with pytest.raises(RefusedError, match="E_SCOPE_NEEDS_PROBE"):
        Admission(Settings(str(folder)), CONFIG)


def core_request(**changed):
    given = {
        "prompt_token_ids": list(range(40)),
        "sampling_params": SimpleNamespace(extra_args={KEY: {"policy": "static"}, "other": 1}),
        "lora_request": None,
        "prompt_embeds": None,
        "resumable": False,
    }
    return SimpleNamespace(**{**given, **changed})


def test_a_request_gets_its_order_and_keeps_the_rest(admission):
    request = core_request()
    completed(admission, request.sampling_params, request)
    extra = request.sampling_params.extra_args
    assert extra["other"] == 1 and order_of(extra).policy == "static"
    plain = core_request(sampling_params=SimpleNamespace(extra_args=None))
    completed(admission, plain.sampling_params, plain)
    assert plain.sampling_params.extra_args is None


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"lora_request": object()}, "E_LORA"),
        ({"prompt_embeds": torch.zeros(2, 3)}, "E_PROMPT_EMBEDS"),
        ({"prompt_token_ids": None}, "E_PROMPT_EMBEDS"),
        ({"resumable": True}, "E_STREAMING_INPUT"),
    ],
)
def test_what_steering_does_not_go_with_is_refused(admission, changed, code):
    request = core_request(**changed)
    with pytest.raises(RefusedError, match=code):
        completed(admission, request.sampling_params, request)


def engine(**changed):
    parallel = {
        "pipeline_parallel_size": 1,
        "decode_context_parallel_size": 1,
        "prefill_context_parallel_size": 1,
        "use_ubatching": False,
    }
    flat = {
        "runner_type": "generate",
        "enable_sleep_mode": False,
        "is_encoder_decoder": False,
        "kv_sharing_fast_prefill": False,
        "speculative_config": None,
        "kv_transfer_config": None,
        **parallel,
        **changed,
    }
    part = SimpleNamespace(**flat)
    return SimpleNamespace(
        model_config=part,
        parallel_config=part,
        cache_config=part,
        speculative_config=flat["speculative_config"],
        kv_transfer_config=flat["kv_transfer_config"],
    )


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"pipeline_parallel_size": 2}, "E_PIPELINE_PARALLEL"),
        ({"speculative_config": object()}, "E_SPECULATIVE"),
        ({"decode_context_parallel_size": 2}, "E_CONTEXT_PARALLEL"),
        ({"kv_transfer_config": object()}, "E_KV_TRANSFER"),
        ({"use_ubatching": True}, "E_MICROBATCH"),
        ({"kv_sharing_fast_prefill": True}, "E_FAST_PREFILL"),
        ({"runner_type": "pooling"}, "E_NOT_GENERATIVE"),
        ({"enable_sleep_mode": True}, "E_SLEEP"),
        ({"is_encoder_decoder": True}, "E_ENCODER_DECODER"),
    ],
)
def test_an_engine_that_could_not_be_right_does_not_start(changed, code):
    refuse_engine(engine())
    assert found(engine(**changed)) == [code] and code in REASONS
    with pytest.raises(RefusedError, match=code):
        refuse_engine(engine(**changed))


def test_every_reason_can_be_found():
    everything = engine(
        pipeline_parallel_size=2,
        speculative_config=object(),
        prefill_context_parallel_size=2,
        kv_transfer_config=object(),
        use_ubatching=True,
        kv_sharing_fast_prefill=True,
        runner_type="pooling",
        enable_sleep_mode=True,
        is_encoder_decoder=True,
    )
    assert set(found(everything)) == set(REASONS)


def test_a_recurrent_model_is_not_run_twice(folder):
    kind = SimpleNamespace(**{**vars(KIND), "is_hybrid": True})
    with pytest.raises(RefusedError, match="E_RECURRENT"):
        Admission(Settings(str(folder)), SimpleNamespace(model_config=kind))
