"""Shelf: the policies that a server may use, from one configured folder."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import RLock

from steersman.core.errors import ArtifactError, nearest
from steersman.core.io import MANIFEST, Artifact, load_artifact
from steersman.core.serving import RefusedError
from steersman.core.types import ModelSpec

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


@dataclass(frozen=True)
class Held:
    """A policy that is served.

    Attributes:
        digest: sha256 of what it is, the same for equal artifacts.
    """

    id: str
    artifact: Artifact
    digest: str


class Shelf:
    """Policies by id, each a folder below one root; nothing outside of it can be named.

    Args:
        root: folder of artifacts, or one artifact, whose folder's name then is its id.
        spec: of the model they must fit; None leaves that to whoever has the model.
        accept: raises where an artifact cannot be served.
        force: serve artifacts that were fitted on another model.

    Raises:
        ArtifactError: the folder does not exist, or an artifact in it cannot be read.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        spec: ModelSpec | None = None,
        accept: Callable[[Artifact], None] = lambda _: None,
        force: bool = False,
    ) -> None:
        self.root, self._spec, self._accept, self._force = Path(root), spec, accept, force
        if not self.root.is_dir():
            raise ArtifactError(
                f"There is no folder {self.root}. Give the folder that holds policies: the --out "
                "of `steersman fit`, or the folder above several of them."
            )
        self._only = self.root.resolve().name if (self.root / MANIFEST).is_file() else None
        self._held: dict[str, Held] = {}
        self._lock = RLock()

    def open(self) -> "Shelf":
        """Loads all there are.

        Raises:
            ArtifactError: one cannot be read, does not fit the model, or there is none; or the
                name of its folder cannot be an id.
        """
        found = self._folders()
        if not found:
            raise ArtifactError(
                f"The folder {self.root} holds no policy: there is neither {MANIFEST} nor "
                f"*/{MANIFEST}. Give the --out of `steersman fit`, or the folder above several of "
                "them."
            )
        if unfit := [name for name in found if not NAME.fullmatch(name)]:
            raise ArtifactError(
                f"Policies are served by the names of their folders, and these cannot be ids: "
                f"{', '.join(map(repr, unfit))}. Rename them: letters, digits and . _ + -, at most "
                "100, a letter or digit first; or begin the name with a dot to leave one out."
            )
        for name in found:
            self.load(name)
        return self

    def on_disk(self) -> tuple[str, ...]:
        """Ids that could be loaded, whether or not they are."""
        return tuple(name for name in self._folders() if NAME.fullmatch(name))

    def _folders(self) -> tuple[str, ...]:
        """Names of folders that hold artifacts, whether or not they can be ids; none hidden."""
        if self._only is not None:
            return (self._only,)
        root = self.root.resolve()
        inside = (p.parent for p in root.glob(f"*/{MANIFEST}") if p.resolve().is_relative_to(root))
        return tuple(sorted(folder.name for folder in inside if not folder.name.startswith(".")))

    @property
    def ids(self) -> tuple[str, ...]:
        """Those that are served."""
        with self._lock:
            return tuple(sorted(self._held))

    def __getitem__(self, name: str) -> Held:
        with self._lock:
            if name not in self._held:
                raise RefusedError(
                    "E_UNKNOWN_POLICY",
                    f"There is no policy {name[:80]!r}.{nearest(name, self.ids)}",
                )
            return self._held[name]

    def read(self, name: str) -> Held:
        """A policy of the folder, without serving it.

        Raises:
            RefusedError: the id cannot name one, or there is none of it.
            ArtifactError: it cannot be read or served, or does not fit the model.
        """
        if not isinstance(name, str) or not NAME.fullmatch(name) or name not in self.on_disk():
            raise RefusedError(
                "E_UNKNOWN_POLICY",
                f"The folder of policies has no {str(name)[:80]!r}."
                f"{nearest(str(name), self.on_disk())}",
            )
        path = self.root if self._only == name else self.root / name
        artifact = load_artifact(path, self._spec, force=self._force)
        self._accept(artifact)
        return Held(name, artifact, artifact.content_hash())

    def load(self, name: str) -> Held:
        """Serves a policy of the folder, or the new version of one; errors as in `read`."""
        return self.hold(self.read(name))

    def hold(self, held: Held) -> Held:
        """Serves what was read."""
        with self._lock:
            self._held[held.id] = held
        return held

    def unload(self, name: str) -> None:
        """Serves it no longer; requests under way keep it.

        Raises:
            RefusedError: it is not served.
        """
        with self._lock:
            self[name]
            del self._held[name]
