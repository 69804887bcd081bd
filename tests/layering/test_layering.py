"""The shape of the source: what may import what, how large things may be, what is exported.

Each rule is a function from parsed source to the list of its offences, so that it can be shown to
fail on a small wrong tree as well as to hold on ours.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import steersman

PACKAGE = "steersman"
ROOT = Path(steersman.__file__).parent

ROWS = (
    {"core"},
    {"gates", "synthesizers", "selectors", "operators", "data", "models", "world"},
    {"evals", "backends", "methods"},
    {"experiments"},
    {"integrations", "server"},
    {"cli"},
)
SIDEWAYS = {("world", "data")}  # the world writes and reads the format that a user's data has
FACADE = ("__init__", "__main__")  # modules of the root: they gather names, and may import any row
HOMES = {
    "transformers": {"models", "backends", "world"},
    "vllm": {"backends"},
    "ray": {"backends"},
    "lm_eval": {"integrations"},
    "inspect_ai": {"integrations"},
    "fastapi": {"server"},
    "starlette": {"server"},
    "uvicorn": {"server"},
    "httpx": {"server"},
    "prometheus_client": {"server"},
}
TORCH_LOAD = {f"{PACKAGE}.methods.importers"}
HEAVY = {
    *("transformers", "vllm", "ray", "fastapi", "starlette", "uvicorn", "prometheus_client"),
    *("sklearn", "PIL", "matplotlib", "typer", "datasets", "lm_eval", "inspect_ai"),
}

MAX_MODULE, MAX_FUNCTION, MAX_POSITIONAL = 400, 80, 5


@dataclass(frozen=True)
class Module:
    """One parsed source file, by its dotted name."""

    name: str
    path: Path
    tree: ast.Module
    num_lines: int

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def row_name(self) -> str:
        """The package below the root that the module lives in; a root module's own name."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else "__init__"


@dataclass(frozen=True)
class Import:
    """One imported module; `lazy` if inside a function or for the type checker only."""

    source: Module
    target: str
    line: int
    lazy: bool

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line} imports {self.target}"


