"""What a server counts, for Prometheus. Labels are policies that it has, not what clients say."""

from collections.abc import Collection, Mapping
from functools import cache
from typing import Literal

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from steersman.core.serving import Steering
from steersman.core.tree import Plain

Outcome = Literal["steered", "gate_closed", "shadow", "strength_zero", "refused", "failed"]
OUTCOMES: tuple[Outcome, ...] = (
    *("steered", "gate_closed", "shadow", "strength_zero", "refused", "failed"),
)
NO_POLICY = "-"
"""Label of requests whose policy is not served; no policy can be called so."""
GATE = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
ADDED = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


def outcome_of(asked: Steering, told: Mapping[str, Plain]) -> Outcome:
    """What became of a request, from the field `steering` of its answer."""
    if "error" in told:
        return "failed"
    if not asked.acts:
        return "strength_zero"
    if asked.shadow:
        return "shadow"
    return "steered" if told.get("tokens_written") else "gate_closed"


class ServingMetrics:
    """Counters and histograms of steered requests, by policy.

    Args:
        registry: where they are kept; a new one if None. Two of these cannot share one.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        at, by = self.registry, ["policy"]
        self._known: frozenset[str] = frozenset()
        self._requests = Counter(
            "steersman_requests", "Requests that asked for steering.", [*by, "outcome"], registry=at
        )
        self._tokens = Counter(
            "steersman_tokens_written", "Tokens whose state was edited.", by, registry=at
        )
        self._gate = Histogram(
            "steersman_gate", "Mean gate of the widest steerer.", by, registry=at, buckets=GATE
        )
        self._seconds = Histogram(
            "steersman_request_seconds", "From request to answer.", by, registry=at, buckets=SECONDS
        )
        self._added = Histogram(
            "steersman_added_latency_seconds", "What steering itself added.", by,
            registry=at, buckets=ADDED,
        )  # fmt: skip
        self._loaded = Gauge(
            "steersman_policies_loaded", "Policies that are served.",
            registry=at, multiprocess_mode="mostrecent",
        )  # fmt: skip

    def loaded(self, policies: Collection[str]) -> None:
        """These are served from now on; their series begin at 0 and stay when they are unloaded."""
        self._known = frozenset(policies)
        self._loaded.set(len(self._known))
        for name in self._known:
            self._tokens.labels(name)
            for outcome in OUTCOMES:
                self._requests.labels(name, outcome)

    def answered(
        self,
        asked: Steering,
        told: Mapping[str, Plain],
        *,
        seconds: float,
        added: float | None = None,
    ) -> Outcome:
        """One request was answered.

        Args:
            told: the field `steering` of its answer.
            seconds: from its arrival to the end of its answer.
            added: of these, what steering took; None where nobody knows.
        """
        name, outcome = self._label(asked.policy), outcome_of(asked, told)
        self._requests.labels(name, outcome).inc()
        self._seconds.labels(name).observe(seconds)
        if added is not None:
            self._added.labels(name).observe(added)
        if outcome in ("steered", "gate_closed", "shadow"):
            self._gate.labels(name).observe(_number(told.get("gate")))
            self._tokens.labels(name).inc(_number(told.get("tokens_written")))
        return outcome

    def refused(self, policy: str | None) -> None:
        """One request was refused; `policy` is whatever it named."""
        self._requests.labels(self._label(policy), "refused").inc()

    def failed(self, policy: str | None) -> None:
        """One request got an error that was not its own fault."""
        self._requests.labels(self._label(policy), "failed").inc()

    def exposition(self) -> tuple[bytes, str]:
        """The text that Prometheus reads, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    def _label(self, policy: str | None) -> str:
        return policy if policy is not None and policy in self._known else NO_POLICY


@cache
def shared() -> ServingMetrics:
    """The ones in prometheus_client's own registry, which vLLM's `/metrics` shows."""
    return ServingMetrics(REGISTRY)


def _number(given: Plain) -> float:
    return float(given) if isinstance(given, (int, float)) else 0.0
