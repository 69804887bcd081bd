"""What can go wrong, as one tree.

    SteersmanError
      RecipeError          a recipe or a setting that cannot be used       (also a ValueError)
      DataError            a dataset row, image or folder that is wrong    (also a ValueError)
      ModelError           a model that cannot be loaded or steered
      ArtifactError        an artifact that cannot be read or written
        ModelMismatchError   it was fitted on another model
      NotSteeredError      steering was asked for and nothing was written
      StorageError         the disk refused                                (also an OSError)
      PluginError          a part that is registered wrongly
      MissingExtraError    an optional dependency is not installed         (also an ImportError)

A message says what was given, what was needed, and what to do.
"""

import difflib
from collections.abc import Iterable


class SteersmanError(Exception):
    """Root of everything this package raises on purpose."""


class RecipeError(SteersmanError, ValueError):
    """A recipe, field or request that cannot be used as given."""


class DataError(SteersmanError, ValueError):
    """A dataset that cannot be read; names file, line and cure."""


class ModelError(SteersmanError):
    """A model that cannot be loaded, processed or steered."""


class ArtifactError(SteersmanError):
    """An artifact that is missing, truncated or malformed."""


class ModelMismatchError(ArtifactError):
    """An artifact that was fitted on another model than the one at hand."""


class NotSteeredError(SteersmanError, RuntimeError):
    """Steering with non-zero strength wrote no token although the gate was open."""


class StorageError(SteersmanError, OSError):
    """The disk refused (full, read-only); what was there before is untouched."""


class PluginError(SteersmanError):
    """A part that breaks the rules of registration."""


class MissingExtraError(SteersmanError, ImportError):
    """An optional dependency is missing; says which extra to install."""


def nearest(name: str, candidates: Iterable[str]) -> str:
    """` Did you mean 'x'? Known: ...`, to be put behind an error about an unknown name."""
    known = sorted(candidates)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Known: {', '.join(known) or 'none'}."
