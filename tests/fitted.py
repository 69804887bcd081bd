"""One record of every kind that a fit makes."""

LAYERS = {
    "kind": "layer_scores",
    "score": "sas",
    "point": "resid_post",
    "layers": [3, 4, 5],
    "value": [0.1, 0.352, 0.34],
    "low": [0.05, 0.30, 0.29],
    "high": [0.15, 0.41, 0.40],
    "chosen": 4,
    "runner_up": 5,
    "difference": 0.012,
    "difference_low": -0.03,
    "difference_high": 0.05,
    "distinct": False,
    "num_pairs": 90,
    "num_clusters": 30,
}
SCORES = {
    "kind": "gate_scores",
    "gate": "prober",
    "score": "probability",
    "threshold": 0.5,
    "groups": {"harmful": [0.9, 0.4, 0.8], "none": [0.1, 0.5]},
}
QUALITY = {
    "kind": "gate_quality",
    "gate": "prober",
    "threshold": 0.5,
    "rows": [
        {"name": "AUROC", "group": "all", "value": 0.97, "low": 0.9, "high": 1, "n": 90},
        {"name": "recall", "group": "text", "value": 0.8, "low": 0.7, "high": 0.9, "n": 30},
    ],
    "ece": 0.034,
    "reliability": [{"p": 0.1, "rate": 0.0, "n": 4}, {"p": 0.9, "rate": 1.0, "n": 6}],
}
EXPERTS = {
    "kind": "expert_usage",
    "experts": 2,
    "sizes": [40, 60],
    "scores": {"2": 212.4, "3": 180},
    "usage": {"harmful": [0.9, 0.1], "object": [0.2, 0.8]},
}
TRAINING = {
    "kind": "training",
    "what": "net",
    "train": [0.5, 0.2, 0.1],
    "validation": [0.6, 0.3, 0.35],
    "kept": 1,
}
ALL = (LAYERS, SCORES, QUALITY, EXPERTS, TRAINING)