def read(root: Path) -> dict[str, Module]:
    """Every module below `root`, by dotted name."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join((PACKAGE, *(p for p in parts if p != "__init__")))
        text = path.read_text(encoding="utf-8")
        found[name] = Module(name, path, ast.parse(text), len(text.splitlines()))
    return found


def imports(modules: dict[str, Module]) -> list[Import]:
    """Every import statement, resolved to absolute module names."""
    return [
        Import(module, target, node.lineno, lazy)
        for module in modules.values()
        for node, lazy in _statements(module.tree, lazy=False)
        for target in _targets(module, node, modules)
    ]


def _statements(node: ast.AST, *, lazy: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, lazy
        inner = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        yield from _statements(child, lazy=lazy or inner or typing)


def _targets(
    module: Module, node: ast.Import | ast.ImportFrom, modules: dict[str, Module]
) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    parts = module.name.split(".")
    here = parts if module.is_package else parts[:-1]
    base = here[: len(here) - node.level + 1] if node.level else []
    start = ".".join([*base, *([node.module] if node.module else [])])
    names = [f"{start}.{alias.name}" for alias in node.names]
    return sorted({name if name in modules else start for name in names})


def direction(modules: dict[str, Module]) -> list[str]:
    """Imports that do not point from a row to one below it."""
    height = {name: row for row, names in enumerate(ROWS) for name in names}
    offences = [
        f"{module.name} is in no row. Add {module.row_name!r} to ROWS in this test."
        for module in modules.values()
        if module.row_name not in height and module.row_name not in FACADE
    ]
    for found in imports(modules):
        parts = found.target.split(".")
        source, target = found.source.row_name, parts[1] if len(parts) > 1 else "__init__"
        if parts[0] != PACKAGE or source not in height or source == target:
            continue
        below = height.get(target, len(ROWS)) < height[source] or (source, target) in SIDEWAYS
        facade = target in FACADE and source in ("cli", "integrations", "server")
        if not below and not facade:
            offences.append(f"{found}, which is not in a row below {source}.")
    return offences


def homeless(modules: dict[str, Module]) -> list[str]:
    """Imports of a library outside of the packages it belongs to."""
    return [
        f"{found}, which belongs into {', '.join(sorted(HOMES[library]))}."
        for found in imports(modules)
        if (library := found.target.split(".")[0]) in HOMES
        and found.source.row_name not in HOMES[library]
    ]


def torch_loads(modules: dict[str, Module]) -> list[str]:
    """Uses of `torch.load` outside of the importers."""
    offences = []
    for module in modules.values():
        if module.name in TORCH_LOAD:
            continue
        for node in ast.walk(module.tree):
            used = isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load"
            taken = isinstance(node, ast.ImportFrom) and node.module in (
                "torch",
                "torch.serialization",
            )
            if used or (taken and any(alias.name == "load" for alias in node.names)):
                offences.append(f"{module.name}:{node.lineno} uses torch.load.")
    return offences


def cycle(modules: dict[str, Module]) -> list[str]:
    """A cycle of imports that run when modules are imported, or nothing."""
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for found in imports(modules):
        if found.target in modules and not found.lazy and found.target != found.source.name:
            graph[found.source.name].add(found.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def sizes(modules: dict[str, Module]) -> list[str]:
    """Modules and functions that are too long, and functions with too many positionals."""
    offences = [
        f"{module.name} has {module.num_lines} lines; {MAX_MODULE} are allowed."
        for module in modules.values()
        if module.num_lines > MAX_MODULE
    ]
    for module, function in _functions(modules):
        name = f"{module.name}:{function.lineno} {function.name}"
        if (length := _length(function)) > MAX_FUNCTION:
            offences.append(f"{name} has {length} lines; {MAX_FUNCTION} are allowed.")
        if (count := _positional(function)) > MAX_POSITIONAL and not _is_command(function):
            offences.append(f"{name} has {count} positionals; {MAX_POSITIONAL} are allowed.")
    return offences


def _functions(
    modules: dict[str, Module],
) -> Iterator[tuple[Module, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for module in modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield module, node


def _is_command(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether typer calls it: then its parameters are flags, each given by name."""
    called = [ast.unparse(d.func) for d in function.decorator_list if isinstance(d, ast.Call)]
    return any(name.endswith((".command", ".callback")) for name in called)


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert function.end_lineno is not None
    length = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None and first.end_lineno is not None:
        length -= first.end_lineno - first.lineno + 1
    return length


