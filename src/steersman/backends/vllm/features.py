"""What vLLM can do that steering cannot be right with: refused when an engine starts."""

from typing import Any

from steersman.core.serving import RefusedError
from steersman.core.steerer import Policy

REASONS = {
    "E_PIPELINE_PARALLEL": "a gate that is read on one stage cannot open what another writes. Use "
    "tensor parallelism, or more replicas (--pipeline-parallel-size 1)",
    "E_SPECULATIVE": "tokens that are drafted and turned down would be counted, and drafts come "
    "from a model that nobody steers. Leave --speculative-config out",
    "E_CONTEXT_PARALLEL": "ranks hold pieces of a sequence, and a policy must see its whole row. "
    "Leave context parallelism out",
    "E_KV_TRANSFER": "another engine would fill the cache without knowing how requests are "
    "steered. Leave --kv-transfer-config out",
    "E_MICROBATCH": "passes are cut into micro-batches behind the plugin's back. Leave "
    "--enable-dbo out",
    "E_FAST_PREFILL": "later blocks run fewer tokens than earlier ones. Leave "
    "--kv-sharing-fast-prefill out",
    "E_SLEEP": "policies lie beside the weights, and waking up would not bring them back. Leave "
    "--enable-sleep-mode out",
    "E_NOT_GENERATIVE": "only models that generate text are steered",
    "E_ENCODER_DECODER": "its prompt and its answer run through different blocks",
}
"""Why, and what to do, by code."""


def found(config: Any) -> list[str]:
    """Codes of what an engine with this `VllmConfig` would do wrong."""
    model, parallel = config.model_config, config.parallel_config
    facts = {
        "E_PIPELINE_PARALLEL": parallel.pipeline_parallel_size > 1,
        "E_SPECULATIVE": config.speculative_config is not None,
        "E_CONTEXT_PARALLEL": parallel.decode_context_parallel_size > 1
        or parallel.prefill_context_parallel_size > 1,
        "E_KV_TRANSFER": config.kv_transfer_config is not None,
        "E_MICROBATCH": parallel.use_ubatching,
        "E_FAST_PREFILL": config.cache_config.kv_sharing_fast_prefill,
        "E_SLEEP": bool(model.enable_sleep_mode),
        "E_NOT_GENERATIVE": model.runner_type != "generate",
        "E_ENCODER_DECODER": model.is_encoder_decoder,
    }
    return [code for code, is_so in facts.items() if is_so]


def refuse_engine(config: Any) -> None:
    """Refuses to steer where it could not be right.

    Raises:
        RefusedError: says what, why, and what to leave out.
    """
    for code in found(config):
        raise RefusedError(code, f"Steering and this engine do not go together: {REASONS[code]}.")


def refuse_policy(config: Any, policy: Policy) -> None:
    """Refuses a policy that this model could not be steered rightly with.

    Raises:
        RefusedError: its vector must be known before it is written, and the model keeps a state
            that a second pass would move on, its neighbours' too.
    """
    model = config.model_config
    if policy.probed(0) and (model.is_hybrid or model.is_attention_free):
        raise RefusedError(
            "E_RECURRENT",
            "This policy reads above where it writes, so that a pass runs twice, and this model "
            "has recurrent layers, which a second pass would move on. Read at or below the layer "
            "that is written, or use `steersman serve` without vLLM.",
        )
