"""Transformers: capture, generate, and `with model.steer(policy):` around the user's own calls."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from steersman.backends.hf_runtime import Edge, Plan, Run, Stop, muted
from steersman.backends.taps import attach
from steersman.core.errors import ModelError, RecipeError
from steersman.core.requests import Completion, Request
from steersman.core.steerer import Policy, Steerer
from steersman.core.types import Activations, AnswerStates, ModelSpec, Position, Prompt, Site
from steersman.models.blocks import find_blocks
from steersman.models.chat import Batch, Chat
from steersman.models.fingerprint import fingerprint
from steersman.models.load import load_pretrained

HEAD_FACTORS = ("logit_scale", "lm_head_multiplier")
HEAD_CAPS = ("final_logit_softcapping", "logits_soft_cap")
"""What configurations call a factor on the logits, and a soft limit to them."""


class HFModel:
    """A transformers model that can be read and steered.

    Args:
        processor: the model's processor, or its tokenizer if it reads text only.
        id: how artifacts name the model.
        batch_size: prompts that run together.

    Raises:
        ModelError: the decoder blocks cannot be found.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin | PreTrainedTokenizerBase,
        *,
        id: str | None = None,
        batch_size: int = 64,
    ) -> None:
        self.model, self.chat, self.batch_size = model, Chat(processor), batch_size
        self.blocks = find_blocks(model)
        image_token = getattr(model.config, "image_token_id", None)
        self._edge = Edge(model, self.blocks, image_token, self.chat.suffix())
        self._lock = threading.RLock()
        self.spec = ModelSpec(
            id=id or model.name_or_path or type(model).__name__,
            architecture=type(model).__name__,
            d_model=self.blocks.d_model,
            num_layers=len(self.blocks.layers),
            num_heads=self.blocks.num_heads,
            modalities=("text", "image") if self.chat.takes_images else ("text",),
            fingerprint=fingerprint(model, processor),
        )

    def capture(
        self,
        prompts: Sequence[Prompt],
        sites: Sequence[Site],
        position: Position = Position(),
    ) -> Activations:
        """One float32 row per prompt and site; the model runs no further than the deepest site.

        Raises:
            RecipeError: the model has no such site, or a span has no tokens.
        """
        self.spec.check(sites, "capture")
        width = self.spec.d_model
        rows = {site: torch.zeros(len(prompts), width) for site in sites}
        if not rows:
            return Activations(rows)

        def reduce(states: Tensor, batch: Batch) -> Tensor:
            return _reduced(states, batch, position)

        for chunk in self._chunks(prompts):
            batch = self._encode([prompts[i] for i in chunk])
            _check_span(batch, position)
            for site, states in self._states(batch, tuple(rows), reduce).items():
                if states.shape[1] != rows[site].shape[1]:  # heads side by side may be wider
                    rows[site] = torch.zeros(len(prompts), states.shape[1])
                rows[site][chunk] = states.cpu()
        return Activations(rows)

    def answer_states(self, prompts: Sequence[Prompt]) -> AnswerStates:
        """The `head_in` states that predict each token of the forced completions.

        A prompt with `close_turn` is made to end its turn too. Rows come in no particular order.

        Raises:
            RecipeError: a prompt forces no completion.
        """
        site = Site(self.spec.num_layers - 1, "head_in")
        states, tokens, rows = [], [], []
        for chunk in self._chunks(prompts):
            batch = self._encode([prompts[i] for i in chunk])
            _check_span(batch, Position("completion"))
            width = batch.inputs["input_ids"].shape[1]
            said = torch.arange(width)[None] >= width - batch.completion_length[:, None]
            before = torch.roll(said, -1, dims=1)  # the token before each one that is said
            before[:, -1] = False

            def pick(h: Tensor, _batch: Batch, chosen: Tensor = before) -> Tensor:
                return h[chosen.to(h.device)].float()

            states.append(self._states(batch, (site,), pick)[site].cpu())
            tokens.append(batch.inputs["input_ids"].cpu()[said])
            rows.append(torch.tensor(chunk)[said.nonzero()[:, 0]])
        if not states:
            none = torch.zeros(0, dtype=torch.long)
            return AnswerStates(torch.zeros(0, self.spec.d_model), none, none)
        return AnswerStates(torch.cat(states), torch.cat(tokens), torch.cat(rows))

    def logits(self, states: Tensor) -> Tensor:
        """What the output head makes of `head_in` states `(t, d)`, in float32.

        Raises:
            ModelError: the model has no output head, or one that takes other states.
        """
        head = self.model.get_output_embeddings()
        if head is None:
            raise ModelError(f"{self.spec.architecture} has no output head. Load it with one.")
        weight, bias = head.weight.detach(), getattr(head, "bias", None)
        if weight.shape[1] != states.shape[-1]:
            raise ModelError(
                f"The output head of {self.spec.architecture} takes {weight.shape[1]} numbers, and "
                f"head_in states have {states.shape[-1]}: they are projected in between, which is "
                "not supported. Use a method that does not ask for logits."
            )
        given = states.to(weight.device, weight.dtype)
        made = torch.nn.functional.linear(given, weight, None if bias is None else bias.detach())
        config = self.model.config.get_text_config(decoder=True)
        made = made.float() / (getattr(config, "logits_scaling", None) or 1.0)
        for factor in HEAD_FACTORS:
            made = made * (getattr(config, factor, None) or 1.0)
        for name in HEAD_CAPS:
            if cap := getattr(config, name, None):
                made = cap * torch.tanh(made / cap)
        return made

    def complete(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        *,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        """Unsteered answers, behind the forced completion where a prompt has one."""
        requests = [
            Request(p, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
            for p in prompts
        ]
        return [completion.text for completion in self.generate(requests)]

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Completes every request; in one batch each has its own policy and strength.

        Raises:
            RecipeError: a policy does not fit the model.
            NotSteeredError: steering was asked for and could not act.
        """
        for policy in {id(r.policy): r.policy for r in requests if r.policy}.values():
            self._check(policy)
        answers: dict[int, Completion] = {}
        alike: dict[tuple[object, ...], list[int]] = {}
        for i, r in enumerate(requests):
            key = (r.max_new_tokens, r.temperature, r.top_p, r.seed)
            alike.setdefault(key, []).append(i)
        for indices in alike.values():
            for chunk in self._chunks([requests[i].prompt for i in indices]):
                picked = [indices[c] for c in chunk]
                made = self._generate_batch([requests[i] for i in picked])
                answers.update(zip(picked, made, strict=True))
        return [answers[i] for i in range(len(requests))]

    @contextmanager
    def steer(
        self,
        policy: Policy | Steerer,
        strength: float | Sequence[float] = 1.0,
        *,
        vectors: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> Iterator[Run]:
        """Steers every call of the underlying model inside the `with`, in whatever thread.

        This class's own `capture`, `complete` and `generate` stay out of it: their requests say
        themselves how they are steered.

        A forward pass with an empty cache begins new sequences, and is taken to be their whole
        prompt, unless it runs without a cache (`use_cache=False`) and has one token more than the
        pass before. One strength steers all rows; a list gives one to each.

        Yields:
            the run; its `traces()` tell what was done to the last sequences.

        Raises:
            NotSteeredError: on leaving, if sequences ran and steering could not act.
        """
        whole = Policy(steerers={"steerer": policy}) if isinstance(policy, Steerer) else policy
        self._check(whole)
        strengths = [strength] if isinstance(strength, (int, float)) else list(strength)
        given = list(vectors) if vectors is not None else [{} for _ in strengths]
        if not strengths:
            raise RecipeError("No strength was given. Give one number, or one for each row.")
        if len(given) != len(strengths):
            raise RecipeError(
                f"{len(given)} rows of vectors and {len(strengths)} strengths were given. Give "
                "one strength for each row."
            )
        plans = [Plan(whole, float(s), v) for s, v in zip(strengths, given, strict=True)]
        with self._lock, Run(self._edge, plans) as run:
            yield run
            if run.num_passes:
                run.traces()

    def _check(self, policy: Policy) -> None:
        self.spec.check(policy.sites, "The policy")
        self.spec.check([read.site for read in policy.reads], "The policy")

    def _generate_batch(self, requests: Sequence[Request]) -> list[Completion]:
        prompts = [r.prompt for r in requests]
        batch = self._encode(prompts)
        plans = [Plan(r.policy, r.strength, r.vectors) for r in requests]
        first = requests[0]
        sampling = {"do_sample": first.temperature > 0}
        if first.temperature > 0:
            # transformers would cut to the 50 most probable tokens by default
            sampling |= {"temperature": first.temperature, "top_p": first.top_p, "top_k": 0}
        quiet = muted(self._edge.active)
        with self._lock, quiet, torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(first.seed)
            probe_inputs, forced = self._probe_inputs(requests), batch.completion_length
            with Run(self._edge, plans, probe_inputs=probe_inputs, forced=forced) as run:
                ids = self.model.generate(  # pyright: ignore[reportCallIssue]  # a mixin's method
                    **batch.inputs,
                    max_new_tokens=first.max_new_tokens,
                    pad_token_id=self.chat.tokenizer.pad_token_id,
                    **sampling,
                )
        width = batch.inputs["input_ids"].shape[1]
        answers = [self._until_end(row) for row in ids[:, width:].tolist()]
        traces = run.traces([len(a) for a in answers])
        return [
            Completion(self.chat.decode(a), tuple(a), int(n), trace)
            for a, n, trace in zip(answers, batch.prompt_length, traces, strict=True)
        ]

    def _probe_inputs(self, requests: Sequence[Request]) -> dict[str, Tensor] | None:
        """Prompts without generation prompt, for templates that do not just append it."""
        reads = [r for q in requests if q.policy is not None for r in q.policy.reads]
        if self._edge.suffix is not None or all(r.generation_prompt for r in reads):
            return None
        bare = [replace(q.prompt, generation_prompt=False, completion=None) for q in requests]
        return self._encode(bare).inputs

    def _until_end(self, token_ids: list[int]) -> list[int]:
        end = self.model.generation_config.eos_token_id
        ends = set(end if isinstance(end, list) else [end])
        for i, token in enumerate(token_ids):
            if token in ends:
                return token_ids[: i + 1]
        return token_ids

    def _encode(self, prompts: Sequence[Prompt]) -> Batch:
        batch = self.chat.encode(prompts)
        inputs = {k: v.to(self.model.device) for k, v in batch.inputs.items()}
        cast = {
            k: v.to(self.model.dtype) if v.is_floating_point() else v for k, v in inputs.items()
        }
        return replace(batch, inputs=cast)

    def _chunks(self, prompts: Sequence[Prompt]) -> Iterator[list[int]]:
        """Indices that run together: with or without images, of similar length."""
        for with_images in (False, True):
            picked = [i for i, p in enumerate(prompts) if bool(p.images) == with_images]
            picked.sort(key=lambda i: len(prompts[i].text))
            for start in range(0, len(picked), self.batch_size):
                yield picked[start : start + self.batch_size]

    def _states(
        self, batch: Batch, sites: Sequence[Site], reduce: Callable[[Tensor, Batch], Tensor]
    ) -> dict[Site, Tensor]:
        found: dict[Site, Tensor] = {}
        deepest = max(sites, key=lambda site: site.depth)

        def keep(site: Site):
            def act(h: Tensor) -> None:
                found[site] = reduce(h, batch)
                if site == deepest:
                    raise Stop

            return act

        with self._lock, muted(self._edge.active), ExitStack() as handles, torch.no_grad():
            for site in sites:
                handles.callback(attach(self.blocks, site, keep(site)).remove)
            with suppress(Stop):
                self.model(**batch.inputs, use_cache=False)
        return found


def _span(batch: Batch, position: Position) -> tuple[Tensor, Tensor]:
    """Tokens of the span, and tokens behind it, of each row."""
    if position.span == "prompt":
        return batch.prompt_length, batch.completion_length
    return batch.completion_length, torch.zeros_like(batch.completion_length)


def _check_span(batch: Batch, position: Position) -> None:
    length, _ = _span(batch, position)
    if int((length - position.skip_last).min()) < 1:
        raise RecipeError(
            f"capture reads the {position.span}, and a prompt has no token there (skip_last is "
            f"{position.skip_last}). Give a completion, or skip fewer tokens."
        )


def _reduced(states: Tensor, batch: Batch, position: Position) -> Tensor:
    """`(b, s, d)` to `(b, d)`: the last token of a span, or its mean; padding is on the left."""
    length, behind = _span(batch, position)
    width = states.shape[1]
    end = (width - behind - position.skip_last).to(states.device)  # first column behind the span
    start = (width - behind - length).to(states.device)
    if position.reduce == "last":
        return states[torch.arange(len(states), device=states.device), end - 1].float()
    column = torch.arange(width, device=states.device)[None]
    inside = ((column >= start[:, None]) & (column < end[:, None])).float()
    return (states.float() * inside[..., None]).sum(1) / inside.sum(1, keepdim=True)


def load(
    source: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32, batch_size: int = 64
) -> HFModel:
    """A model by path or hub id, or "bundled" for the one that comes with the package.

    Raises:
        ModelError: it cannot be loaded; says why.
    """
    loaded = load_pretrained(source, device=device, dtype=dtype)
    return HFModel(loaded.model, loaded.processor, id=loaded.id, batch_size=batch_size)