def _positional(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    names = [arg.arg for arg in (*function.args.posonlyargs, *function.args.args)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def bad_exports(module: object) -> list[str]:
    """What is wrong with `__all__`: its order, or names that do not resolve."""
    names = list(getattr(module, "__all__", ()))
    offences = [f"{name} does not resolve." for name in names if not hasattr(module, name)]
    if names != sorted(set(names)):
        offences.append(f"__all__ must be sorted, each name once: {sorted(set(names))}")
    return offences


def hold(offences: list[str]) -> None:
    """Fails with one offence a line."""
    assert not offences, "\n".join(["", *offences])


@pytest.fixture(scope="module")
def ours() -> dict[str, Module]:
    return read(ROOT)


def test_imports_point_down(ours):
    hold(direction(ours))


def test_libraries_stay_where_they_belong(ours):
    hold(homeless(ours))


def test_torch_load_is_used_by_importers_only(ours):
    hold(torch_loads(ours))


def test_there_is_no_import_cycle(ours):
    hold(cycle(ours))


def test_modules_and_functions_are_small(ours):
    hold(sizes(ours))


def test_keyword_only_after_the_first_is_reported(ours):
    """A goal of style, not a rule: `pytest -s tests/layering` lists who misses it by far."""
    wide = [
        f"{module.name}:{function.lineno} {function.name} takes {_positional(function)}\n"
        for module, function in _functions(ours)
        if _positional(function) > 3 and not function.name.startswith("_")
    ]
    sys.stdout.write("".join(["positional parameters:\n", *wide]))


def test_exported_names_are_sorted_and_resolve():
    hold(bad_exports(steersman))


def test_importing_the_package_is_light():
    code = "import json, sys, steersman; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name.split(".")[0] for name in json.loads(done.stdout)} & HEAVY == set()


# Every rule can fail: a small wrong tree for each.


@pytest.fixture
def tree(tmp_path):
    """Writes modules from their source and reads them."""

    def write(**sources: str) -> dict[str, Module]:
        for name, text in {"__init__": "", **sources}.items():
            parts = [name] if name.startswith("__") else name.split("__")
            path = tmp_path.joinpath(*parts).with_suffix(".py")
            path.parent.mkdir(exist_ok=True)
            (path.parent / "__init__.py").touch()
            path.write_text(text)
        return read(tmp_path)

    return write


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("core__a", "from steersman.gates import b"),
        ("core__a", "from ..gates import b"),
        ("core__a", "import steersman.gates.b"),
        ("core__a", "def f():\n    from ..gates.b import g"),
        ("core__a", "from steersman import load"),
        ("gates__a", "from ..operators import b"),
        ("gates__a", "from ..methods.b import c"),
        ("data__a", "from ..world import b"),
        ("evals__a", "from ..methods import b"),
        ("methods__a", "from ..cli import b"),
        ("unheard_of", ""),
    ],
)
def test_a_wrong_direction_is_found(tree, name, source):
    assert len(direction(tree(**{name: source}))) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("core__a", "from . import b\nfrom .b import c\nimport torch"),
        ("gates__a", "from ..core.types import Site"),
        ("world__a", "from steersman.data import rows"),
        ("cli__a", "from steersman import load\nfrom ..evals import b"),
        ("__main__", "from .cli.main import app"),
    ],
)
def test_a_right_direction_is_not(tree, name, source):
    assert direction(tree(**{name: source})) == []


def test_a_library_away_from_home_is_found(tree):
    modules = tree(
        core__a="def f():\n    import transformers.utils", models__a="import transformers"
    )
    assert len(homeless(modules)) == 1


@pytest.mark.parametrize("source", ["import torch\ntorch.load('x')", "from torch import load"])
def test_a_torch_load_is_found(tree, source):
    assert len(torch_loads(tree(methods__l2s=source, methods__importers=source))) == 1


def test_a_cycle_is_found_and_a_lazy_import_is_none(tree):
    assert cycle(tree(core__a="from . import b", core__b="def f():\n    from . import a")) == []
    typing = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import a"
    assert cycle(tree(core__a="from . import b", core__b=typing)) == []
    assert set(cycle(tree(core__a="from . import b", core__b="from .a import x"))) == {
        "steersman.core.a",
        "steersman.core.b",
    }


def test_large_things_are_found(tree):
    body = "".join(f"    x = {i}\n" for i in range(MAX_FUNCTION))
    told = '    """Long.' + "\n" * 90 + '    """\n'
    modules = tree(
        core__long="\n" * (MAX_MODULE + 1),
        core__function=f"def f():\n{body}",
        core__documented=f"def f():\n{told}    return 1\n",
        core__wide="def f(a, b, c, d, e, f): ...",
        cli__command="@app.command('x')\ndef f(a, b, c, d, e, f): ...",
        core__keyword="def f(a, b, c, d, e, *, f, g): ...",
        core__method="class A:\n    def f(self, a, b, c, d, e): ...",
    )
    assert len(sizes(modules)) == 3


def test_wrong_exports_are_found():
    class Fake:
        __all__ = ("b", "a", "missing")
        a = b = 1

    assert len(bad_exports(Fake)) == 2
