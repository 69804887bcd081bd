"""Transformers: capture, generate, and `with model.steer(policy):` around the user's own calls."""

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import get_args
from weakref import WeakSet

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from steersman.backends.batches import Batches
from steersman.backends.capture import Capture
from steersman.backends.edge import Edge, Given
from steersman.backends.engine import Piece, Reading, read_answers, read_positions, together
from steersman.backends.entered import Threads, only
from steersman.backends.hf_runtime import Run
from steersman.backends.likelihoods import check_forced, likelihoods
from steersman.backends.paged import refuse_recorded
from steersman.backends.passes import Passes
from steersman.backends.proof import Proof
from steersman.backends.walk import Plan, plans_for, with_lengths
from steersman.core.errors import ModelError, RecipeError
from steersman.core.fit_check import check_width
from steersman.core.requests import Completion, Likelihood, Request
from steersman.core.steerer import Policy, Steerer
from steersman.core.types import Activations, AnswerStates, ModelSpec, Position, Prompt, Site
from steersman.models.blocks import find_blocks
from steersman.models.chat import Chat
from steersman.models.contents import Contents
from steersman.models.fingerprint import fingerprint
from steersman.models.head import Head, find_head
from steersman.models.image_tokens import image_token, needs_image
from steersman.models.load import DeviceMap, MaxMemory, Placement, Shared, load_pretrained
from steersman.models.rope import length_limit
from steersman.models.sharded import is_sharded
from steersman.models.wrapped import takes_positions, unwrapped, with_head

TOKEN_BUDGETS = {"cpu": 2048}
"""Tokens of one pass: more of them no longer pay on a CPU (bench/capture.py)."""
TOKEN_BUDGET = 8192  # on all other devices


