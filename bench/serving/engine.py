"""One vLLM engine in a process of its own: reads loads as lines of JSON, answers their figures.

Runs in the environment that has vLLM; of ours it imports load.py only. Lines go through the
process's first standard output; whatever else prints goes to standard error.

    PYTHONPATH=bench python -m serving.engine '{"model": "FOLDER", "additional_config": {}}'
"""

import asyncio
import contextlib
import json
import os
import sys
import traceback
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

from serving.load import Load, Piece, Steering, figures, run
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM


class Engine:
    """What a load is run on."""

    def __init__(self, settings: dict[str, Any]) -> None:
        args = AsyncEngineArgs(**settings)
        self.llm = AsyncLLM.from_engine_args(args)
        self._ids = count()

    async def send(
        self, prompt: list[int], steering: Steering | None, new: int
    ) -> AsyncIterator[Piece]:
        extra = {} if steering is None else {"extra_args": {"steersman": dict(steering)}}
        params = SamplingParams(
            temperature=0.0,
            max_tokens=new,
            min_tokens=0,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            **extra,
        )
        answer = self.llm.generate({"prompt_token_ids": prompt}, params, f"r{next(self._ids)}")
        async for out in answer:
            yield Piece(out.outputs[0].token_ids, out.num_cached_tokens)

    async def told(self, asked: dict[str, Any]) -> object:
        """The answer to one line."""
        if "trace" in asked:
            given = {**asked["trace"], "trace": f"t{next(self._ids)}"}
            async for _ in self.send(list(range(3, 35)), given, 4):
                pass
            found = await self.llm.collective_rpc("steersman", args=("trace", given["trace"]))
            return json.loads(found[0])[0]
        await self.llm.reset_prefix_cache()
        return figures(await run(Load.read(asked["load"]), self.send))


async def serve(settings: dict[str, Any], answers: Any) -> None:
    engine = Engine(settings)
    try:
        print(json.dumps({"ready": os.getpid()}), file=answers, flush=True)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            try:
                answer: object = {"answer": await engine.told(json.loads(line))}
            except Exception as error:  # the other side says it, and ends the run
                traceback.print_exc()
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), file=answers, flush=True)
    finally:
        with contextlib.suppress(Exception):
            engine.llm.shutdown()


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    asyncio.run(serve(json.loads(sys.argv[1]), answers))
