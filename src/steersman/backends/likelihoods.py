"""How likely forced answers are, token by token: one pass over prompt and answer together."""

from collections.abc import Sequence
from dataclasses import replace
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steersman.backends.edge import Edge, Given
from steersman.backends.entered import only
from steersman.backends.hf_runtime import Run
from steersman.backends.walk import Plan
from steersman.core.errors import RecipeError
from steersman.core.requests import Likelihood, Request, SteererTrace
from steersman.models.chat import Batch

Traces = Sequence[dict[str, SteererTrace]]


def check_forced(requests: Sequence[Request]) -> None:
    """Refuses requests whose likelihood nobody could tell.

    Raises:
        RecipeError: it is no list of requests, or one forces no completion.
    """
    if isinstance(requests, Request):
        raise RecipeError("likelihoods takes a list of requests. Write likelihoods([request]).")
    for request in requests:
        if not request.prompt.completion:
            raise RecipeError(
                f"A request has no completion, and its likelihood is asked for: "
                f"{request.prompt.text[:60]!r}. Write Prompt(text, completion=...)."
            )


def likelihoods(
    edge: Edge, requests: Sequence[Request], batch: Batch, given: Given, *, divergence: bool
) -> list[Likelihood]:
    """Of one batch, whose completions are the last tokens of its rows (padding is on the left).

    Args:
        divergence: run the batch once more, unsteered.
    """
    lengths = batch.completion_length.tolist()
    if not all(lengths):
        raise RecipeError("A completion has no tokens, so it has no likelihood. Write some text.")
    plans = [Plan.of(request) for request in requests]
    steered, traces = _logprobs(edge, plans, batch, given)
    ids = batch.inputs["input_ids"]
    plain = steered
    if divergence and any(p.policy is not None and p.strength and not p.shadow for p in plans):
        plain, _ = _logprobs(edge, [replace(p, policy=None) for p in plans], batch, given)
    made: list[Likelihood] = []
    for row, num in enumerate(lengths):
        own, other = steered[row, -num - 1 : -1], plain[row, -num - 1 : -1]
        said, greedy = _read(own, ids[row, -num:])
        apart = (own.exp() * (own - other)).nan_to_num(0.0).sum(-1)  # 0 * (-inf + inf) is 0
        made.append(
            Likelihood(
                tuple(said.tolist()), tuple(greedy.tolist()), tuple(apart.tolist()), traces[row]
            )
        )
    return made


def _read(
    logprobs: Float[Tensor, "n v"], ids: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Tensor]:
    """The log-probability of each token, and whether it was the likeliest."""
    return logprobs.gather(1, ids[:, None]).squeeze(1), logprobs.argmax(-1) == ids


def _logprobs(
    edge: Edge, plans: Sequence[Plan], batch: Batch, given: Given
) -> tuple[Float[Tensor, "b s v"], Traces]:
    """Log-probabilities at the columns from which the completions are told, one more at the end."""
    longest = int(batch.completion_length.max())
    inputs: dict[str, Any] = dict(batch.inputs)
    if "logits_to_keep" in signature(edge.root.forward).parameters:
        inputs["logits_to_keep"] = longest + 1
    with only(), torch.no_grad(), Run(edge, plans, given=given) as run:
        logits: Tensor = edge.root(**inputs, use_cache=False).logits
    traces = run.traces(batch.completion_length.tolist())
    return logits[:, -longest - 1 :].float().log_softmax(-1), traces
