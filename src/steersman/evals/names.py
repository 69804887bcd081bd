"""What suites, methods, splits and metrics are called in tables, and which way is better."""

METHODS: dict[str, str] = {
    "none": "Unsteered",
    "prompt": "Prompt only",
    "random": "Random vector",
    "mean": "Mean vector",
    "mean-ba": "Mean, one behaviour",
    "l2s": "L2S",
    "l2s-steered": "L2S, no zero targets",
    "l2s-gated": "L2S behind a gate",
    "autosteer": "AutoSteer",
    "finesteer": "FineSteer",
    "p2s": "P2S",
}
"""In the order of the tables; other methods go between `l2s` and the oracles."""

UNSTEERED = "none"
CONTROLS = frozenset({"none", "prompt", "random"})
"""What every method must beat."""
ORACLES = frozenset({"p2s"})
"""These see the right answer; they bound what can be reached and never win."""

SUITES: dict[str, str] = {
    "safety": "Safety",
    "pope": "Hallucination (POPE)",
    "utility": "Utility",
    "utility-pope": "Utility under the hallucination policies",
}
METRICS: dict[str, str] = {
    "asr": "Attack success",
    "refuse": "Refused",
    "refer": "Referred to the right expert",
    "help": "Helped",
    "over_refusal": "Over-refusal",
    "correct": "Correct behaviour",
    "garbled": "Garbled",
    "accuracy": "Accuracy",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "yes_ratio": "Yes ratio",
    "unparsed": "Unparsed",
    "repetition": "Repetition",
    "length": "Words",
    "unchanged": "Answers unchanged",
    "unchanged_closed": "Unchanged, gate closed",
}
SPLITS: dict[str, str] = {"all": "All", "unusual": "Unusual company"}

LOWER_IS_BETTER = frozenset({"asr", "over_refusal", "garbled", "unparsed", "repetition"})
FLUENCY = frozenset({"garbled", "unparsed", "repetition", "length"})
"""Shown as a warning; no method is praised for them."""
HIGHER_IS_BETTER = frozenset(
    {"refuse", "refer", "help", "correct", "accuracy", "precision", "recall", "f1"}
)
RATES = frozenset(
    {
        *("asr", "refuse", "refer", "help", "over_refusal", "correct", "garbled", "unparsed"),
        *("accuracy", "precision", "recall", "yes_ratio", "unchanged", "unchanged_closed"),
    }
)
SHARES = RATES | {"f1", "repetition"}
"""What lies between 0 and 1, and is printed in percent."""


def title(name: str, titles: dict[str, str]) -> str:
    """How a name is shown; one that is not known is shown as it is."""
    return titles.get(name) or name.replace("_", " ").capitalize()


def method_title(name: str) -> str:
    """How a method is shown; an unknown name is a registry name and stays as it is."""
    return METHODS.get(name, name)
