"""Which module may import which, and what an import of the package brings with it."""

import ast
import graphlib
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

# The other parts that each part imports: no more, and no fewer.
IMPORTS: dict[str, set[str]] = {
    # at the bottom
    "arguments": set(),
    "extras": set(),
    "files": set(),
    "sources": set(),
    "tables": set(),
    "timing": set(),
    "checkpoint": {"files"},
    # layers, and nets made of them
    "ops": {"arguments"},
    "initializers": set(),
    "layers": {"arguments", "initializers", "ops"},
    "blocks": {"arguments", "layers", "ops"},
    "models": {"arguments", "blocks", "layers"},
    # what can be done with a model
    "class_table": {"layers"},
    "graph_edit": {"layers"},
    "cost": {"arguments", "class_table", "extras", "files", "tables"},
    "torch_compile": set(),
    "twins": {"blocks", "class_table", "graph_edit", "layers"},
    "convert": {
        *("arguments", "blocks", "checkpoint", "class_table", "cost", "extras", "files"),
        *("graph_edit", "layers", "ops", "sources", "tables", "twins"),
    },
    "quantize": {"arguments", "class_table", "convert", "graph_edit", "layers", "sources"},
    "streaming": {"arguments", "blocks", "class_table", "graph_edit", "ops", "quantize"},
    "export": {
        *("arguments", "convert", "cost", "extras", "files", "graph_edit", "ops", "quantize"),
        *("sources", "streaming", "tables", "timing"),
    },
    # on top
    "comparison": {
        *("arguments", "checkpoint", "cost", "export", "extras", "files", "sources", "tables"),
        "timing",
    },
    "cli": {"comparison", "convert", "cost", "export", "files", "tables", "timing", "twins"},
}
MAX_LINES = 450  # of a file of the package
# What takes long to import, or is no dependency.
HEAVY = {
    "ai_edge_litert",
    "ethosu",
    "jax",
    "librosa",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "optuna",
    "PIL",
    "pandas",
    "pymicro_features",
    "scipy",
    "sklearn",
    "sounddevice",
    "soundfile",
    "tensorflow",
    "tensorflow_hub",
    "tensorflow_text",
    "tf2onnx",
    "tf_keras",
    "tflite_micro",
    "torch",
}

MODULES = sorted(PACKAGE.rglob("*.py"))
MODULE_NAMES = {
    path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in MODULES
}
USERS = sorted(path for name in ("examples", "benchmarks") for path in (ROOT / name).rglob("*.py"))


def relative(path):
    return path.relative_to(ROOT).as_posix()


def part_of(path):
    """The first name below the package: that of a folder or module."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree):
    """Yields the line, the module and the imported names of each import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a file stands"
            yield node.lineno, node.module, [alias.name for alias in node.names]


def parts_imported(path):
    """Yields the line and the part of each import from the package itself."""
    for line, module, names in imports(parse(path)):
        top, *below = module.split(".")
        if top == "sepconv_layers":
            yield from ((line, part) for part in below[:1] or names)


def modules_imported(path):
    """The files of the package that a file imports when it is itself imported."""
    found = set()
    for node in at_import(parse(path).body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for _, module, names in imports(node):
                if module.split(".")[0] == "sepconv_layers":
                    found |= {module, *(f"{module}.{name}" for name in names)}
    return found & set(MODULE_NAMES.values())


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def test_every_part_has_a_line_in_the_table():
    assert {part_of(path) for path in MODULES} - {"__init__"} == set(IMPORTS)


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_file_imports_only_what_its_part_may(path):
    part = part_of(path)
    if part == "__init__":
        return
    wrong = [
        f"{relative(path)}:{line} imports {imported}, which {part} may not"
        for line, imported in parts_imported(path)
        if imported not in IMPORTS[part] | {part}
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("part", IMPORTS)
def test_no_part_may_import_what_it_does_not_use(part):
    files = [path for path in MODULES if part_of(path) == part]
    used = {imported for path in files for _, imported in parts_imported(path)}
    assert not IMPORTS[part] - used, f"{part} does not import {IMPORTS[part] - used}"


def test_imports_have_no_circle():
    graphlib.TopologicalSorter(IMPORTS).prepare()
    files = {MODULE_NAMES[path]: modules_imported(path) for path in MODULES}
    # A package that collects the names of its own files comes after them.
    graphlib.TopologicalSorter(
        {
            name: {other for other in others if not name.startswith(f"{other}.")} - {name}
            for name, others in files.items()
        }
    ).prepare()


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_no_file_is_too_long_to_read(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_every_threshold_of_the_operations_is_in_the_table_of_choices():
    found = [
        f"{relative(path)}:{node.lineno}"
        for path in sorted((PACKAGE / "ops").glob("*.py"))
        if path.stem not in ("choice", "geometry", "transposed")
        for node in parse(path).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and any(
            isinstance(leaf, ast.Constant) and type(leaf.value) in (int, float)
            for leaf in ast.walk(node)
        )
    ]
    assert not found, found


@pytest.mark.parametrize("path", USERS, ids=relative)
def test_examples_and_benchmarks_use_the_public_names_only(path):
    for line, module, names in imports(parse(path)):
        if module.split(".")[0] == "sepconv_layers":
            assert module == "sepconv_layers", f"{relative(path)}:{line}"
            assert set(names) <= set(sl.__all__), f"{relative(path)}:{line}"


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
            names = {module.split(".")[0] for _, module, _ in imports(node)}
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
