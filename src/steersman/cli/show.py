"""`steersman show`: artifacts, methods and parts, in words."""

import inspect
import typing
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from steersman.cli.console import out as console
from steersman.cli.console import print_json, say
from steersman.cli.recipes import bundled_recipes
from steersman.core import registry
from steersman.core.errors import RecipeError, nearest
from steersman.core.io import Artifact, load_artifact
from steersman.core.tree import encode
from steersman.evals.fit_records import of_provenance
from steersman.methods.importers import PRESETS


def run_show(what: str | None, *, as_json: bool) -> None:
    """Prints the registry, one part, or one artifact."""
    if what is None:
        _registry(as_json)
    elif is_policy(what):
        _artifact(Path(what), load_artifact(what), as_json)
    else:
        found = registry.find(what)
        if not found:
            raise RecipeError(f"There is no part {what!r}.{nearest(what, registry.names())}")
        for cls in found:
            _part(cls, as_json)


def _registry(as_json: bool) -> None:
    registry.load_all()
    rows = [(c.role, c.part_name, _summary(c)) for c in registry.classes()]
    rows += [("preset", name, about[0]) for name, about in PRESETS.items()]
    rows += [("recipe", name, "of the bundled world") for name in bundled_recipes()]
    if as_json:
        print_json([dict(zip(("role", "name", "summary"), row, strict=True)) for row in rows])
        return
    table = Table(box=None, padding=(0, 2))
    for heading in ("role", "name", "what it does"):
        table.add_column(heading)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def _part(cls: type, as_json: bool) -> None:
    described = []
    for f in fields(cls):
        default = "" if f.default is MISSING else f"{f.default}"
        if f.default_factory is not MISSING:
            default = f"{f.default_factory()}"
        described.append({"field": f.name, "type": _name(cls, f.name), "default": default})
    if as_json:
        about = {"role": cls.role, "name": cls.part_name, "doc": inspect.getdoc(cls)}
        about["module"] = inspect.getdoc(inspect.getmodule(cls))
        print_json({**about, "fields": described})
        return
    say(f"{cls.part_name}  ({cls.role}, {cls.__module__})\n")
    module = inspect.getdoc(inspect.getmodule(cls)) or ""
    say(module)
    say(f"\n{inspect.getdoc(cls) or ''}\n")
    table = Table(box=None, padding=(0, 2))
    for heading in ("field", "type", "default"):
        table.add_column(heading)
    for row in described:
        table.add_row(*(escape(v) for v in row.values()))
    console.print(table)


def _artifact(path: Path, artifact: Artifact, as_json: bool) -> None:
    tree = encode(artifact.policy, {})
    if as_json:
        print_json({"policy": tree, "model": encode(artifact.model, {}),
                    "provenance": dict(artifact.provenance),
                    "content_hash": artifact.content_hash()})  # fmt: skip
        return
    say(f"{path}  (steersman {artifact.library_version})")
    say(f"  model      {artifact.model.id} ({artifact.model.architecture}, "
                  f"{artifact.model.num_layers} layers, d {artifact.model.d_model})")  # fmt: skip
    for name, value in artifact.model.fingerprint.items():
        say(f"  {name:10} {value[:16]}")
    for key in ("method", "data_source", "data_hash", "num_rows", "chosen", "imported_from"):
        if key in artifact.provenance:
            say(f"  {key:10} {artifact.provenance[key]}")
    for name, steerer in artifact.policy.steerers.items():
        sites = ", ".join(str(site) for site in steerer.sites)
        say(f"\n  {name}: strength {steerer.strength:g} at {sites}")
        say(f"    when   {steerer.gate.part_name}: {_summary(type(steerer.gate))}")
        say(f"    what   {steerer.synthesizer.part_name}: "
                      f"{_summary(type(steerer.synthesizer))}")  # fmt: skip
        say(f"    how    {steerer.operator.part_name}: {_summary(type(steerer.operator))}")
        say(f"    scope  {steerer.scope}")
        for read in steerer.reads:
            say(f"    reads  {read.site} at offset {read.offset}"
                          f"{'' if read.generation_prompt else ' of the user turn'}")  # fmt: skip
    for name, entries in of_provenance(artifact.provenance).items():
        say(f"\n  how {name or 'it'} was fitted")
        for entry in entries:
            say(f"    {entry.said}")


def is_policy(what: str) -> bool:
    """Whether a folder is meant, not a name."""
    return Path(what).is_dir() or "/" in what


def _summary(cls: type) -> str:
    return (inspect.getdoc(cls) or "").strip().splitlines()[0]


def _name(cls: type, field: str) -> str:
    hint = typing.get_type_hints(cls)[field]
    plain = isinstance(hint, type) and (is_dataclass(hint) or hint.__module__ == "builtins")
    return hint.__name__ if plain else str(hint).replace("typing.", "").replace("steersman.", "")
