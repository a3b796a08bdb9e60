# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Modules import only what stands below them, and torch stays out of what works on keys and files."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import monai_miadmark

PACKAGE = "monai_miadmark"
ROOT = Path(monai_miadmark.__file__).resolve().parent

# From the bottom up: a module may import modules of lower layers only; parts of one package may import each other where
# that makes no cycle. A part that is not named stands with its package. A module that is named nowhere fails the test.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("", "architectures", "errors", "names"),
    (
        "adversarial_training",
        "atomic",
        "children",
        "classifiers",
        "compression",
        "datasets",
        "diversity",
        "fonts",
        "generator",
        "image",
        "likeness",
        "notes",
        "numerics",
        "pkcs8",
        "region",
        "removal_loop",
        "shell",
        "stores",
        "surrogates",
        "terminal",
        "threads",
        "wrapping",
    ),
    (
        "appearance",
        "argument_types",
        "field",
        "file_names",
        "initial_weights",
        "interpolate",
        "lesions",
        "locator",
        "logo",
        "modalities",
        "owner",
        "passphrases",
        "quiet",
        "recipients",
        "recognition",
        "router",
        "sections",
        "signatures",
        "stacks",
        "windows",
    ),
    ("arguments", "budget", "descent", "envelope", "exact", "formats", "keys", "locator_training", "network_config"),
    (
        *(
            "bindings",
            "critic",
            "display_reader",
            "key_facts",
            "locating",
            "lookalikes",
            "masks",
            "options",
            "perturbers",
            "record",
        ),
        "soft_likeness",
    ),
    ("gradient_steps", "placement", "protocols", "seal"),
    ("marking",),
    ("opinions", "series"),
    ("findings",),
    ("closeness", "marker", "pipeline", "training_images"),
    ("evaluation", "files", "locking", "preview", "probe", "recognition_fitting", "series_files", "training"),
    ("doctor", "manifest", "sidecars", "tasks", "transforms"),
    ("engines", "planning"),
    ("batch", "gateway", "ray_engine"),
    ("reporting",),
    ("apps", "commands", "demo", "folder_jobs"),
    ("cli",),
    ("entry",),
    ("__main__",),
)

# Modules whose import must not bring torch: whoever only removes marks needs no weights and no GPU stack.
TORCH_SIDE = {
    "adversarial_training",
    "apps",
    "architectures",
    "classifiers",
    "critic",
    "demo",
    "descent",
    "display_reader",
    "diversity",
    "evaluation",
    "generator",
    "gradient_steps",
    "initial_weights",
    "locator",
    "locator_training",
    "marker",
    "modalities",
    "network_config",
    "numerics",
    "perturbers",
    "probe",
    "recognition_fitting",
    "removal_loop",
    "router",
    "soft_likeness",
    "stacks",
    "surrogates",
    "training",
    "training_images",
    "transforms",
}
HEAVY = ("torch", "monai", "ignite", "nilearn")


def _modules() -> dict[str, Path]:
    """Dotted name below the package -> file."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def _layer(name: str) -> int | None:
    """Index of the layer of a module; parts of a package that are not named stand with the package."""
    while True:
        for index, names in enumerate(LAYERS):
            if name in names:
                return index
        if "." not in name:
            return None
        name = name.rpartition(".")[0]


def _imports(name: str, top_level_only: bool) -> Iterator[tuple[str, int]]:
    """Absolute dotted names that a module imports, with the line; lazy imports inside functions on request."""
    path = MODULES[name]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in _walk(tree, top_level_only):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = f"{PACKAGE}.{package}".rstrip(".").split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                # `from package import module` imports the module, not a name of the package.
                below = f"{base}.{alias.name}".removeprefix(f"{PACKAGE}.")
                yield (f"{base}.{alias.name}" if below in MODULES else base), node.lineno


def _walk(node: ast.AST, top_level_only: bool) -> Iterator[ast.AST]:
    """Nodes in order, without what runs only when a function is called and without ``if TYPE_CHECKING`` blocks."""
    for child in ast.iter_child_nodes(node):
        if top_level_only and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from _walk(child, top_level_only)


def _inside(name: str, top_level_only: bool) -> Iterator[tuple[str, int]]:
    """Modules of this package that a module imports."""
    for target, line in _imports(name, top_level_only):
        if target == PACKAGE or target.startswith(f"{PACKAGE}."):
            yield target.removeprefix(PACKAGE).removeprefix("."), line


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_only_downwards(name: str) -> None:
    own = _layer(name)
    assert own is not None, f"{name} is in no layer: add it to LAYERS in {Path(__file__).name}"
    for target, line in _inside(name, top_level_only=False):
        assert target in MODULES, f"{name}:{line} imports {target}, which does not exist"
        if target.split(".")[0] == name.split(".")[0]:
            continue
        found = _layer(target)
        assert found is not None and found < own, f"{name}:{line} imports {target}, which does not stand below it"


def test_layers_name_only_what_exists() -> None:
    assert [name for names in LAYERS for name in names if name not in MODULES] == []


def test_there_is_no_cycle() -> None:
    """Lazy imports count too: a cycle hidden in functions is still one."""
    graph = {name: {target for target, _ in _inside(name, top_level_only=False)} - {name} for name in MODULES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for target in graph[name]:
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("name", [n for n in MODULES if n.split(".")[0] not in TORCH_SIDE])
def test_torch_free_modules_import_nothing_heavy(name: str) -> None:
    for target, line in _imports(name, top_level_only=True):
        assert target.split(".")[0] not in HEAVY, f"{name}:{line} imports {target}"
        below = target.removeprefix(f"{PACKAGE}.").split(".")[0]
        assert not (target.startswith(PACKAGE) and below in TORCH_SIDE), (
            f"{name}:{line} imports {target} at module level"
        )


def _public(name: str) -> bool:
    return name not in ("__main__", "entry") and name.split(".")[0] not in TORCH_SIDE


def test_importing_the_torch_free_part_loads_no_torch() -> None:
    """What really lands in ``sys.modules``, by way of third parties too."""
    names = [f"{PACKAGE}.{name}".rstrip(".") for name in MODULES if _public(name)]
    code = f"""
import importlib, sys
for name in {names!r}:
    importlib.import_module(name)
    heavy = [m for m in {HEAVY!r} if m in sys.modules]
    assert not heavy, f"import {{name}} loads {{heavy}}"
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
