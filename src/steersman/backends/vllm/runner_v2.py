"""The seam to vLLM's V2 model runner."""

from typing import Any

from steersman.backends.vllm.board import Board


def join(runner: Any, board: Board) -> None:
    raise NotImplementedError
