"""`steersman show POLICY --report FILE`: a page that draws how a policy was fitted."""

from pathlib import Path

from steersman.cli.show import is_policy
from steersman.core.errors import RecipeError
from steersman.core.io import load_artifact
from steersman.evals.fit_records import of_provenance
from steersman.evals.records import Results
from steersman.evals.report import render


def write_fit_report(what: str | None, out: Path) -> Path:
    """Writes the page.

    Raises:
        RecipeError: `what` is no policy, or a policy without records; or `out` is inside it.
    """
    if what is None or not is_policy(what):
        raise RecipeError(
            f"--report draws how a policy was fitted, and {what or 'nothing'} was given. Give the "
            "folder of a policy."
        )
    if out.resolve().is_relative_to(Path(what).resolve()):
        raise RecipeError(
            f"{out} is inside the policy {what}, which holds its own two files and no other. Write "
            "the page beside it."
        )
    artifact = load_artifact(what)
    records = of_provenance(artifact.provenance)
    if not records:
        raise RecipeError(
            f"{what} holds no records of its fit, so there is nothing to draw. Not every method "
            "makes any, and policies of earlier versions have none; fit it again."
        )
    method = str(artifact.provenance.get("method", Path(what).name))
    hashes = {"policy": artifact.content_hash()}
    if "data_hash" in artifact.provenance:
        hashes["data"] = str(artifact.provenance["data_hash"])
    return render(
        Results(),
        out=out,
        title=f"How {Path(what).resolve().name} was fitted",
        fits={name or method: entries for name, entries in records.items()},
        commands=(f"steersman show {what} --report {out}",),
        hashes=hashes,
        versions={"steersman": artifact.library_version},
    )
