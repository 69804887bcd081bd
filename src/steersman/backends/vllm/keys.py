"""Keys of the prefix cache: steered blocks are shared with nobody who was not steered alike.

A block is keyed with more than its tokens from the first token on that may be steered; vLLM chains
keys, so what lies behind is apart as well, and what lies before stays shared with everyone.
"""

from typing import Any

from steersman.backends.vllm.wire import KEY


def extra_keys(request: Any, end: int) -> list[tuple[str, str]]:
    """What a block of a request that ends before position `end` is hashed with, beside tokens."""
    params = request.sampling_params
    order = params.extra_args.get(KEY) if params is not None and params.extra_args else None
    if not isinstance(order, dict):
        return []
    made: list[tuple[str, str]] = []
    if 0 <= order["keyed_from"] < end:
        made.append((KEY, order["key"]))
    if 0 <= order["apart_from"] < end:
        made.append((f"{KEY}_apart", request.request_id))
    return made
