"""Places that do not take what is written to them."""

import contextlib

import pytest


@contextlib.contextmanager
def little_disk(size=1000):
    """As on a disk that is nearly full: no file gets more bytes than these."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
