"""What holds for all tests, and for the examples in docstrings."""

import os

import pytest

# XLA compiles for longer than what it compiles runs: for these tests it need not optimize. In
# `make fuzz` it does.
if os.environ.get("HYPOTHESIS_PROFILE") != "fuzz":
    quickly = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    os.environ.setdefault("XLA_FLAGS", quickly)


@pytest.fixture(autouse=True)
def _measuring_little_in_examples(request):
    if isinstance(request.node, pytest.DoctestItem):
        from tests.snippets import measuring_little  # which imports TensorFlow

        with measuring_little():
            yield
    else:
        yield
