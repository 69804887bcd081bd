import pytest

from steersman.core.requests import SteererTrace
from steersman.core.serving import Steering, told
from steersman.server.metrics import OUTCOMES, ServingMetrics, outcome_of

STEERED = {"s": SteererTrace(0.75, 1.5, 4, 3, 0.1)}
CLOSED = {"s": SteererTrace(0.0, 0.0, 4, 0, 0.0, "the gate was closed")}


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def metrics():
    made = ServingMetrics()
    made.loaded(["a", "b"])
    return made


@pytest.mark.parametrize(
    "asked, trace, outcome",
    [
        (Steering("a"), STEERED, "steered"),
        (Steering("a"), CLOSED, "gate_closed"),
        (Steering("a", 0.0), {}, "strength_zero"),
        (Steering("a", shadow=True), CLOSED, "shadow"),
        (Steering("a"), {}, "gate_closed"),
    ],
)
def test_every_answer_has_one_outcome(metrics, asked, trace, outcome):
    assert metrics.answered(asked, told(asked, trace), seconds=1.0) == outcome
    counted = {
        o: value(metrics, "steersman_requests_total", policy="a", outcome=o) for o in OUTCOMES
    }
    assert counted == {o: float(o == outcome) for o in OUTCOMES}


def test_an_error_that_was_told_is_a_failure():
    assert outcome_of(Steering("a"), {"error": {"code": "x"}}) == "failed"


def test_gate_tokens_and_times_are_told_by_policy(metrics):
    asked = Steering("a", 2.0)
    metrics.answered(asked, told(asked, STEERED), seconds=0.3, added=0.002)
    metrics.answered(asked, told(asked, CLOSED), seconds=0.4)
    assert value(metrics, "steersman_tokens_written_total", policy="a") == 3
    assert value(metrics, "steersman_gate_sum", policy="a") == 0.75
    assert value(metrics, "steersman_gate_bucket", policy="a", le="0.0") == 1  # exactly closed
    assert value(metrics, "steersman_request_seconds_sum", policy="a") == pytest.approx(0.7)
    assert value(metrics, "steersman_added_latency_seconds_count", policy="a") == 1
    assert value(metrics, "steersman_policies_loaded") == 2


def test_unsteered_answers_say_nothing_about_the_gate(metrics):
    asked = Steering("a", 0.0)
    metrics.answered(asked, told(asked, {}), seconds=0.3)
    assert value(metrics, "steersman_gate_count", policy="a") is None


def test_what_clients_write_never_becomes_a_label(metrics):
    for i in range(50):
        metrics.refused(f"guess-{i}")
        metrics.failed(f"guess-{i}")
    metrics.refused(None)
    metrics.refused("b")
    names = {
        sample.labels["policy"]
        for family in metrics.registry.collect()
        for sample in family.samples
        if "policy" in sample.labels
    }
    assert names == {"a", "b", "-"}
    assert value(metrics, "steersman_requests_total", policy="-", outcome="refused") == 51


def test_a_policy_that_is_unloaded_keeps_what_was_counted(metrics):
    metrics.refused("b")
    metrics.loaded(["a"])
    assert value(metrics, "steersman_policies_loaded") == 1
    assert value(metrics, "steersman_requests_total", policy="b", outcome="refused") == 1
    metrics.refused("b")
    assert value(metrics, "steersman_requests_total", policy="-", outcome="refused") == 1


def test_the_text_is_prometheus_own(metrics):
    text, kind = metrics.exposition()
    assert b'steersman_requests_total{outcome="steered",policy="a"} 0.0' in text
    assert kind.startswith("text/plain")
