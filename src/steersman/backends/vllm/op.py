"""The op that compiled graphs and recorded ones call at a tap: opaque to them, and in place."""

import torch
from torch import Tensor
from vllm.utils.torch_utils import direct_register_custom_op

from steersman.backends.vllm.board import Board
from steersman.core.types import Site

NAME = "steersman_tap"
SPLIT = f"vllm::{NAME}"
_TAPS: list[tuple[Board, Site]] = []  # an op takes numbers, not objects


def add_tap(board: Board, site: Site) -> int:
    """The number of a tap of this process."""
    _TAPS.append((board, site))
    return len(_TAPS) - 1


def _act(hidden: Tensor, residual: Tensor | None, tap: int) -> None:
    board, site = _TAPS[tap]
    flat = hidden.view(-1, hidden.shape[-1])
    board.tap(site, flat, None if residual is None else residual.view(flat.shape))


def _shape_only(hidden: Tensor, residual: Tensor | None, tap: int) -> None:  # noqa: ARG001
    """Nothing is made, whatever is given: the op works in place."""


def register() -> None:
    """Makes the op known to torch, once in a process."""
    if not hasattr(torch.ops.vllm, NAME):
        direct_register_custom_op(NAME, _act, mutates_args=["hidden"], fake_impl=_shape_only)


def call(hidden: Tensor, residual: Tensor | None, tap: int) -> None:
    """Reads and writes the stream at a tap, in place."""
    torch.ops.vllm.steersman_tap(hidden, residual, tap)
