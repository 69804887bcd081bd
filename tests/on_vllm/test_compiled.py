"""Compiled graphs: the op is in them, whatever an earlier server left in the cache of graphs."""

import pytest

from on_vllm.asks import Ask, mixed
from on_vllm.policies import FITTED, MADE

NAMES = (*FITTED, *MADE, None)


def asks():
    return [
        Ask(prompt, None if name is None else {"policy": name})
        for i, name in enumerate(NAMES)
        for prompt in [p for p in mixed(60)[i:] if p.images][:6]
    ]


def test_compiled_graphs_steer_as_eager_ones_do(engines):
    """Twice: compiled, and taken from the cache, where graphs without taps are as well."""
    wanted = [a.tokens for a in engines.of().ask(asks())]
    plain = [Ask(ask.prompt) for ask in asks()]
    vanilla = [a.tokens for a in engines.of(steered=False, enforce_eager=False).ask(plain)]
    assert vanilla != wanted
    for _ in range(2):
        assert [a.tokens for a in engines.of(enforce_eager=False).ask(asks())] == wanted
        assert [a.tokens for a in engines.of(enforce_eager=False).ask(plain)] == vanilla
        engines.close()
    assert [a.tokens for a in engines.of(steered=False, enforce_eager=False).ask(plain)] == vanilla


@pytest.mark.parametrize("tokens", [32])
def test_they_do_so_for_chunks_too(engines, tokens):
    wanted = [a.tokens for a in engines.of().ask(asks())]
    engine = engines.of(enforce_eager=False, max_num_batched_tokens=tokens, max_num_seqs=8)
    assert [a.tokens for a in engine.ask(asks())] == wanted
