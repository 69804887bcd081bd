"""Live: one batch whose rows end, sample and are heard each by itself, as a server needs it."""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.logits_process import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    MinPLogitsWarper,
    TopHLogitsWarper,
    TypicalLogitsWarper,
)
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList

from steersman.backends.hf import HFModel
from steersman.core.errors import ModelError, NotSteeredError, RecipeError
from steersman.core.requests import Completion, Finish, Request
from steersman.models.rope import length_limit

CUTS = {
    "top_h": (TopHLogitsWarper, None),
    "min_p": (MinPLogitsWarper, None),
    "typical_p": (TypicalLogitsWarper, 1.0),
    "epsilon_cutoff": (EpsilonLogitsWarper, 0.0),
    "eta_cutoff": (EtaLogitsWarper, 0.0),
}
"""What a model's own settings may leave out of a draw, and the value that leaves out nothing."""
BY_PROMPT = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "forced_bos_token_id": None,
    "watermarking_config": None,
}
"""Settings that look at the tokens of the prompt, its padding too, and the value that is none."""


def groups(model: HFModel, requests: Sequence[Request]) -> list[list[int]]:
    """Indices of requests that can run in one batch; first the batch of the first request.

    Apart run prompts with images and those without, plain prompts and those of a chat (where reads
    lie differently), and every prompt where padding changes what the model makes of it. Where the
    model's settings look at the tokens of a prompt (`BY_PROMPT`), prompts of other lengths run
    apart. Where its positions have an end (`_last_place`), so do those that would pass it together:
    a row that has ended moves on as long as others do. Otherwise policies, strengths, lengths,
    temperatures and seeds may differ.
    """
    config, last = model.batches.model.generation_config, _last_place(model)
    by_prompt = any(getattr(config, name) not in (None, none) for name, none in BY_PROMPT.items())
    forced_end = config.forced_eos_token_id is not None  # where the longest answer must end
    alone = len(requests) == 1
    tokens = [0 if alone or not (by_prompt or last) else _tokens(model, r) for r in requests]
    alike: dict[tuple[object, ...], list[list[int]]] = {}
    for i, request in enumerate(requests):
        kind = (
            bool(request.prompt.images),
            request.prompt.plain,
            tokens[i] if by_prompt else None,
            request.max_new_tokens if forced_end else None,
        )
        batches = alike.setdefault(kind, [])
        for batch in batches:
            rows = [*batch, i]
            longest = max(tokens[k] for k in rows) + max(requests[k].max_new_tokens for k in rows)
            if len(batch) < model.batch_size and (last is None or longest <= last):
                batch.append(i)
                break
        else:
            batches.append([i])
    return sorted(batch for batches in alike.values() for batch in batches)


def _last_place(model: HFModel) -> int | None:
    """How many tokens a batch may have, so that no row changes what another one is told.

    Behind them, angles of some models change for all rows, and tables of positions end. None where
    nothing ends.
    """
    config = model.batches.model.config
    text = config.get_text_config(decoder=True)
    if getattr(text, "rope_parameters", None) is not None:
        return length_limit(config)
    return getattr(text, "max_position_embeddings", None)


def _tokens(model: HFModel, request: Request) -> int:
    """Tokens in front of the first new one."""
    return len(model.chat.rows([request.prompt]).rows[0]["input_ids"])


def check_live(model: HFModel) -> None:
    """Makes sure that a model can be heard while it answers.

    Raises:
        ModelError: its settings ask for a search that does not go token by token.
    """
    own = copy(model.batches.model.generation_config)
    own.do_sample = False
    mode = own.get_generation_mode()
    if mode != GenerationMode.GREEDY_SEARCH:
        raise ModelError(
            f"The model's generation_config asks for {mode.value}, and answers that are heard as "
            "they are made come token by token. Reset those settings: "
            "model.model.generation_config.num_beams = 1, and the like."
        )


def generate_live(
    model: HFModel,
    requests: Sequence[Request],
    *,
    sink: Callable[[int, int], None],
    cancelled: Callable[[int], bool],
) -> list[Completion | NotSteeredError]:
    """Completes requests in one batch; an answer is what it would be without its neighbours.

    A row ends at a token that ends answers, at its own `max_new_tokens`, or when it is cancelled.
    One that samples draws with its own seed: the same answer again, but not the one of
    `model.generate`, where rows are drawn together.

    Args:
        sink: is told the row and the token of everything that the completions will hold, as it is
            made; the token that ends an answer too.
        cancelled: whether nobody waits for this row any more; asked behind each of its tokens.

    Returns:
        the completions; the error instead, of a row that was to be steered and could not be.

    Raises:
        RecipeError: the requests cannot run in one batch (`groups`), or a policy does not fit.
        ModelError: the model's settings ask for a search that does not go token by token.
    """
    if not requests:
        return []
    if len(parts := groups(model, requests)) > 1:
        raise RecipeError(
            f"{len(requests)} requests were given that cannot run in one batch. Run those apart "
            f"that groups(model, requests) tells apart: {parts}."
        )
    model.check(requests)
    batches = model.batches
    config = batches.model.generation_config
    check_live(model)
    batch = batches.encode([request.prompt for request in requests])
    rows = _Rows(
        [r.max_new_tokens for r in requests], batches.ends, batches.device, sink, cancelled
    )
    settings = {
        "do_sample": False,
        "max_new_tokens": max(r.max_new_tokens for r in requests),
        "stopping_criteria": StoppingCriteriaList([rows]),
        "logits_processor": LogitsProcessorList(_draws(requests, rows, config, batches.device)),
    }
    run = batches.run(requests, batch, settings, rows.going).run
    outcomes = run.outcomes([len(said) for said in rows.said])
    return [
        outcome
        if isinstance(outcome, NotSteeredError)
        else Completion(
            batches.chat.decode(said), tuple(said), int(num), outcome, finish or "length"
        )
        for said, num, outcome, finish in zip(
            rows.said, batch.prompt_length, outcomes, rows.finish, strict=True
        )
    ]


