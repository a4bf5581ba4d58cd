"""Peak memory of a function call, as far as the backend and the system can tell."""

import ctypes
import ctypes.util
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


def peak_bytes(call: Callable[[], Any]) -> int | None:
    """Measures how far the memory of the process rises above its level before a call.

    On a GPU it is the backend's own count of allocated bytes. On a CPU it is resident memory,
    which Linux alone can measure for a single call; pages that the process has kept from earlier
    calls and uses again do not count, so free memory goes back to the system first.

    Args:
        call: A function without arguments that returns when its work is done. Call it once before
            this, so that compilation does not count.

    Returns:
        The number of bytes, or `None` where it cannot be measured.
    """
    device = _device_peak(call)
    return device if device is not None else _resident_peak(call)


def _resident_peak(call: Callable[[], Any]) -> int | None:
    if sys.platform != "linux":
        return None
    gc.collect()
    libc = ctypes.util.find_library("c")
    if libc and hasattr(ctypes.CDLL(libc), "malloc_trim"):
        ctypes.CDLL(libc).malloc_trim(0)
    try:
        _CLEAR.write_text(_RESET_PEAK)
        before = _status("VmRSS")
        call()
        return max(0, _status("VmHWM") - before)
    except (OSError, LookupError):  # a system that restricts /proc
        return None


def _status(field: str) -> int:
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
    return 1024 * int(lines[field].split()[0])


def _device_peak(call: Callable[[], Any]) -> int | None:
    """The peak on the first GPU, if the backend computes on one."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        if not tf.config.list_logical_devices("GPU"):
            return None
        tf.config.experimental.reset_memory_stats("GPU:0")
        before = tf.config.experimental.get_memory_info("GPU:0")["current"]
        call()
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] - before
    if backend == "torch":
        import torch

        if not torch.cuda.is_available():
            return None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    return None  # JAX never resets its count of a GPU
