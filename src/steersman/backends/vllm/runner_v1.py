"""The seam to vLLM's V1 model runner, which CPUs use: who is in a pass, and when it runs.

Joined are methods of one runner object, never of a class: a runner without steering is untouched.
"""

from collections.abc import Sequence
from typing import Any

from steersman.backends.vllm.board import Board
from steersman.backends.vllm.wire import Order, order_of


def join(runner: Any, board: Board) -> None:
    """Has a `GPUModelRunner` of V1 tell the board of every pass."""
    prepare, dispatch = runner._prepare_inputs, runner._determine_batch_execution_and_padding
    forward, removed = runner._model_forward, runner._on_request_state_removed

    def asked(name: str) -> tuple[Order | None, Sequence[int]]:
        request = runner.requests[name]
        params = request.sampling_params
        return order_of(params and params.extra_args), request.prompt_token_ids or ()

    def prepare_inputs(scheduler_output: Any, num_scheduled_tokens: Any) -> Any:
        made = prepare(scheduler_output, num_scheduled_tokens)
        batch = runner.input_batch
        starts = batch.num_computed_tokens_cpu[: batch.num_reqs]
        board.begin(batch.req_ids, starts, num_scheduled_tokens, asked)
        return made

    def dispatched(*args: Any, **kwargs: Any) -> Any:
        if board.begun and board.needs_eager:
            kwargs["force_eager"] = True
        return dispatch(*args, **kwargs)

    def steered_forward(*args: Any, **kwargs: Any) -> Any:
        return board.around(lambda: forward(*args, **kwargs))

    def on_removed(name: str, *args: Any) -> Any:
        board.remove(name)
        return removed(name, *args)

    runner._prepare_inputs = prepare_inputs
    runner._determine_batch_execution_and_padding = dispatched
    runner._model_forward = steered_forward
    runner._on_request_state_removed = on_removed
    join_head(runner.model, board)


def join_head(model: Any, board: Board) -> None:
    """Steers what tokens are sampled from. The first call behind a pass is for sampling; others are
    for tokens of the prompt, which nothing at the head is written to."""
    logits = model.compute_logits

    def steered_logits(hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        return logits(board.head(hidden_states), *args, **kwargs)

    model.compute_logits = steered_logits
