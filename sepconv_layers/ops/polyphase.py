"""Strided convolution as a sum of unstrided ones, for kernels that lack a combination.

Vaidyanathan, "Multirate Systems and Filter Banks", 1993: with stride `s` and dilation `d`, kernel
elements whose offsets agree modulo `s` meet the same `s`-th part of the input. Each such group is
a convolution of stride 1, so the sum over groups does no multiplication that the strided
convolution would not do.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

from sepconv_layers.ops.geometry import Geometry


def polyphase(
    convolve: Callable[[Any, Any, Geometry], Any], inputs: Any, kernel: Any, geometry: Geometry
) -> Any:
    """Computes a strided convolution by calling `convolve` with stride 1 only."""
    inputs, geometry = geometry.pad(inputs)
    groups = [math.gcd(s, d) for s, d in zip(geometry.strides, geometry.dilation_rate, strict=True)]
    periods = [s // g for s, g in zip(geometry.strides, groups, strict=True)]
    unstrided = geometry.replace(
        strides=(1,) * geometry.rank,
        dilation_rate=tuple(d // g for d, g in zip(geometry.dilation_rate, groups, strict=True)),
    )
    outputs = None
    phases = [range(min(p, k)) for p, k in zip(periods, geometry.kernel_size, strict=True)]
    for phase in itertools.product(*phases):
        taps = tuple(slice(j, None, p) for j, p in zip(phase, periods, strict=True))
        sizes = tuple(len(range(k)[tap]) for k, tap in zip(geometry.kernel_size, taps, strict=True))
        part = convolve(
            _phase(inputs, phase, periods, sizes, geometry),
            kernel[taps],
            unstrided.replace(kernel_size=sizes),
        )
        outputs = part if outputs is None else outputs + part
    return outputs


def _phase(inputs: Any, phase: Any, periods: Any, sizes: Any, geometry: Geometry) -> Any:
    """Every `strides`-th input, from what the phase's first tap meets to what its last one does."""
    slices = [slice(None)] * (geometry.rank + 2)
    for i, axis in enumerate(geometry.spatial_axes):
        dilation = geometry.dilation_rate[i]
        last = phase[i] + periods[i] * (sizes[i] - 1)
        after = geometry.extent[i] - dilation * last
        slices[axis] = slice(dilation * phase[i], -after if after else None, geometry.strides[i])
    return inputs[tuple(slices)]
