"""The nets that the examples compare: twins, and a standard net as cheap as the separable one."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from sepconv_layers import Comparison, Frontier, compare, frontier, profile

TWINS = ("separable", "standard")
NARROW = "standard-narrow"
CHOICES = {
    "separable": ("separable",),
    "standard": ("standard",),
    "both": TWINS,
    "all": (*TWINS, NARROW),
}
HALVINGS = 12  # steps of the bisection for the width of the narrow net


def compare_nets(
    build: Callable[..., keras.Model],
    data: Any,
    arguments: argparse.Namespace,
    settings: Mapping[str, Any],
) -> Comparison | Frontier:
    """Trains what the options name: twins, or with `--sizes` nets of several widths.

    Args:
        build: Returns a net from `conv`, "separable" or "standard", and `width`.
        data: The data, as `compare` takes it.
        arguments: The parsed options of `command_line.training_parser`.
        settings: The other arguments of `compare`.

    Returns:
        A `Comparison`, or what is already printed and saved.
    """
    if arguments.sizes:
        return _train_sizes(build, arguments.sizes, data, settings)
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
    narrow = _narrow_width(build, width) if NARROW in convs else width

    def net(conv: str) -> keras.Model:
        if conv == NARROW:
            return build("standard", width=narrow)
        return build(conv, width=width)

    return net


def _train_sizes(
    build: Callable[..., keras.Model],
    widths: Sequence[float],
    data: Any,
    settings: Mapping[str, Any],
) -> Frontier:
    """Trains separable nets of these widths, and prints accuracy against cost.

    The standard nets have the same MACs, and one has the largest of these widths.
    """
    narrow = {round(_narrow_width(build, width), 4) for width in widths}
    found = frontier(
        lambda conv, size: build(conv, width=size),
        data,
        {"separable": widths, "standard": sorted(narrow | {max(widths)})},
        **{name: value for name, value in settings.items() if name != "convs"},
    )
    print(f"\n{found}\n\nSaved in {settings['output']}: frontier.md, frontier.png, frontier.json")
    return found


def _narrow_width(build: Callable[..., keras.Model], width: float) -> float:
    most = profile(build("separable", width=width)).macs
    low, high = 0.0, width
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if profile(build("standard", width=middle)).macs > most:
            high = middle
        else:
            low = middle
    return low or high  # widths are rounded up to a minimum: even that may be too expensive
