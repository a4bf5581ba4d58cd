"""What holds for all tests, and for the examples in docstrings."""

import os

import pytest

from tests.snippets import measuring_little

# XLA compiles for longer than what it compiles runs: without optimizing, as JAX in `test_backends`.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)


@pytest.fixture(autouse=True)
def _measuring_little_in_examples(request):
    if isinstance(request.node, pytest.DoctestItem):
        with measuring_little():
            yield
    else:
        yield
