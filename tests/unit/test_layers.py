"""Who imports whom: read off the syntax trees, and off what a fresh interpreter has loaded."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import raysweep

ROOT = Path(raysweep.__file__).parent
FLOORS = (
    ("errors", "metrics", "profiles"),
    ("clock",),
    ("storage",),
    ("wording",),
    ("spec",),
    ("records", "messages"),
    ("confirming",),
    ("data", "vae", "quality", "report", "cluster"),
    ("search",),
    ("study",),
    ("bucket",),
    ("worker",),
    ("driver",),
    ("backend",),
    ("review",),
    ("terminal",),
    ("sweep",),
    ("cli",),
    ("__main__",),
)
"""Rooms and the modules beside them, from the bottom up. Each imports only what is on a lower floor."""
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
ROOMS = [path.name for path in sorted(ROOT.iterdir()) if path.is_dir() and path.name != "__pycache__"]
MOST_FILES = 18
"""In a folder: more are two ideas."""


class Import(NamedTuple):
    """One imported module, and where."""

    importer: str
    """Dotted, below raysweep: `vae.training`."""
    imported: str
    """Dotted in full: `raysweep.vae.networks`, `torch.nn`."""
    line: int
    in_function: bool
    for_types_only: bool

    def __str__(self) -> str:
        return f"raysweep.{self.importer}:{self.line} imports {self.imported}"


def is_for_types_only(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def imports_below(
    node: ast.AST, importer: str, in_function: bool = False, for_types_only: bool = False
) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(importer, alias.name, child.lineno, in_function, for_types_only)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{importer}:{child.lineno}: imports are absolute"
            assert child.module
            for alias in child.names:
                full = f"{child.module}.{alias.name}"
                name = full if is_module(full) else child.module
                yield Import(importer, name, child.lineno, in_function, for_types_only)
        else:
            guarded = isinstance(child, ast.If) and is_for_types_only(child.test)
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports_below(child, importer, in_function or function, for_types_only or guarded)


def is_module(dotted: str) -> bool:
    path = ROOT.parent.joinpath(*dotted.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


@cache
def all_imports() -> tuple[Import, ...]:
    """Of every module but the face of the package, which names all rooms and imports none until asked."""
    found: list[Import] = []
    for path in sorted(ROOT.rglob("*.py")):
        importer = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if importer != "__init__":
            found += imports_below(ast.parse(path.read_text(encoding="utf-8")), importer)
    return tuple(found)


def room(module: str) -> str:
    """The first part of a module's name below raysweep."""
    return module.removeprefix("raysweep.").split(".")[0]


def imports_of_rooms_by(*rooms: str) -> list[tuple[Import, str]]:
    return [
        (found, room(found.imported))
        for found in all_imports()
        if room(found.importer) in rooms and found.imported.startswith("raysweep.")
    ]


def foreign(package: str) -> list[Import]:
    return [found for found in all_imports() if found.imported.split(".")[0] == package]


def complain(faults: list[Import]) -> None:
    assert not faults, "\n".join(map(str, faults))


def test_every_module_belongs_to_a_floor() -> None:
    rooms = {room(found.importer) for found in all_imports()}
    assert rooms <= FLOOR.keys(), rooms - FLOOR.keys()
    assert set(ROOMS) < FLOOR.keys()


def test_the_package_as_a_command_is_the_command_line_and_nothing_else() -> None:
    assert [(found.imported, imported) for found, imported in imports_of_rooms_by("__main__")] == [
        ("raysweep.cli", "cli")
    ]


