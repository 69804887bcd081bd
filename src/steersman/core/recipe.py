"""A recipe is a method: its fields in TOML.

method = "l2s"                 # which method; the other keys are its fields
name = "safety"                # what the steerer is called in the policy (default: the method)
max_relative_norm = 2.0        # the policy's cap (optional)
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from steersman.core.errors import RecipeError
from steersman.core.steerer import Method, check_settings
from steersman.core.tree import Decoder, Plain

OWN = ("name", "max_relative_norm")


@dataclass(frozen=True)
class Recipe:
    """A method with its hyperparameters, and what its steerer is called.

    Attributes:
        table: the recipe as it was written, overrides applied; stored in the artifact.
    """

    name: str
    method: Method[object]
    max_relative_norm: float | None
    table: dict[str, Plain]


def read_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a TOML file.

    Args:
        overrides: `path.to.field=value` with the value written as in TOML.

    Raises:
        RecipeError: the file, a key, a value or an override cannot be used; names the nearest.
    """
    file = Path(path)
    if not file.is_file():
        raise RecipeError(
            f"There is no recipe at {file}. Give a TOML file, or see `steersman show`."
        )
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{file} is not a text in UTF-8. Give a TOML file.") from error
    return parse_recipe(text, str(file), overrides)


def parse_recipe(text: str, source: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a TOML text; `source` is how messages call it."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{source} is not valid TOML: {error}.") from error
    for override in overrides:
        _override(table, override)
    fields = {k: v for k, v in table.items() if k not in OWN}
    if not isinstance(fields.get("method"), str):
        raise RecipeError(f'{source}: which method? Write method = "l2s", for example.')
    decoder = Decoder(source)
    method = decoder.decode(Method, {"part": fields.pop("method"), **fields})
    assert isinstance(method, Method)
    name = decoder.decode(str, table.get("name", table["method"]), "name")
    cap = decoder.decode(float | None, table.get("max_relative_norm"), "max_relative_norm")
    assert isinstance(name, str) and (cap is None or isinstance(cap, float))
    check_settings([name], cap)
    return Recipe(name, method, cap, table)


def _override(table: dict[str, Plain], override: str) -> None:
    path, equals, value = override.partition("=")
    if not equals or not path.strip():
        raise RecipeError(f"{override!r} is no override. Write path.to.field=value.")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    keys = [key.strip() for key in path.split(".")]
    here: Plain = table
    for key in keys[:-1]:
        if not isinstance(here, dict):
            raise RecipeError(f"{override!r}: {key} is not inside a table.")
        here = here.setdefault(key, {})
    if not isinstance(here, dict):
        raise RecipeError(f"{override!r}: {keys[-1]} is not inside a table.")
    here[keys[-1]] = parsed
