"""vLLM in this process: one engine at a time, asked as `LLM.chat` is."""

import gc
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from jaxtyping import Float
from torch import Tensor
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory

import steersman
from on_vllm.asks import Ask
from steersman import Prompt

BUNDLED = str(Path(steersman.__file__).parent / "world/bundled")
BLOCK = 32  # the smallest that vLLM's attention has on a CPU
USUAL: Mapping[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 256,
    "block_size": BLOCK,
    "kv_cache_memory_bytes": 128 << 20,
    "max_num_seqs": 64,
    "max_logprobs": -1,
    "disable_log_stats": False,
}


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        cached: tokens of the prompt that came from the prefix cache.
        first: log-probabilities of the first answer token over the vocabulary, if asked for.
        steering: what the worker says of it; None for an unsteered request.
    """

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: tuple[int, ...]
    cached: int
    first: Float[Tensor, " v"] | None
    steering: Mapping[str, Any] | None


class Engine:
    """A running vLLM.

    Args:
        policies: the folder that is served; None starts vLLM without steering.
        options: of `LLM`, over the usual ones.
    """

    def __init__(self, policies: Path | None, options: Mapping[str, Any]) -> None:
        ours = {} if policies is None else {"steersman": {"policies": str(policies)}}
        self.llm = LLM(model=BUNDLED, additional_config=ours, **{**USUAL, **options})

    def ask(self, asks: Sequence[Ask], *, first: bool = False) -> list[Answer]:
        """All of them in one batch."""
        traces = [uuid4().hex if a.steering is not None else "" for a in asks]
        sampling = [
            sampling_of(ask, trace, first=first) for ask, trace in zip(asks, traces, strict=True)
        ]
        made = self.llm.chat([messages(a.prompt) for a in asks], sampling, use_tqdm=False)
        return [self._answer(m, trace) for m, trace in zip(made, traces, strict=True)]

    def one_by_one(self, asks: Sequence[Ask]) -> list[Answer]:
        return [self.ask([ask])[0] for ask in asks]

    def outputs(self, ask: Ask) -> Any:
        """vLLM's own answer to one."""
        return self.llm.chat([messages(ask.prompt)], sampling_of(ask), use_tqdm=False)[0]

    def forget(self) -> None:
        """Empties the prefix cache."""
        assert self.llm.reset_prefix_cache()

    def rpc(self, *asked: str) -> Any:
        """What rank 0 answers."""
        return json.loads(self.llm.collective_rpc("steersman", args=asked)[0])

    def metric(self, name: str) -> float:
        return sum(m.value for m in self.llm.get_metrics() if m.name == f"vllm:{name}")

    def close(self) -> None:
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        cleanup_dist_env_and_memory()
        gc.collect()

    def _answer(self, made: Any, trace: str) -> Answer:
        out = made.outputs[0]
        spread = None
        if out.logprobs:
            spread = torch.full((len(out.logprobs[0]),), -torch.inf)
            for token, found in out.logprobs[0].items():
                spread[token] = found.logprob
        return Answer(
            out.text,
            tuple(out.token_ids),
            tuple(made.prompt_token_ids),
            made.num_cached_tokens,
            spread,
            self._told(trace) if trace else None,
        )

    def _told(self, trace: str) -> Mapping[str, Any]:
        """The answer's `steering`; the last one, where a request made several answers."""
        return self.rpc("trace", trace)[-1]


class Engines:
    """Keeps the last engine, since starting one takes seconds and only one can run."""

    def __init__(self, policies: Path) -> None:
        self._policies = policies
        self._now: tuple[object, Engine] | None = None

    def of(self, *, steered: bool = True, **options: Any) -> Engine:
        """One with these options and an empty prefix cache."""
        key = (steered, tuple(sorted(options.items(), key=str)))
        if self._now is None or self._now[0] != key:
            self.close()
            self._now = key, Engine(self._policies if steered else None, options)
        self._now[1].forget()
        return self._now[1]

    def close(self) -> None:
        if self._now is not None:
            engine, self._now = self._now[1], None
            engine.close()


def sampling_of(ask: Ask, trace: str = "", *, first: bool = False) -> SamplingParams:
    ours = None if ask.steering is None else {"steersman": {**ask.steering, "trace": trace}}
    given = {"temperature": 0.0, "max_tokens": ask.max_tokens, **ask.sampling}
    return SamplingParams(extra_args=ours, logprobs=-1 if first else None, **given)


def messages(prompt: Prompt) -> list[dict[str, Any]]:
    """The prompt as vLLM's chat takes it."""
    system = [] if prompt.system is None else [{"role": "system", "content": prompt.system}]
    turns = [{"role": turn.role, "content": turn.text} for turn in prompt.history]
    pictures = [{"type": "image_pil", "image_pil": image} for image in prompt.images]
    asked = [*pictures, {"type": "text", "text": prompt.text}]
    return [*system, *turns, {"role": "user", "content": asked}]
