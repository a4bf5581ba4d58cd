"""The shape of the package: which way imports go, and what importing it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sepconv_layers

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sepconv_layers"
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted([*(ROOT / "examples").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])

# What each part may import from the others.
_BLOCKS = {"ops", "initializers", "layers", "blocks"}
MAY_IMPORT = {
    "ops": set(),
    "initializers": set(),
    "layers": {"ops", "initializers"},
    "blocks": {"ops", "layers"},
    "models": _BLOCKS,
    "cost": _BLOCKS,
    "twins": _BLOCKS,
    "convert": _BLOCKS | {"twins"},
    "streaming": _BLOCKS,
    "export": {"ops", "convert"},
    "comparison": {"cost", "twins", "export"},
    "cli": {*_BLOCKS, "models", "cost", "twins", "convert", "streaming", "export", "comparison"},
}
LATE = {"ai_edge_litert", "jax", "librosa", "matplotlib", "onnx", "onnxruntime", "PIL", "sklearn"}
LATE |= {"scipy", "tensorflow", "tensorflow_hub", "tensorflow_text", "tf2onnx", "tf_keras", "torch"}


def part_of(path):
    """`ops` for everything in `sepconv_layers/ops`, and likewise."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(nodes):
    """The modules that are imported, each followed by what is imported from it."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)


def parse(path):
    return ast.parse(path.read_text("utf-8"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    part = part_of(path)
    if part == "__init__":
        return
    for module, name in imports(ast.walk(parse(path))):
        if module == "sepconv_layers":
            module = f"{module}.{name}"
        if module.startswith("sepconv_layers."):
            other = module.split(".")[1]
            assert other == part or other in MAY_IMPORT[part], f"{part} imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_backends_and_extras_are_imported_where_they_are_needed(path):
    at_once = {module.split(".")[0] for module, _ in imports(parse(path).body)}
    assert not at_once & LATE


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_and_benchmarks_use_the_public_names(path):
    for module, name in imports(ast.walk(parse(path))):
        if module.startswith("sepconv_layers"):
            parent = sepconv_layers
            for step in module.split(".")[1:]:
                assert not step.startswith("_")
                parent = getattr(parent, step)
            assert name in parent.__all__, f"{name} of {module}"


def test_no_submodule_bears_the_name_of_a_public_function():
    stems = {path.stem for path in MODULES if path.parent == PACKAGE}
    stems |= {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    public = {name for name in sepconv_layers.__all__ if name != "ops"}
    assert not stems & public
    assert not {"utils", "registry"} & {path.stem for path in MODULES}


def test_every_public_name_is_there_and_documented():
    for name in sepconv_layers.__all__:
        assert getattr(sepconv_layers, name).__doc__, name


def test_importing_raises_no_warning_and_brings_no_extra():
    script = (
        "import keras, sys; before = set(sys.modules); import sepconv_layers; "
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not set(done.stdout.split()) & LATE
