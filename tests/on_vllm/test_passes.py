"""However a prompt is cut into passes, and whoever is sent away in between: the same answers."""

import pytest

from on_vllm.asks import Ask, long, mixed, pictured
from on_vllm.policies import FITTED

NAMES = (*FITTED, "everywhere", "later", None)


def asks(prompts, max_tokens=16):
    """Every policy on some of the prompts."""
    return [
        Ask(long(prompt), None if name is None else {"policy": name}, max_tokens)
        for i, name in enumerate(NAMES)
        for prompt in (prompts[i % len(prompts)], prompts[(i + 1) % len(prompts)])
    ]


def text(num):
    return [p for p in mixed(4 * num) if not p.images][:num]


@pytest.fixture(scope="module")
def wanted(engines):
    """The answers to prompts that run whole."""
    engine = engines.of(enable_prefix_caching=False)
    return {
        kind: engine.ask(asks(prompts))
        for kind, prompts in (("text", text(8)), ("pictures", pictured(8)))
    }


@pytest.mark.parametrize(
    ("tokens", "kind", "cached"),
    [
        (16, "text", False),
        (24, "text", True),
        (32, "pictures", True),
        (61, "pictures", False),
    ],
)
def test_chunks_of_any_size_give_the_answers_of_whole_prompts(
    engines, wanted, tokens, kind, cached
):
    engine = engines.of(
        max_num_batched_tokens=tokens,
        max_num_seqs=8,
        enable_chunked_prefill=True,
        enable_prefix_caching=cached,
    )
    given = engine.ask(asks(text(8) if kind == "text" else pictured(8)))
    assert min(len(a.prompt_tokens) for a in given) > tokens
    assert [a.tokens for a in given] == [a.tokens for a in wanted[kind]]
    for answer, whole in zip(given, wanted[kind], strict=True):
        if whole.steering is not None:
            assert answer.steering["gate"] == pytest.approx(whole.steering["gate"], abs=1e-4)
            written, in_all = (a.steering["tokens_written"] for a in (answer, whole))
            assert written == in_all or (cached and 0 < written < in_all)  # the cache has the rest


@pytest.mark.parametrize("cached", [False, True])
def test_who_is_preempted_goes_on_as_before(engines, cached):
    """A cache for few requests: they push each other out, and run again."""
    long_answers = {"ignore_eos": True}
    asked = [Ask(a.prompt, a.steering, 64, long_answers) for a in asks([*pictured(4), *text(4)])]
    roomy = engines.of(enable_prefix_caching=cached)
    wanted = roomy.ask(asked)
    assert roomy.metric("num_preemptions") == 0
    tight = engines.of(num_gpu_blocks_override=14, enable_prefix_caching=cached)
    before = tight.metric("num_preemptions")
    given = tight.ask(asked)
    assert tight.metric("num_preemptions") > before, "nobody was preempted"
    assert [a.tokens for a in given] == [a.tokens for a in wanted]
    for answer, whole in zip(given, wanted, strict=True):
        if whole.steering is not None:
            assert answer.steering["gate"] == pytest.approx(whole.steering["gate"], abs=1e-4)