@pytest.mark.parametrize("name", sorted(FLOOR))
def test_a_room_imports_lower_floors_alone(name: str) -> None:
    complain(
        [found for found, imported in imports_of_rooms_by(name) if imported != name and FLOOR[imported] >= FLOOR[name]]
    )


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_says_what_it_is_for_and_has_few_files(name: str) -> None:
    face = ast.parse((ROOT / name / "__init__.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(face)
    assert len(list((ROOT / name).glob("*.py"))) - 1 <= MOST_FILES


def test_there_are_no_import_cycles() -> None:
    graph: dict[str, set[str]] = {}
    for found in all_imports():
        if found.imported.startswith("raysweep.") and not found.for_types_only:
            graph.setdefault(f"raysweep.{found.importer}", set()).add(found.imported)
    TopologicalSorter(graph).prepare()  # CycleError names the cycle


def test_ray_is_imported_by_backend_and_worker_alone() -> None:
    assert foreign("ray")
    complain([found for found in foreign("ray") if room(found.importer) not in ("backend", "worker")])


def test_optuna_is_imported_by_study_search_and_space_alone() -> None:
    """By search/ for its distributions, its samplers' interface and its importances: values, no storage."""
    assert foreign("optuna")
    allowed = ("study", "search")
    complain([f for f in foreign("optuna") if room(f.importer) not in allowed and f.importer != "spec.space"])
    storages = [f for f in foreign("optuna") if f.imported.startswith("optuna.storages")]
    assert storages
    complain([found for found in storages if room(found.importer) != "study"])


def test_pyarrow_is_imported_by_data_report_and_storage_alone() -> None:
    """And, for an annotation, by review/sweep.py, which hands tables on."""
    assert foreign("pyarrow")
    complain(
        [
            found
            for found in foreign("pyarrow")
            if room(found.importer) not in ("data", "report")
            and found.importer != "storage.remote"
            and not (found.importer == "review.sweep" and found.for_types_only)
        ]
    )


def test_click_is_imported_by_the_command_line_alone() -> None:
    assert foreign("click")
    complain([found for found in foreign("click") if room(found.importer) != "cli"])


def test_rich_is_imported_by_the_command_line_and_what_it_shows_alone() -> None:
    assert foreign("rich")
    shown = ("terminal.progress", "terminal.views")
    complain([found for found in foreign("rich") if room(found.importer) != "cli" and found.importer not in shown])


def test_torchvision_is_imported_inside_functions_of_data_alone() -> None:
    assert foreign("torchvision")
    complain([found for found in foreign("torchvision") if room(found.importer) != "data" or not found.in_function])


def test_the_public_names_are_exact() -> None:
    """`__all__`, the modules that the names live in, and the imports that type checkers read say the same."""
    face = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    seen_by_type_checkers = {
        alias.name: node.module
        for block in ast.walk(face)
        if isinstance(block, ast.If) and is_for_types_only(block.test)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert raysweep.__all__ == sorted(seen_by_type_checkers)
    assert seen_by_type_checkers == raysweep._HOMES
    assert set(raysweep.__all__) <= set(dir(raysweep))


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'sweeep'"):
        raysweep.sweeep  # noqa: B018 (the access is the test)


HEAVY = ("ray", "optuna", "torch", "torchvision", "tensorboard", "matplotlib", "sklearn", "pyarrow")

LOADED = """
import json, sys
code = 0
try:
    {code}
except SystemExit as exit:
    code = exit.code
loaded = [name for name in {heavy} if name in sys.modules]
print(json.dumps({{"code": code, "loaded": loaded}}))
"""


class Fresh(NamedTuple):
    code: int | None
    loaded: set[str]
    output: str
    errors: str


def in_a_fresh_interpreter(code: str) -> Fresh:
    """Runs a statement in an interpreter of its own and says which heavy packages it has loaded."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(code=code, heavy=HEAVY)],
        cwd=ROOT.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *output, last = done.stdout.splitlines()
    found = json.loads(last)
    return Fresh(found["code"], set(found["loaded"]), "\n".join(output), done.stderr)


def command(*arguments: str) -> str:
    """The statement that runs `python -m raysweep.cli` with these arguments."""
    return (
        f"import runpy; sys.argv = {['raysweep', *arguments]!r}; runpy.run_module('raysweep.cli', run_name='__main__')"
    )


def test_importing_the_package_costs_nothing() -> None:
    assert in_a_fresh_interpreter("import raysweep").loaded == set()


def test_the_training_half_imports_neither_ray_nor_optuna() -> None:
    names = "training, fusing, checkpoint, export, evaluation, networks, objective"
    loaded = in_a_fresh_interpreter(f"from raysweep.vae import {names}; import raysweep.vae.fusing.training").loaded
    assert "torch" in loaded
    assert loaded.isdisjoint({"ray", "optuna", "pyarrow", "tensorboard"})


def test_every_public_name_resolves() -> None:
    statement = "import raysweep; found = [getattr(raysweep, name) for name in raysweep.__all__]"
    fresh = in_a_fresh_interpreter(statement)
    assert fresh.code == 0
    assert "ray" not in fresh.loaded


@pytest.mark.parametrize("module", ["raysweep", "raysweep.cli"])
def test_help_is_printed_without_torch_ray_or_optuna(module: str) -> None:
    fresh = in_a_fresh_interpreter(command("--help").replace("'raysweep.cli'", f"'{module}'"))
    assert fresh.code == 0
    assert "Usage:" in fresh.output
    assert fresh.loaded.isdisjoint({"torch", "ray", "optuna"})


def test_a_prediction_of_collapse_needs_neither_torch_nor_ray() -> None:
    assert in_a_fresh_interpreter("from raysweep.vae import preflight").loaded == set()
    assert in_a_fresh_interpreter("from raysweep.driver import preflight").loaded == {"pyarrow"}


def test_checking_a_bad_file_exits_with_2_before_torch_or_ray_are_imported(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: bad\ndata: {dataset: mnist-5k}\ntrial:\n  kld_wieght: 1\n")
    fresh = in_a_fresh_interpreter(command("check", str(bad)))
    assert fresh.code == 2
    assert "kld_wieght" in fresh.errors
    assert "kld_weight" in fresh.errors
    assert fresh.loaded.isdisjoint({"torch", "ray"})