class HFModel:
    """A transformers model that can be read and steered.

    Args:
        model: a transformers model, also one that is wrapped (by PEFT, by torch.compile).
        processor: the model's processor, or its tokenizer if it reads text only.
        id: how artifacts name the model.
        batch_size: prompts that generate together at most; one at a time where padding would
            change what the model makes of the tokens behind it (`Blocks.padding_disturbs`).
        token_budget: tokens that `capture` runs in one pass, 2048 on a CPU and 8192 elsewhere if
            None; halved when memory runs out.
        blocks: path of the list of decoder blocks, where structure alone does not tell it.

    Raises:
        ModelError: the decoder blocks cannot be found.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module,
        processor: ProcessorMixin | PreTrainedTokenizerBase,
        *,
        id: str | None = None,
        batch_size: int = 64,
        token_budget: int | None = None,
        blocks: str | None = None,
    ) -> None:
        if not isinstance(processor, (ProcessorMixin, PreTrainedTokenizerBase)):
            raise ModelError(
                f"The processor is {processor!r}. Give the model's processor or tokenizer, as "
                "AutoProcessor.from_pretrained or AutoTokenizer.from_pretrained load it."
            )
        self.model = model = unwrapped(model)
        self.chat = Chat(processor, needs_images=needs_image(model))
        with only():  # a policy may be at work on this model
            self.blocks = find_blocks(model, blocks)
        root = with_head(model, self.blocks)
        self._edge = edge = Edge(root, self.blocks, image_token(model.config), self.chat.suffix())
        self.batch_size = 1 if self.blocks.padding_disturbs else batch_size
        places = takes_positions(model) and not self.chat.takes_images
        self._head: Head | None = None
        self._contents = Contents(model, processor)
        self._fitting: WeakSet[Policy] = WeakSet()  # policies that were found to fit
        self._lock = threading.RLock()
        self.batches = Batches(model, self.chat, edge, places, self._lock)
        device = self.batches.device
        passes = Passes(
            model,
            self.blocks,
            self.chat,
            places=places,
            device=lambda: self.batches.device,
            budget=token_budget or TOKEN_BUDGETS.get(device.type, TOKEN_BUDGET),
            lock=self._lock,
            limit=length_limit(model.config),
        )
        self._capture = Capture(passes, Proof(passes, image_token(model.config)))
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
        return read_positions(self, prompts, sites, position)

    def answer_states(self, prompts: Sequence[Prompt]) -> AnswerStates:
        """The `head_in` states that predict each token of the forced completions, by prompt.

        A prompt with `close_turn` is made to end its turn too.
        """
        return read_answers(self, prompts)

    def windows(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """As `Engine.windows`."""
        return self._capture.windows(prompts)

    def read(
        self,
        prompts: Sequence[Prompt],
        windows: Iterable[Sequence[int]],
        reading: Reading,
        known: Collection[int] = (),
    ) -> Iterator[Piece]:
        """As `Engine.read`: what prompts have in common is run once."""
        self.spec.check(reading.sites, "capture")
        yield from self._capture.read(prompts, windows, reading, known)

    @property
    def numerics(self) -> str:
        """As `Engine.numerics`."""
        how = getattr(self.model.config, "_attn_implementation", None)
        told = f"{self.model.dtype}, {how}, {self.batches.device.type}, {self._contents.digest()}"
        return told.removeprefix("torch.")

    @property
    def in_step(self) -> bool:
        return is_sharded(self.model)

    @property
    def notes(self) -> Sequence[str]:
        """As `Engine.notes`."""
        return tuple(self._capture.proof.notes)

    def logits(self, states: Tensor) -> Tensor:
        """What the output head makes of `head_in` states `(t, d)`, in float32.

        Raises:
            ModelError: the model has no output head, or its logits are not the head's alone.
        """
        if self._head is None:
            with self._lock, only():
                self._head = find_head(self._edge.root, self.blocks)
        return self._head(states)

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
        if isinstance(requests, Request):
            raise RecipeError("generate takes a list of requests. Write generate([request]).")
        self.check(requests)
        answers: dict[int, Completion] = {}
        for picked in together(requests, self.batch_size):
            made = self.batches.answers([requests[i] for i in picked])
            answers.update(zip(picked, made, strict=True))
        return [answers[i] for i in range(len(requests))]

    def likelihoods(
        self, requests: Sequence[Request], *, divergence: bool = False
    ) -> list[Likelihood]:
        """As `Backend.likelihoods`.

        Raises:
            RecipeError: a request forces no completion, or a policy does not fit the model.
        """
        check_forced(requests)
        self.check(requests)
        batches, found = self.batches, dict[int, Likelihood]()
        for picked in together(requests, self.batch_size):
            chosen = [requests[i] for i in picked]
            batch = batches.encode([r.prompt for r in chosen])
            placed = replace(batch, inputs=batches.placed(batch.inputs))
            given, edge = batches.told(chosen, batch), batches.edge_of(chosen[0].prompt.plain)
            with self._lock:
                made = likelihoods(edge, chosen, placed, given, divergence=divergence)
            found |= zip(picked, made, strict=True)
        return [found[i] for i in range(len(requests))]

    @contextmanager
    def steer(
        self,
        policy: Policy | Steerer | None | Sequence[Policy | Steerer | None],
        strength: float | Sequence[float] = 1.0,
        *,
        vectors: Sequence[Mapping[str, Tensor]] | None = None,
        shadow: bool | Sequence[bool] = False,
        prompt_tokens: int | Sequence[int] | None = None,
        threads: Threads = "own",
        plain: bool = False,
    ) -> Iterator[Run]:
        """Steers calls of the underlying model inside the `with`: generate, forward, a pipeline.

        One policy and one strength steer all rows; lists give one to each row, None leaves a row
        unsteered. This class's own `capture`, `complete` and `generate` stay out of it: their
        requests say themselves how they are steered.

        A forward pass with an empty cache begins new sequences, and is taken to be their whole
        prompt. Without a cache (`use_cache=False`), a pass with one token more than the one before
        continues it.

        Args:
            vectors: by row and steerer, for synthesizers that take theirs from the request.
            shadow: compute gates and vectors, tell them in the traces, and write nothing.
            prompt_tokens: tokens of each row's prompt (padding left out), for calls whose first
                pass is not exactly the prompt: a prompt in pieces, or an answer behind it that is
                scored. Later tokens count as generated.
            threads: "own" steers what this thread or task calls; "all" also other threads that
                have entered no `with` of their own (TextIteratorStreamer, a server's workers, and
                generate_batch, whose cache must have allow_block_sharing=False).
            plain: the prompts do not end with the generation prompt of the chat template.

        Yields:
            the run; its `traces()` tell what was done to the last sequences. Those of
            generate_batch are in the order in which requests began: `run.request_ids()`.

        Raises:
            RecipeError: a policy does not fit the model, or the lists differ in length.
            NotSteeredError: on leaving, if sequences ran and steering could not act, or if the
                model ran in other threads only.
        """
        if threads not in get_args(Threads):
            raise RecipeError(f'threads is {threads!r}; write "own" or "all".')
        plans = plans_for(policy, strength, vectors, shadow)
        self.check(plans)
        plans, lengths = with_lengths(plans, prompt_tokens)
        if threads == "all":
            refuse_recorded(self._edge.root)
        edge, told = self.batches.edge_of(plain), Given(prompt_tokens=lengths)
        with Run(edge, plans, given=told, threads=threads) as run:
            yield run
            run.verify()

    def check(self, requests: Sequence[Request] | Sequence[Plan]) -> None:
        """Makes sure that all policies fit the model.

        Raises:
            RecipeError: one does not.
        """
        for policy in {id(r.policy): r.policy for r in requests if r.policy}.values():
            self._check(policy)

    def _check(self, policy: Policy) -> None:
        if policy in self._fitting:
            return
        self.spec.check(policy.sites, "The policy")
        self.spec.check([read.site for read in policy.reads], "The policy")
        check_width(policy.to("cpu"), self.spec.d_model)
        self._fitting.add(policy)


def load(
    source: str | Path,
    *,
    device: str | None = None,
    device_map: DeviceMap | None = None,
    max_memory: MaxMemory | None = None,
    offload_folder: str | Path | None = None,
    tp: Shared | None = None,
    dtype: torch.dtype = torch.float32,
    batch_size: int = 64,
) -> HFModel:
    """A model by path or hub id, or "bundled" for the one that comes with the package.

    Args:
        device: where all of it goes; "cpu" if neither this nor `device_map` nor `tp` is given.
        device_map: spreads it over devices, the CPU and the disk: "auto", "balanced",
            "sequential", or a device for each module.
        max_memory: what `device_map` may use of each device: {0: "20GiB", "cpu": "60GiB"}.
        offload_folder: where `device_map` may write weights that are not stored as they are used.
        tp: "auto" shares it among the processes that torchrun started; each makes the same calls.

    Raises:
        ModelError: it cannot be loaded; says why.
        RecipeError: settings of the placement exclude each other.
        MissingExtraError: `device_map` or `tp` is given and accelerate is not installed.
    """
    where = Placement(device, device_map, max_memory, offload_folder, tp)
    loaded = load_pretrained(str(source), where=where, dtype=dtype)
    return HFModel(loaded.model, loaded.processor, id=loaded.id, batch_size=batch_size)
