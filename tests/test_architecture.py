"""The direction of imports, read from the source: who may know what, no cycles, no pickle, docstrings."""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("pruning", "stream_app")

# llvmlite comes with numba and is what its intrinsics are written in.
PRUNING_MAY_USE = {"pruning", "numpy", "scipy", "river", "numba", "llvmlite"} | sys.stdlib_module_names
PRUNING_MAY_USE_LATE = {"matplotlib"}  # only inside the functions that draw
# A client library lives behind one file; everything else talks to that file.
ONLY_IN = {
    "faust": {"stream_app.app"},
    "mode": {"stream_app.app", "stream_app.worker", "stream_app.learner"},  # Faust's base class of a service
    "aiokafka": {"stream_app.transport"},
    "aiohttp": {"stream_app.webhook"},
    "redis": {"stream_app.store"},
    "confluent_kafka": {"stream_app.embedded"},
}
# What is pure may import only what is pure: a package of `stream_app` → the packages and modules it may know.
PURE = {
    "events": {"events", "errors"},
    "model": {"model", "events", "errors"},
    "lists": {"lists", "model", "events", "errors", "rule_tables"},
    "triggers": {"triggers", "events", "errors", "rule_tables"},
}
# The command line starts everything, so it may import anything inside a function: `recs --help` stays fast.
LAZY_ANYTHING = {"stream_app.cli", "stream_app.cli_parts", "stream_app.cli_triggers"}
UNSAFE = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


@dataclass(frozen=True)
class Import:
    """One import statement: `module` imports `target`, at the top of the file or inside a function."""

    module: str
    target: str
    line: int
    lazy: bool

    @property
    def package(self) -> str:
        """The top-level package of the target."""
        return self.target.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def modules(root: Path) -> dict[str, ast.Module]:
    """Parse every module of the packages below `root`, by dotted name."""
    parsed = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            parsed[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text())
    return parsed


def imports(tree: dict[str, ast.Module], root: Path) -> list[Import]:
    """List every import of the modules, lazy ones and those for type checkers included."""
    found = []
    for name, module in tree.items():
        is_package = (root / Path(*name.split(".")) / "__init__.py").exists()
        top = set(_outside_functions(module))
        for node in ast.walk(module):
            for target in _targets(node, name, is_package, tree):
                found.append(Import(name, target, getattr(node, "lineno", 0), lazy=node not in top))
    return found


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from _outside_functions(child)


def _targets(node: ast.AST, name: str, is_package: bool, tree: dict[str, ast.Module]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = name.split(".")
        above = above[: len(above) - node.level + is_package] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:  # `from package import module` means the module
            submodule = f"{base}.{alias.name}"
            yield submodule if submodule in tree else base


def cycle(found: list[Import], tree: dict[str, ast.Module]) -> list[str]:
    """Return the modules of one import cycle, or an empty list."""
    graph: dict[str, set[str]] = {name: set() for name in tree}
    for one in found:
        if one.target in tree and one.target != one.module:
            graph[one.module].add(one.target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def undocumented(tree: dict[str, ast.Module]) -> Iterator[str]:
    """Name the public modules, classes, functions and methods without a docstring.

    A method of a class with a base class may inherit its docstring and is not asked for one.
    """
    for name, module in tree.items():
        if not _private(name.rpartition(".")[2]) and ast.get_docstring(module) is None:
            yield name
        for node in module.body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not _private(
                node.name
            ):
                if ast.get_docstring(node) is None:
                    yield f"{name}.{node.name}"
                if isinstance(node, ast.ClassDef) and not node.bases:
                    yield from (f"{name}.{node.name}.{method}" for method in _undocumented_methods(node))


def _undocumented_methods(node: ast.ClassDef) -> Iterator[str]:
    for method in node.body:
        is_function = isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef))
        if is_function and not _private(method.name) and ast.get_docstring(method) is None:
            yield method.name


def _private(name: str) -> bool:
    return name.startswith("_")


TREE = modules(ROOT)
IMPORTS = imports(TREE, ROOT)


def test_pruning_is_a_library_of_its_own() -> None:
    """The package `pruning` imports numpy, scipy, river, numba and the standard library only."""
    wrong = [
        one
        for one in IMPORTS
        if one.module.split(".")[0] == "pruning"
        and one.package not in PRUNING_MAY_USE
        and not (one.lazy and one.package in PRUNING_MAY_USE_LATE)
    ]
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("library", ONLY_IN)
def test_library_lives_behind_one_file(library: str) -> None:
    """A client library is imported by the file that owns it and by no other."""
    wrong = [
        one
        for one in IMPORTS
        if one.package == library
        and one.module not in ONLY_IN[library]
        and not (one.lazy and one.module in LAZY_ANYTHING)
    ]
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("package", PURE)
def test_the_core_knows_nothing_of_its_edges(package: str) -> None:
    """Events, model and lists import what is as pure as they are, in one direction."""
    wrong = [
        one
        for one in IMPORTS
        if one.module.startswith(f"stream_app.{package}")
        and one.package == "stream_app"
        and one.target.split(".")[1] not in PURE[package]
    ]
    assert not wrong, "\n".join(map(str, wrong))


def test_no_import_cycle() -> None:
    """No module imports itself over others, not even from inside a function."""
    assert not cycle(IMPORTS, TREE)


def test_no_pickle() -> None:
    """No format that runs code when it is read is imported."""
    wrong = [one for one in IMPORTS if one.package in UNSAFE]
    assert not wrong, "\n".join(map(str, wrong))


def test_public_things_have_docstrings() -> None:
    """Every public module, class, function and method says what it is for."""
    assert not list(undocumented(TREE))


def test_the_checks_see_what_they_should(tmp_path: Path) -> None:
    """A lazy cycle, a relative import, a hidden pickle and a missing docstring are found."""
    (tmp_path / "pruning").mkdir()
    (tmp_path / "pruning" / "__init__.py").write_text('"""A."""\n')
    (tmp_path / "pruning" / "a.py").write_text('"""A."""\ndef f():\n    from . import b\n    import pickle\n')
    (tmp_path / "pruning" / "b.py").write_text(
        '"""B."""\nfrom pruning.a import f\nimport stream_app.store as s\n'
    )
    tree = modules(tmp_path)
    found = imports(tree, tmp_path)
    assert {(one.module, one.target, one.lazy) for one in found} == {
        ("pruning.a", "pruning.b", True),
        ("pruning.a", "pickle", True),
        ("pruning.b", "pruning.a", False),
        ("pruning.b", "stream_app.store", False),
    }
    assert set(cycle(found, tree)) == {"pruning.a", "pruning.b"}
    assert list(undocumented(tree)) == ["pruning.a.f"]
