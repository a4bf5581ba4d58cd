"""The suite on the other backends, each in a process of its own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.backends import BACKEND

ROOT = Path(__file__).parents[1]
FILES = ("test_ops", "test_contract", "test_layers", "test_comparison")


@pytest.mark.skipif(BACKEND != "tensorflow", reason="this process is on another backend already")
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_suite_passes_on(backend, file):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/{file}.py"],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": backend, "SEPCONV_TEST_CONFIGURATIONS": "60"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
