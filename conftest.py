"""Settings and fixtures of all tests, and of the examples in docstrings."""

import gc
import importlib.util
import os

import pytest

# Doctests are looked for in modules, which this one is only with Triton.
collect_ignore = ["sepconv_layers/ops/triton_kernels.py"]
if importlib.util.find_spec("triton"):
    collect_ignore.clear()

# XLA compiles for longer than what it compiles runs: for these tests it need not optimize. In
# `make fuzz` it does.
if os.environ.get("HYPOTHESIS_PROFILE") != "fuzz":
    quickly = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    os.environ.setdefault("XLA_FLAGS", quickly)


@pytest.fixture(autouse=True, scope="module")
def _old_objects_are_no_garbage():
    """What earlier files have left is not searched for garbage again, which took up to a minute."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _measuring_little_in_examples(request):
    if isinstance(request.node, pytest.DoctestItem):
        from tests.snippets import measuring_little  # which imports TensorFlow

        with measuring_little():
            yield
    else:
        yield
