"""The seam to vLLM's V2 model runner, which GPUs use: who is in a pass, and when it runs.

Joined are methods of one runner object and of its model, never of a class. Passes in which
something is read, or that steerers write by themselves, are kept out of full graphs; all others
may replay one, whose ops read the board's tables.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from steersman.backends.vllm.board import Board
from steersman.backends.vllm.runner_v1 import join_head
from steersman.backends.vllm.wire import Order, order_of
from steersman.core.serving import RefusedError


def join(runner: Any, board: Board) -> None:
    """Has a `GPUModelRunner` of V2 tell the board of every pass.

    Raises:
        RefusedError: this runner samples from pieces of the batch, where a head cannot be steered.
    """
    if runner.batch_sharder is not None and any(s.point == "head_in" for s in board.widths):
        raise RefusedError(
            "E_BATCH_SHARDED",
            "A policy writes head_in, and each rank samples for some of the requests. Start the "
            "server without batch-sharded sampling.",
        )
    came: dict[str, tuple[Order | None, Sequence[int]]] = {}
    add, finish, gather = runner.add_requests, runner.finish_requests, runner.gather_batch_req_state
    forward = runner.model.forward

    def add_requests(scheduler_output: Any) -> None:
        for new in scheduler_output.scheduled_new_reqs:
            params = new.sampling_params
            order = order_of(params and params.extra_args)
            came.setdefault(new.req_id, (order, new.prompt_token_ids or ()))
        add(scheduler_output)

    def finish_requests(scheduler_output: Any) -> None:
        for name in scheduler_output.finished_req_ids:  # those preempted keep their rows
            board.remove(name)
            came.pop(name, None)
        finish(scheduler_output)

    def gather_batch(scheduler_output: Any, dummy_run: bool) -> Any:
        made = gather(scheduler_output, dummy_run)
        batch, _ = made
        if batch is not None:
            _join_graphs(runner.cudagraph_manager, board)
            starts = runner.req_states.num_computed_tokens_np[batch.idx_mapping_np]
            board.begin(batch.req_ids, starts, batch.num_scheduled_tokens, came.__getitem__)
        return made

    def steered_forward(*args: Any, **kwargs: Any) -> Any:
        return board.around(lambda: forward(*args, **kwargs))

    runner.add_requests = add_requests
    runner.finish_requests = finish_requests
    runner.gather_batch_req_state = gather_batch
    runner.model.forward = steered_forward
    join_head(runner.model, board)


def _join_graphs(manager: Any, board: Board) -> None:
    """Keeps passes that need Python out of full graphs; the manager comes after the model."""
    if manager is None or getattr(manager, "_steersman_joined", False):
        return
    if manager.use_breakable_cg:
        raise RefusedError(
            "E_BREAKABLE_GRAPHS",
            "Breakable CUDA graphs replay what runs between their breaks, taps included. Start the "
            "server without them.",
        )
    dispatch, replay = manager.dispatch, manager.run_fullgraph

    def dispatched(num_reqs: int, num_tokens: int, *args: Any, **kwargs: Any) -> Any:
        found = dispatch(num_reqs, num_tokens, *args, **kwargs)
        if board.begun and board.needs_eager and found.cg_mode.name == "FULL":
            return replace(
                found,
                cg_mode=type(found.cg_mode).NONE,
                num_tokens=num_tokens,
                num_reqs=num_reqs,
                uniform_token_count=None,
                max_query_len=None,
            )
        return found

    def replayed(description: Any) -> Any:
        made = replay(description)
        board.replayed()
        return made

    manager.dispatch, manager.run_fullgraph = dispatched, replayed
    manager._steersman_joined = True
