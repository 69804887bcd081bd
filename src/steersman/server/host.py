"""The policies of the embedded engine, as clients see them and admins change them."""

import asyncio
from collections.abc import Callable, Collection

from steersman import __version__
from steersman.core.errors import SteersmanError
from steersman.core.fit_check import check_width
from steersman.core.io import Artifact
from steersman.core.serving import MAX_STRENGTH, RefusedError
from steersman.core.shelf import Shelf
from steersman.core.tree import Plain
from steersman.core.types import POINTS, SCOPES, ModelSpec
from steersman.server.policy_routes import describe
from steersman.server.settings import Settings

REFUSALS = {
    "E_STEERING": "the field steering is no object, or one of its values has the wrong type",
    "E_UNKNOWN_FIELD": "steering has a field that is not known",
    "E_UNKNOWN_POLICY": "the policy is not served",
    "E_STRENGTH": "the strength is no finite number, or too large",
    "E_SCOPE": "the scope is not known, the policy cannot have it, or the prompt has no such token",
    "E_NEEDS_VECTOR": "the policy takes a vector with every request",
}


def accept(spec: ModelSpec) -> Callable[[Artifact], None]:
    """What refuses artifacts that this engine cannot serve."""

    def check(artifact: Artifact) -> None:
        policy = artifact.policy
        for name, steerer in policy.steerers.items():
            if steerer.synthesizer.needs_vector:
                raise RefusedError(
                    "E_NEEDS_VECTOR",
                    f"The steerer {name!r} takes its vector from each request, and requests over "
                    "HTTP bring none. Serve a policy that computes its own.",
                )
        spec.check(policy.sites, "The policy")
        spec.check([read.site for read in policy.reads], "The policy")
        check_width(policy, spec.d_model)

    return check


class EmbeddedHost:
    """A `PolicyHost` over a shelf.

    Args:
        changed: called with the ids that are served, whenever they change.
    """

    def __init__(
        self,
        shelf: Shelf,
        spec: ModelSpec,
        settings: Settings,
        *,
        context: int | None,
        changed: Callable[[Collection[str]], None],
    ) -> None:
        self._shelf, self._spec, self._settings = shelf, spec, settings
        self._context, self._changed = context, changed
        changed(shelf.ids)

    async def policies(self) -> list[dict[str, Plain]]:
        return await asyncio.to_thread(self._listed)

    async def capabilities(self) -> dict[str, Plain]:
        limits = self._settings
        return {
            "object": "steering.capabilities",
            "engine": "embedded",
            "version": __version__,
            "scopes": [*SCOPES],
            "points": [*POINTS],
            "shadow": True,
            "modalities": [*self._spec.modalities],
            "limits": {
                "strength": MAX_STRENGTH,
                "max_batch": limits.max_batch,
                "max_queue": limits.max_queue,
                "max_body": limits.max_body,
                "max_image_pixels": limits.max_image_pixels,
                "max_prompt_tokens": limits.max_prompt_tokens or self._context,
                "max_new_tokens": limits.max_new_tokens,
                "timeout": limits.timeout,
            },
            "default_policy": limits.default_policy,
            "refused": dict(REFUSALS),
        }

    async def load(self, name: str, /) -> dict[str, Plain]:
        held = await asyncio.to_thread(self._shelf.load, name)
        self._changed(self._shelf.ids)
        return describe(held)

    async def unload(self, name: str, /) -> dict[str, Plain]:
        if name == self._settings.default_policy:
            raise RefusedError(
                "E_DEFAULT_POLICY",
                f"{name!r} steers requests that ask for no policy. Start the server without "
                "--default-policy to unload it.",
            )
        self._shelf.unload(name)
        self._changed(self._shelf.ids)
        return {"id": name, "object": "steering.policy", "served": False}

    def _listed(self) -> list[dict[str, Plain]]:
        served = self._shelf.ids
        found: list[dict[str, Plain]] = []
        for name in sorted({*served, *self._shelf.on_disk()}):
            if name in served:
                found.append(describe(self._shelf[name]))
                continue
            try:
                found.append(describe(self._shelf.read(name), served=False))
            except SteersmanError as error:
                broken: dict[str, Plain] = {"id": name, "object": "steering.policy"}
                found.append({**broken, "served": False, "error": type(error).__name__})
        return found
