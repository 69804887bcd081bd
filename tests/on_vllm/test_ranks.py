"""Engine core and workers in processes of their own, and two ranks of one model."""

import json

import pytest

from on_vllm.asks import Ask, mixed
from on_vllm.policies import Policies

NAMES = ("l2s", "autosteer", "finesteer", "mean", "ablation", "composed", None)
SPLIT = tuple(name for name in NAMES if name is not None)


@pytest.fixture
def apart(monkeypatch):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")


def asks():
    return [Ask(p, None if n is None else {"policy": n}) for n in NAMES for p in mixed(24)]


@pytest.mark.slow
def test_two_ranks_answer_as_one(engines, model, apart, tmp_path):
    from on_vllm.engines import Engine

    wanted = engines.of().ask(asks())
    engines.close()
    folder = Policies(model, tmp_path, only=SPLIT).folder
    two = Engine(folder, {"tensor_parallel_size": 2})
    try:
        given = two.ask(asks())
        same = sum(a.tokens == b.tokens for a, b in zip(given, wanted, strict=True))
        assert same >= 0.99 * len(wanted)
        for answer, one in zip(given, wanted, strict=True):
            if answer.tokens == one.tokens and one.steering is not None:
                assert answer.steering["tokens_written"] == one.steering["tokens_written"]
        trace = two.llm.collective_rpc("steersman", args=("policies",))
        assert len(trace) == 2 and json.loads(trace[0]) == json.loads(trace[1])
    finally:
        two.close()


@pytest.mark.slow
def test_two_ranks_refuse_to_write_what_each_has_a_part_of(engines, model, apart, tmp_path):
    """Attention heads are dealt to ranks."""
    from on_vllm.engines import Engine

    engines.close()
    with pytest.raises(Exception, match="E_TENSOR_PARALLEL_HEADS|initialization failed"):
        Engine(Policies(model, tmp_path, only=("iti",)).folder, {"tensor_parallel_size": 2})
