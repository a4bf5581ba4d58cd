"""Arguments, padding, shapes and slices of a convolution, for any number of dimensions."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras

from sepconv_layers.arguments import integers, standardize_tuple
from sepconv_layers.ops import context
from sepconv_layers.ops.gradients import with_gradients

Padding = Literal["valid", "same", "causal"]
_PADDINGS = ("valid", "same", "causal")
_DATA_FORMATS = ("channels_last", "channels_first")


def standardize_output_padding(
    value: int | Sequence[int] | None, strides: Sequence[int]
) -> tuple[int, ...] | None:
    """Returns one number for each stride, or `None`, or raises a `ValueError`."""
    if value is None:
        return None
    try:
        result = integers(value, len(strides))
    except TypeError:
        result = ()
    if len(result) == len(strides) and all(
        0 <= more < stride for more, stride in zip(result, strides, strict=True)
    ):
        return result
    raise ValueError(
        "The `output_padding` argument must be None, or one integer for all dimensions or for "
        "each, not negative and less than the stride. Received: "
        f"output_padding={value}, "
        f"strides={tuple(strides)}."
    )


def standardize_padding(padding: str) -> Padding:
    """Returns the padding mode in lower case, or raises a `ValueError`."""
    lower = padding.lower() if isinstance(padding, str) else padding
    for mode in _PADDINGS:
        if lower == mode:
            return mode  # type: ignore[return-value]
    raise ValueError(f"The `padding` argument must be one of {_PADDINGS}. Received: {padding!r}")


def standardize_data_format(data_format: str | None) -> str:
    """Returns the data format, by default the one in the Keras configuration."""
    if data_format is None:
        return keras.config.image_data_format()
    lower = data_format.lower() if isinstance(data_format, str) else data_format
    if lower not in _DATA_FORMATS:
        raise ValueError(
            f"The `data_format` argument must be one of {_DATA_FORMATS}. Received: {data_format!r}"
        )
    return lower


@dataclasses.dataclass(frozen=True)
class Geometry:
    """How a kernel moves over an input: everything about a convolution except its values."""

    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Padding
    data_format: str
    dilation_rate: tuple[int, ...]

    @classmethod
    def of(
        cls,
        kernel_size: int | Sequence[int],
        rank: int,
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Sequence[int] = 1,
    ) -> "Geometry":
        """Checks the arguments of a user and standardizes them."""
        return cls(
            standardize_tuple(kernel_size, rank, "kernel_size"),
            standardize_tuple(strides, rank, "strides"),
            standardize_padding(padding),
            standardize_data_format(data_format),
            standardize_tuple(dilation_rate, rank, "dilation_rate"),
        )

    @property
    def rank(self) -> int:
        return len(self.kernel_size)

    @property
    def channel_axis(self) -> int:
        """The channel axis, counted from the front."""
        return 1 if self.data_format == "channels_first" else self.rank + 1

    @property
    def spatial_axes(self) -> range:
        first = 2 if self.data_format == "channels_first" else 1
        return range(first, first + self.rank)

    @property
    def extent(self) -> tuple[int, ...]:
        """The number of input positions that the dilated kernel spans, minus one."""
        return tuple((k - 1) * d for k, d in zip(self.kernel_size, self.dilation_rate, strict=True))

    @property
    def modes(self) -> tuple[str, ...]:
        """The padding mode of each axis. Only the first one, time, can be causal."""
        others = "same" if self.padding == "causal" else self.padding
        return (self.padding,) + (others,) * (self.rank - 1)

    def replace(self, **changes: Any) -> "Geometry":
        return dataclasses.replace(self, **changes)

    def axes(self, which: slice) -> "Geometry":
        """Returns the geometry along some of the spatial axes."""
        return self.replace(
            kernel_size=self.kernel_size[which],
            strides=self.strides[which],
            dilation_rate=self.dilation_rate[which],
        )

    def shape(self, batch: Any, spatial: Sequence[Any], channels: Any) -> tuple:
        """Assembles a tensor shape in this data format."""
        if self.data_format == "channels_first":
            return (batch, channels, *spatial)
        return (batch, *spatial, channels)

    def per_channel(self, vector: Any) -> Any:
        """Reshapes one number per channel so that it broadcasts over a tensor."""
        return keras.ops.reshape(vector, self.shape(1, (1,) * self.rank, -1))

    def output_shape(self, input_shape: Sequence[int | None], channels: int) -> tuple:
        """Returns the output shape, or raises a `ValueError` if it would be empty.

        Only the batch may have size zero.
        """
        spatial: list[int | None] = []
        for axis, extent, stride, mode in zip(
            self.spatial_axes, self.extent, self.strides, self.modes, strict=True
        ):
            size = input_shape[axis]
            if size is not None:
                size = -(-(size - (extent if mode == "valid" else 0)) // stride)
            spatial.append(size)
        if any(size is not None and size <= 0 for size in spatial):
            raise ValueError(
                "Computed output size would be zero or negative. Expected an input that spans the "
                f"kernel in every dimension. Received: input shape={tuple(input_shape)}, "
                f"kernel_size={self.kernel_size}, strides={self.strides}, "
                f"padding={self.padding!r}, dilation_rate={self.dilation_rate}. "
                "Use a larger input, a smaller kernel or padding='same'."
            )
        return self.shape(input_shape[0], spatial, channels)

    def pad(self, inputs: Any) -> tuple[Any, "Geometry"]:
        """Returns the padded input, and the geometry without padding."""
        pad_width: list[tuple[Any, Any]] = [(0, 0)] * len(inputs.shape)
        widths = self.pad_widths(keras.ops.shape(inputs))
        pad_width[self.spatial_axes[0] : self.spatial_axes[-1] + 1] = widths
        return pad(inputs, pad_width), self.replace(padding="valid")

    def without_unused_taps(self, inputs: Any, kernel: Any) -> tuple[Any, Any, "Geometry"]:
        """Drops kernel taps that only ever overlap padding, along the axes of known size.

        On small maps these are many: a single position needs one of 3×3×3 taps.

        Returns:
            The inputs under the other taps, padded along the axes of known size, those taps, and
            their geometry.
        """
        sizes = context.known_sizes([inputs.shape[axis] for axis in self.spatial_axes])
        if all(size is None or size > e for size, e in zip(sizes, self.extent, strict=True)):
            return inputs, kernel, self
        pad_width: list[tuple[Any, Any]] = [(0, 0)] * len(inputs.shape)
        kept: dict[int, slice] = {}  # by axis of the inputs
        at_kernel = [slice(None)] * self.rank
        widths = self.pad_widths(keras.ops.shape(inputs))
        for i, (axis, size, (before, after)) in enumerate(
            zip(self.spatial_axes, sizes, widths, strict=True)
        ):
            if size is None:
                pad_width[axis] = before, after
                continue
            k, stride, dilation = self.kernel_size[i], self.strides[i], self.dilation_rate[i]
            travel = stride * ((before + size + after - self.extent[i] - 1) // stride)
            starts = [j * dilation - before for j in range(k)]
            used = [
                j
                for j, start in enumerate(starts)
                if any(0 <= at < size for at in range(start, start + travel + 1, stride))
            ] or [0]
            at_kernel[i] = slice(used[0], used[-1] + 1)
            first, last = starts[used[0]], starts[used[-1]] + travel
            kept[axis] = part = slice(max(first, 0), max(min(last + 1, size), 0))
            zeros = last + 1 - first - (part.stop - part.start)
            left = min(max(-first, 0), zeros)
            pad_width[axis] = left, zeros - left
        inputs = cut(
            inputs,
            axes=list(kept),
            starts=[part.start for part in kept.values()],
            sizes=[part.stop - part.start for part in kept.values()],
        )
        inputs = pad(inputs, pad_width)
        kernel = kernel[tuple(at_kernel)]
        kernel_size = tuple(kernel.shape[: self.rank])
        dilation_rate = tuple(
            1 if k == 1 else dilation
            for k, dilation in zip(kernel_size, self.dilation_rate, strict=True)
        )
        remaining = {"kernel_size": kernel_size, "dilation_rate": dilation_rate}
        return inputs, kernel, self.replace(padding="valid", **remaining)

    def has_symbolic_sizes(self, inputs: Any) -> bool:
        """Whether sizes are symbolic, so that JAX cannot compare the lengths of slices."""
        sizes = context.known_sizes([inputs.shape[axis] for axis in self.spatial_axes])
        return keras.backend.backend() == "jax" and self.padding == "valid" and None in sizes

    def pad_widths(self, shape: Sequence[Any]) -> list[tuple[Any, Any]]:
        """Returns the zeros before and after each spatial axis.

        For an unknown size, these may be tensors, symbols or other stand-ins.
        """
        widths: list[tuple[Any, Any]] = []
        for axis, extent, stride, mode in zip(
            self.spatial_axes, self.extent, self.strides, self.modes, strict=True
        ):
            if mode == "valid":
                widths.append((0, 0))
            elif mode == "causal":
                widths.append((extent, 0))
            elif stride == 1 or extent == 0:
                widths.append((extent // 2, extent - extent // 2))
            else:
                widths.append(_same_padding(shape[axis], extent, stride))
        return widths

    def tap(self, inputs: Any, index: Sequence[int]) -> Any:
        """Returns the slice of a padded input that the kernel tap at `index` overlaps.

        The bounds count from the end of each axis, so unknown sizes need no special case.
        """
        slices = [slice(None)] * (self.rank + 2)
        for axis, i, extent, stride, dilation in zip(
            self.spatial_axes, index, self.extent, self.strides, self.dilation_rate, strict=True
        ):
            after = extent - i * dilation
            slices[axis] = slice(i * dilation, -after if after else None, stride)
        if all(part in (slice(None), slice(0, None, 1)) for part in slices):
            return inputs  # the gradient of a slice that keeps everything is still a copy
        return inputs[tuple(slices)]


# Computes a convolution from inputs, a kernel and a geometry.
Convolve = Callable[[Any, Any, Geometry], Any]


def pad(inputs: Any, widths: Sequence[tuple[Any, Any]]) -> Any:
    """Pads with zeros, unless there are none to add."""
    zeros = [zeros for width in reversed(widths) for zeros in width]
    if all(number == 0 for number in context.known_sizes(zeros)):
        return inputs
    if keras.backend.backend() == "torch":
        import torch.nn.functional as F

        # Keras would skip axes along which a traced sample needs no zeros.
        return F.pad(keras.ops.convert_to_tensor(inputs), zeros)
    if keras.backend.backend() == "jax" or not context.compiled():
        return keras.ops.pad(inputs, widths)
    # With XLA on TensorFlow, the gradients of padding and concatenation have no gradient of second
    # order. That of indexing has gradients of any order.
    within = tuple(
        slice(before, before + size)
        for (before, _), size in zip(widths, keras.ops.shape(inputs), strict=True)
    )
    return with_gradients(
        lambda values: keras.ops.pad(values, widths), lambda _, upstream: (upstream[within],)
    )(inputs)


def concatenate_channels(parts: Sequence[Any]) -> Any:
    """Concatenates tensors of equal shapes along the last axis."""
    if keras.backend.backend() != "tensorflow" or not context.compiled():
        return keras.ops.concatenate(parts, axis=-1)
    size, count = parts[0].shape[-1], len(parts)  # as in `pad`
    return with_gradients(
        lambda *values: keras.ops.concatenate(values, axis=-1),
        lambda *values: [values[-1][..., i * size : (i + 1) * size] for i in range(count)],
    )(*parts)


def ceil_div(number: Any, by: int) -> Any:
    """Divides a size and rounds up. ONNX files would round `-(-number // by)` wrongly."""
    return (number + by - 1) // by


def or_zero(number: Any) -> Any:
    """The maximum of zero and a number, which may be known only when the graph runs."""
    if isinstance(number, int):
        return max(number, 0)
    if keras.backend.backend() != "torch":
        return keras.ops.maximum(number, 0)
    import torch

    return torch.sym_max(number, 0) if isinstance(number, torch.SymInt) else number.clamp(min=0)


def cut(values: Any, axes: Sequence[int], starts: Sequence[int], sizes: Sequence[Any]) -> Any:
    """Slices some axes, given the start and the size of each slice.

    The gradient is a padding. The gradient of indexing takes TensorFlow longer.
    """
    known = context.known_sizes([*sizes, *(values.shape[axis] for axis in axes)])
    if None not in known and known[: len(axes)] == known[len(axes) :]:
        return values
    if keras.backend.backend() == "torch":
        slices = [slice(None)] * len(values.shape)
        for axis, start, size in zip(axes, starts, sizes, strict=True):
            slices[axis] = slice(start, start + size)
        return values[tuple(slices)]
    every_start, shape = [0] * len(values.shape), list(keras.ops.shape(values))
    for axis, start, size in zip(axes, starts, sizes, strict=True):
        every_start[axis], shape[axis] = start, size
    return keras.ops.slice(values, every_start, shape)


def _same_padding(size: Any, extent: int, stride: int) -> tuple[Any, Any]:
    """Padding for `ceil(size / stride)` outputs. `size` may be known only when the graph runs."""
    total = extent - (size - 1) % stride
    if extent < stride - 1:
        total = or_zero(total)
    return total // 2, total - total // 2
