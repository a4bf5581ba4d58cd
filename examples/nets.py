"""The nets that the examples compare: twins, and a standard net as cheap as the separable one."""

import argparse
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import keras

from sepconv_layers import (
    Comparison,
    Frontier,
    Search,
    compare,
    frontier,
    models,
    profile,
    search,
)

TWINS = ("separable", "standard")
NARROW = "standard-narrow"
CHOICES = {
    "separable": ("separable",),
    "standard": ("standard",),
    "both": TWINS,
    "all": (*TWINS, NARROW),
}
LIMITS = {  # costs that are known before any training
    "macs": "multiply-accumulates per sample",
    "params": "parameters",
    "int8_bytes": "bytes of the int8 file",
}
HALVINGS = 12  # steps of the bisection for the width of a standard net
# The largest standard net has so many times the MACs of the largest separable one: it takes at
# least as long, and less time to train than the twin.
REACH = 2


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Data, nets for them, and how these are trained.

    Attributes:
        name: The name of the data set.
        data: The data, as `compare` takes it.
        build: Returns a net from `conv`, "separable" or "standard", and `width`.
        epochs: Default number of passes over the training part.
        training: Further arguments of `compare`.
        batch_size: Default number of training samples per step.
    """

    name: str
    data: Any
    build: Callable[..., keras.Model]
    epochs: int
    training: Mapping[str, Any]
    batch_size: int | None = None


def residual_net(
    conv: str,
    input_shape: Sequence[int],
    classes: int,
    *,
    scale: float,
    offset: float = 0.0,
    width: float = 1.0,
    depth: float = 1.0,
    kernel_size: int | None = None,
    positions: int,
) -> keras.Model:
    """Returns `models.separable_resnet` for images or volumes, with a stem that fits their size.

    Args:
        conv: "separable" or "standard".
        input_shape: The shape of a sample, with the channels last.
        classes: The number of classes.
        scale: The factor that pixels or voxels are multiplied by.
        offset: What is then added to them.
        width: As in `models.separable_resnet`.
        depth: As in `models.separable_resnet`.
        kernel_size: As in `models.separable_resnet`.
        positions: The largest number of positions along the shortest side after the stem.
    """
    inputs = keras.Input(input_shape, name="images" if len(input_shape) == 3 else "volumes")
    net = models.separable_resnet(
        input_shape,
        classes,
        conv,
        width=width,
        depth=depth,
        kernel_size=kernel_size,
        stem_strides=-(-min(input_shape[:-1]) // positions),
    )
    logits = net(keras.layers.Rescaling(scale, offset=offset)(inputs))
    return keras.Model(inputs, logits, name=f"{conv}_net")


def compare_nets(
    build: Callable[..., keras.Model],
    data: Any,
    arguments: argparse.Namespace,
    settings: Mapping[str, Any],
    space: Mapping[str, Any],
) -> Comparison | Frontier | Search:
    """Trains what the options name: twins, nets of several widths, or the best ones it finds.

    Args:
        build: Returns a net from `conv`, "separable" or "standard", and `width`.
        data: The data, as `compare` takes it.
        arguments: The parsed options of `command_line.training_parser`.
        settings: The other arguments of `compare`.
        space: What `--search` tries: arguments of `build` and their values, as `search` takes them.

    Returns:
        A `Comparison`, or what is already printed and saved.
    """
    limits = {name: getattr(arguments, f"limit_{name}") for name in LIMITS}
    limits = {name: limit for name, limit in limits.items() if limit is not None}
    if arguments.sizes:
        return _train_sizes(build, arguments.sizes, data, limits, settings)
    if arguments.search:
        return _search(build, data, space, arguments.search, limits, settings)
    if limits:
        raise ValueError("limits such as --limit-macs are for --sizes and --search")
    builder = net_builder(build, settings["convs"], arguments.width)
    return compare(builder, data, **settings)


def net_builder(
    build: Callable[..., keras.Model], convs: Sequence[str], width: float
) -> Callable[[str], keras.Model]:
    """Returns a function from the name of a net to the net, as `compare` takes it.

    The narrow net is the widest standard net with no more MACs than the separable one.

    Args:
        build: Returns a net from `conv`, "separable" or "standard", and `width`.
        convs: The names of the nets.
        width: The width of the twins.
    """
    narrow = width
    if NARROW in convs:
        most = profile(build("separable", width=width)).macs
        narrow = widest_within(partial(build, "standard"), most, width)

    def net(conv: str) -> keras.Model:
        if conv == NARROW:
            return build("standard", width=narrow)
        return build(conv, width=width)

    return net


def _train_sizes(
    build: Callable[..., keras.Model],
    widths: Sequence[float],
    data: Any,
    limits: Mapping[str, float],
    settings: Mapping[str, Any],
) -> Frontier:
    """Trains separable nets of these widths, and prints accuracy against cost.

    The standard nets have the same MACs, and one has more: `REACH` times those of the largest.
    """
    macs = [profile(build("separable", width=width)).macs for width in widths]
    standard = {}  # MACs to width: several widths may round to the same net
    for most in (*macs, REACH * max(macs)):
        widest = widest_within(partial(build, "standard"), most, max(widths))
        width = math.floor(1e4 * widest) / 1e4
        standard[profile(build("standard", width=width)).macs] = width
    found = frontier(
        lambda conv, size: build(conv, width=size),
        data,
        {"separable": widths, "standard": sorted(standard.values())},
        limits=limits,
        **{name: value for name, value in settings.items() if name != "convs"},
    )
    print(f"\n{found}\n\nSaved in {settings['output']}: frontier.md, frontier.png, frontier.json")
    return found


def _search(
    build: Callable[..., keras.Model],
    data: Any,
    space: Mapping[str, Any],
    trials: int,
    limits: Mapping[str, float],
    settings: Mapping[str, Any],
) -> Search:
    """Searches the best separable and the best standard net within limits, and prints both."""
    found = search(build, data, space, trials=trials, limits=limits, **settings)
    output = settings["output"]
    print(f"\n{found}\n\nSaved in {output}: search.md, search.png, search.json, and the best nets")
    print(f"in {output}/best")
    return found


def widest_within(build: Callable[..., keras.Model], most: float, widest: float) -> float:
    """The largest width, up to the widest, of a net with at most so many MACs.

    Args:
        build: Returns a net from `width`.
        most: The number of MACs.
        widest: The largest width to return.
    """
    if profile(build(width=widest)).macs <= most:
        return widest
    low, high = 0.0, widest
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if profile(build(width=middle)).macs > most:
            high = middle
        else:
            low = middle
    return low or high  # widths are rounded up to a minimum: even that may be too expensive
