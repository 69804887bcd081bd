"""From a recipe and data to an artifact."""

from collections.abc import Mapping
from dataclasses import replace

from steersman.core.errors import RecipeError
from steersman.core.io import Artifact
from steersman.core.recipe import Recipe
from steersman.core.roles import Model
from steersman.core.steerer import Policy, RequestMethod
from steersman.core.tree import Plain
from steersman.data.rows import Dataset


def fit_policy(model: Model, recipe: Recipe, data: Dataset, version: str = "") -> Artifact:
    """Fits the recipe's method on `data` and wraps the steerer into a policy.

    Raises:
        RecipeError: the method needs the labels of every request, so it cannot be deployed.
    """
    if isinstance(recipe.method, RequestMethod):
        raise RecipeError(
            f"{recipe.method.part_name!r} takes a vector from every request: it is for "
            "evaluation and cannot be saved as a policy. Fit 'l2s' or 'mean' instead."
        )
    steerer = recipe.method.fit(model, data)
    policy = Policy(steerers={recipe.name: steerer}, max_relative_norm=recipe.max_relative_norm)
    made = {**provenance(recipe.method.part_name, data), "recipe": recipe.table}
    return Artifact(policy, model.spec, made, version)


def provenance(method: str, data: Dataset) -> dict[str, Plain]:
    """Where a policy comes from: its method and the rows it was fitted on."""
    return {
        "method": method,
        "data_hash": data.hash,
        "data_source": data.source,
        "num_rows": len(data.rows),
        "metrics": {},
    }


def with_metrics(artifact: Artifact, metrics: Mapping[str, Plain]) -> Artifact:
    """The same artifact with figures about it."""
    return replace(artifact, provenance={**artifact.provenance, "metrics": dict(metrics)})