class _Rows(StoppingCriteria):
    """What each row has said, and why it ended; asked behind every token.

    Tells the sink as well: a streamer would be given the same tokens, and not which rows go on.
    """

    def __init__(
        self,
        limits: Sequence[int],
        ends: Sequence[int],
        device: torch.device,
        sink: Callable[[int, int], None],
        cancelled: Callable[[int], bool],
    ) -> None:
        self._limits, self._ends = limits, frozenset(ends)
        self._sink, self._cancelled = sink, cancelled
        self.said: list[list[int]] = [[] for _ in limits]
        self.finish: list[Finish | None] = [None for _ in limits]
        self._going = torch.ones(len(limits), dtype=torch.bool, device=device)

    def going(self) -> Bool[Tensor, " b"]:
        """Which rows have not ended."""
        return self._going

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]  # no BoolTensor on a GPU
        self, input_ids: Int[Tensor, "b s"], scores: object, **_: object
    ) -> Bool[Tensor, " b"]:
        for row, token in enumerate(input_ids[:, -1].tolist()):
            if self.finish[row] is None:
                self.said[row].append(token)
                self._sink(row, token)
                self.finish[row] = self._why(row, token)
        ended = [finish is not None for finish in self.finish]
        self._going = ~torch.tensor(ended, device=input_ids.device)
        return ~self._going

    def _why(self, row: int, token: int) -> Finish | None:
        if token in self._ends:
            return "stop"
        if len(self.said[row]) >= self._limits[row]:
            return "length"
        return "cancelled" if self._cancelled(row) else None


class _Draw(LogitsProcessor):
    """Makes the likeliest token a drawn one, in rows that sample; the others stay as they are.

    The argmax of s + g, with g of the Gumbel distribution, is a draw from softmax(s). So rows are
    drawn by generators of their own, under whatever comes behind this processor.

    Args:
        drawing: indices of the rows that sample.
        cuts: what the model's own settings leave out of a draw.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        drawing: Sequence[int],
        rows: _Rows,
        cuts: Sequence[Callable[[Any, Any], Tensor]],
        device: torch.device,
    ) -> None:
        self._requests, self._drawing, self._rows, self._cuts = requests, drawing, rows, cuts
        self._sources = {
            row: torch.Generator(device).manual_seed(requests[row].seed) for row in drawing
        }

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]  # nor a FloatTensor
        self, input_ids: Int[Tensor, "b s"], scores: Float[Tensor, "b v"]
    ) -> Float[Tensor, "b v"]:
        rows = [row for row in self._drawing if self._rows.finish[row] is None]
        if not rows:
            return scores
        limits = torch.finfo(torch.float32)
        asked = [
            (min(max(r.temperature, limits.tiny), limits.max), r.top_p)
            for r in (self._requests[row] for row in rows)
        ]
        temperature, top_p = torch.tensor(asked, device=scores.device).T[..., None]  # (r, 1) each
        index = torch.tensor(rows, device=scores.device)
        chosen = scores[index]
        chosen = (chosen - chosen.amax(1, keepdim=True)) / temperature  # the largest stays finite
        if any(share < 1 for _, share in asked):
            chosen = torch.where(top_p < 1, nucleus(chosen, top_p), chosen)
        for cut in self._cuts:
            chosen = cut(input_ids[index], chosen)
        noise = torch.stack([self._gumbel(row, scores) for row in rows])
        return scores.index_copy(0, index, chosen + noise.to(scores.device))

    def _gumbel(self, row: int, scores: Float[Tensor, "b v"]) -> Float[Tensor, " v"]:
        source = self._sources[row]
        drawn = torch.empty(scores.shape[1], device=source.device).exponential_(generator=source)
        return -drawn.clamp_min(torch.finfo(drawn.dtype).tiny).log()


def nucleus(scores: Float[Tensor, "r v"], top_p: Float[Tensor, "r 1"]) -> Float[Tensor, "r v"]:
    """Scores of the likeliest tokens that together have the probability `top_p`, at least one.

    All others are minus infinity.
    """
    ordered, index = scores.sort(descending=True)
    shares = ordered.softmax(-1)
    before = shares.cumsum(-1) - shares
    kept = torch.where(before < top_p, ordered, -torch.inf)
    return torch.empty_like(scores).scatter(1, index, kept)


def _draws(
    requests: Sequence[Request], rows: _Rows, config: GenerationConfig, device: torch.device
) -> list[LogitsProcessor]:
    """None where every row is greedy."""
    drawing = [i for i, request in enumerate(requests) if request.temperature > 0]
    if not drawing:
        return []
    cuts = [
        make(value)
        for name, (make, neutral) in CUTS.items()
        if (value := getattr(config, name)) not in (None, neutral)
    ]
    return [_Draw(requests, drawing, rows, cuts, device)]
