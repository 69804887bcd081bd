"""The front end's side: what is asked for is checked, completed, or refused with a code."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from steersman.backends.vllm.features import refuse_policy
from steersman.backends.vllm.plan import check, course
from steersman.backends.vllm.wire import KEY, Order, Settings, asked_of, read_asked
from steersman.core.serving import RefusedError, Steering
from steersman.core.shelf import Held, Shelf
from steersman.core.steerer import Policy
from steersman.models.chat import Chat
from steersman.models.on_disk import processor_of


class Admission:
    """Checks requests against the policies that are served.

    Args:
        config: vLLM's, of an engine that `refuse_engine` let through.

    Raises:
        ArtifactError: the folder of policies, or one in it, cannot be read.
        RefusedError: a policy cannot be served by vLLM.
    """

    def __init__(self, settings: Settings, config: Any) -> None:
        self._config = config
        self.shelf = Shelf(settings.policies, accept=lambda made: self._accept(made.policy)).open()
        self.default = settings.default_policy
        if self.default is not None:
            self.shelf[self.default]
        self._suffix: tuple[int, ...] | None = None
        self._scoped: dict[tuple[str, str | None], Policy] = {}

    def asked(self, extra_args: Mapping[str, Any] | None) -> tuple[Steering, str] | None:
        """What a request wants, and the name of its trace; None if it is not steered.

        Raises:
            RefusedError: it cannot be had.
        """
        given = asked_of(extra_args)
        if given is None:
            return None if self.default is None else (Steering(self.default), "")
        steering, trace = read_asked(given, self.shelf.ids)
        self.scoped(steering)
        return steering, trace

    def scoped(self, steering: Steering) -> Policy:
        """The policy as this request has it.

        Raises:
            RefusedError: its scope cannot be right in vLLM.
        """
        held = self.shelf[steering.policy]
        key = (held.digest, steering.scope)
        if key not in self._scoped:
            policy = steering.scoped(held.artifact.policy)
            self._accept(policy)
            self._scoped[key] = policy
        return self._scoped[key]

    def _accept(self, policy: Policy) -> None:
        check(policy)
        refuse_policy(self._config, policy)

    def order(self, steering: Steering, trace: str, *, prompt: Sequence[int]) -> Order:
        """The order of a request with this prompt.

        Raises:
            RefusedError: the prompt has no token that the policy reads.
        """
        held, policy = self.shelf[steering.policy], self.scoped(steering)
        suffix = self._suffix_of(policy, prompt)
        where = course(policy, num_prompt=len(prompt), suffix=suffix)
        leaves_marks = steering.acts and not steering.shadow
        return Order(
            steering.policy,
            held.digest,
            steering.strength,
            steering.scope,
            steering.shadow,
            trace,
            suffix,
            _key(held, steering, policy, len(prompt)) if leaves_marks else "",
            where.marks if leaves_marks else -1,
            where.apart if steering.acts else -1,
        )

    def _suffix_of(self, policy: Policy, prompt: Sequence[int]) -> int:
        """Tokens of the generation prompt at the end of this prompt, where a policy asks."""
        if all(read.generation_prompt for read in policy.reads):
            return 0
        if self._suffix is None:
            self._suffix = Chat(processor_of(self._config.model_config.model)).suffix_ids() or ()
        num = len(self._suffix)
        if num and tuple(prompt[-num:]) == self._suffix:
            return num
        raise RefusedError(
            "E_GENERATION_PROMPT",
            "This policy reads the end of the user's turn, and the prompt does not end with the "
            "generation prompt of the model's chat template. Ask through chat completions.",
        )


def _key(held: Held, steering: Steering, policy: Policy, num_prompt: int) -> str:
    """Equal where steered blocks are, beside their tokens and images, which vLLM chains.

    Where a scope begins or ends at the end of the prompt, it matters where that is. The prompt
    itself does not: a vector that it decides is not written before its last token (`plan.check`).
    """
    scopes = [steerer.scope for steerer in policy.steerers.values()]
    bounded = any(scope.start is not None or scope.stop is not None for scope in scopes)
    end = num_prompt if bounded else "anywhere"
    told = (held.digest, steering.strength, steering.scope, end)
    return hashlib.sha256(repr(told).encode()).hexdigest()


def completed(admission: Admission | None, params: Any, request: Any) -> None:
    """Writes the order into the sampling parameters of a request of the engine core.

    Raises:
        RefusedError: as `Admission.asked` and `Admission.order`.
    """
    if admission is None:
        return
    wanted = admission.asked(params.extra_args)
    if wanted is None:
        return
    refuse(request)
    order = admission.order(*wanted, prompt=request.prompt_token_ids)
    made = request.sampling_params
    made.extra_args = {**(made.extra_args or {}), KEY: order.as_dict()}


def refuse(request: Any) -> None:
    """Refuses what a steered request cannot be combined with.

    Raises:
        RefusedError: says what and why.
    """
    if request.lora_request is not None:
        raise RefusedError(
            "E_LORA",
            "A policy is fitted on the states of one model, and a LoRA makes others. Ask without "
            "one, or serve the merged model and fit the policy on it.",
        )
    if request.prompt_embeds is not None or not request.prompt_token_ids:
        raise RefusedError(
            "E_PROMPT_EMBEDS", "A prompt of embeddings cannot be steered. Give text or token ids."
        )
    if request.resumable:
        raise RefusedError(
            "E_STREAMING_INPUT", "A prompt that is still being written cannot be steered."
        )
