"""The suite on the other backends of Keras, each in a process of its own."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

from tests.backends import BACKEND

ROOT = pathlib.Path(__file__).parents[1]
FILES = [
    "test_ops.py",
    "test_groups.py",
    "test_edge_cases.py",
    "test_tracing.py",
    "test_contract.py",
    "test_layers.py",
    "test_blocks.py",
    "test_normalization.py",
    "test_models.py",
    "test_graph_edit.py",
    "test_twins.py",
]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="this is one of the other backends")
@pytest.mark.timeout(1800)  # a suite, not a test
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_suite_passes_on_another_backend(backend, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"needs {backend}")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
        "KERAS_BACKEND": backend,
        "SEPCONV_TEST_CONFIGURATIONS": "20",
        # JAX compiles for longer than it computes: without optimizing, whole, and nothing twice.
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_parallel_codegen_split_count=1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=10"]
    done = subprocess.run(
        [*command, *(f"tests/{name}" for name in FILES)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
