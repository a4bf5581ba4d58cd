"""Which module may import which, and what an import of the package brings with it."""

import ast
import importlib
import pathlib
import pkgutil
import subprocess
import sys

import keras
import pytest

import sepconv_layers as sl

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "sepconv_layers"

# What each part of the package is built on; what these are built on comes with them.
BUILT_ON = {
    "arguments": [],
    "extras": [],
    "files": [],
    "tables": [],
    "timing": [],
    "ops": ["arguments"],
    "initializers": [],
    "layers": ["ops", "initializers"],
    "blocks": ["layers"],
    "models": ["blocks"],
    "class_table": ["blocks"],
    "cost": ["class_table", "extras", "files", "tables"],
    "graph_edit": ["layers"],
    "twins": ["class_table", "graph_edit"],
    "convert": ["twins", "cost"],
    "streaming": ["class_table", "graph_edit"],
    "export": ["convert", "extras", "files"],
    "comparison": ["cost", "timing"],
    "cli": ["export", "timing"],
}
# What takes long to import, or is no dependency.
HEAVY = {
    "ai_edge_litert",
    "jax",
    "librosa",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "PIL",
    "pandas",
    "scipy",
    "sklearn",
    "soundfile",
    "tensorflow",
    "tensorflow_hub",
    "tensorflow_text",
    "tf2onnx",
    "tf_keras",
    "torch",
}

MODULES = sorted(PACKAGE.rglob("*.py"))
USERS = sorted(path for name in ("examples", "benchmarks") for path in (ROOT / name).rglob("*.py"))


def relative(path):
    return path.relative_to(ROOT).as_posix()


def part_of(path):
    """The first name below the package: that of a folder or module."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def may_import(part):
    return {part}.union(*map(may_import, BUILT_ON[part]))


def imports(tree):
    """Each imported module, and the names that are taken from it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a file stands"
            yield node.module, [alias.name for alias in node.names]


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_go_one_way(path):
    part = part_of(path)
    if part == "__init__":
        return
    for module, names in imports(parse(path)):
        top, *below = module.split(".")
        assert top not in ("examples", "benchmarks", "tests")
        if top == "sepconv_layers":
            imported = set(below[:1] or names)
            assert imported and imported <= may_import(part), f"{part} may not import {imported}"


@pytest.mark.parametrize("path", USERS, ids=relative)
def test_examples_and_benchmarks_use_the_public_names_only(path):
    for module, names in imports(parse(path)):
        if module.split(".")[0] == "sepconv_layers":
            assert module == "sepconv_layers"
            assert set(names) <= set(sl.__all__)


def at_import(nodes):
    """The statements that run when a module is imported, without those for type checkers."""
    for node in nodes:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from at_import(ast.iter_child_nodes(node))


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_heavy_modules_are_imported_where_they_are_used(path):
    for node in at_import(parse(path).body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {module.split(".")[0] for module, _ in imports(node)}
            assert not names & HEAVY


def test_importing_the_package_warns_of_nothing_and_brings_nothing_heavy():
    script = """
import sys, keras
brought_by_keras = set(sys.modules)
import sepconv_layers
print(*{name.split(".")[0] for name in set(sys.modules) - brought_by_keras})
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    brought = set(done.stdout.split())
    assert "sepconv_layers" in brought
    assert not brought & HEAVY


def test_no_submodule_bears_the_name_of_a_public_function():
    packages = [sl] + [
        importlib.import_module(f"sepconv_layers.{found.name}")
        for found in pkgutil.iter_modules(sl.__path__)
        if found.ispkg
    ]
    for package in packages:
        submodules = {found.name for found in pkgutil.iter_modules(package.__path__)}
        functions = {
            name for name in package.__all__ if not isinstance(getattr(package, name), type(keras))
        }
        assert not submodules & functions, package.__name__


def test_everything_public_is_there_once():
    assert sorted(set(sl.__all__)) == sorted(sl.__all__)
    assert all(hasattr(sl, name) for name in sl.__all__)
