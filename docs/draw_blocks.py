"""Draws each block beside its standard twin, from real layers: docs/blocks/*.svg.

Run by `make docs`.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch

import sepconv_layers as sl

FOLDER = Path(__file__).parent / "blocks"
INPUT_SHAPE = (32, 32, 16)
# Picture → block, twin, and the arguments of both.
PICTURES: dict[str, tuple[type, type, dict[str, Any]]] = {
    "separable": (sl.SeparableConvBlock2D, sl.ConvBlock2D, {"filters": 32}),
    "residual": (
        sl.ResidualSeparableConvBlock2D,
        sl.ResidualConvBlock2D,
        {"filters": 32, "strides": 2},
    ),
    "inverted_bottleneck": (
        sl.InvertedBottleneckBlock2D,
        sl.FusedInvertedBottleneckBlock2D,
        {"filters": 16, "se_ratio": 0.25},
    ),
    "depthwise_first": (
        sl.InvertedBottleneckBlock2D,
        sl.FusedInvertedBottleneckBlock2D,
        {"filters": 16, "expansion": 2, "depthwise": "start"},
    ),
}

# One unit is an inch.
WIDTH, SHORTCUT_WIDTH = 2.3, 1.7  # of boxes
GAP, LINE, PADDING = 0.24, 0.19, 0.1
BESIDE = 0.3  # from the boxes to the shortcut
MARGIN, APART, HEAD, FOOT = 0.2, 0.5, 0.9, 0.65
COLORS = {
    "spatial": "#ffd9a8",
    "pointwise": "#bfe3c6",
    "gates": "#e3d2f2",
    "rest": "#eef0f3",
}
SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "sepconv_layers", "font.size": 9}


@dataclasses.dataclass(frozen=True)
class Box:
    """A box for a layer."""

    lines: tuple[str, ...]
    kind: str

    @property
    def height(self) -> float:
        """The height of the lines and the padding."""
        return LINE * len(self.lines) + PADDING


@dataclasses.dataclass(frozen=True)
class Drawing:
    """The drawing of a block. `shortcut` is `None` if there is no addition."""

    name: str
    arguments: str
    stages: tuple[Box, ...]
    shortcut: tuple[Box, ...] | None
    tail: tuple[Box, ...]
    total: str

    @property
    def height(self) -> float:
        """From the top of the first box to the bottom of the last."""
        boxes = (*self.stages, *self.tail)
        addition = 0 if self.shortcut is None else 2 * GAP
        return sum(box.height + GAP for box in boxes) + addition

    @property
    def width(self) -> float:
        """Including the shortcut."""
        if self.shortcut is None:
            return WIDTH
        return WIDTH + BESIDE + (SHORTCUT_WIDTH if self.shortcut else 0)


def drawings(name: str) -> list[Drawing]:
    """The drawings of the separable block of a picture and of its twin."""
    *blocks, arguments = PICTURES[name]
    return [describe(block(**arguments), arguments) for block in blocks]


def describe(block: Any, arguments: dict[str, Any]) -> Drawing:
    """Builds a block and describes its layers."""
    model = keras.Sequential([keras.Input(INPUT_SHAPE), block])
    profile = sl.profile(model)

    def boxes(stages: Sequence[keras.layers.Layer]) -> tuple[Box, ...]:
        return tuple(box_of(stage, profile) for stage in stages)

    shortcut = getattr(block, "shortcut", None)
    return Drawing(
        name=type(block).__name__,
        arguments=", ".join(f"{name}={value}" for name, value in arguments.items()),
        stages=boxes(block.stages),
        shortcut=None if shortcut is None else boxes(shortcut),
        tail=boxes(getattr(block, "tail", ())),
        total=f"{profile.macs:,} MACs, {profile.params:,} parameters",
    )


def box_of(layer: keras.layers.Layer, profile: sl.Profile) -> Box:
    """The class of a layer, and its MACs if it has any."""
    rows = [row for row in profile.rows if layer.name in row.name.split("/")]
    macs = f"{sum(row.macs or 0 for row in rows):,} MACs"
    name = type(layer).__name__
    if isinstance(layer, keras.layers.Activation):
        return Box((keras.activations.serialize(layer.activation),), "rest")
    if isinstance(layer, sl.SqueezeExcite2D):
        return Box((name, f"ratio {layer.ratio:g}", macs), "gates")
    if not hasattr(layer, "kernel_size"):
        return Box((name,), "rest")
    (row,) = rows
    channels = f"{row.input_shape[-1]} → {row.output_shape[-1]} channels"
    size = "×".join(map(str, layer.kernel_size))
    if isinstance(layer, sl.SeparableConv2D):
        size += " depthwise, 1×1"
    strides = f", strides {max(layer.strides)}" if max(layer.strides) > 1 else ""
    kind = "spatial" if math.prod(layer.kernel_size) > 1 else "pointwise"
    return Box((name, f"{size}{strides}", channels, macs), kind)


def draw(pair: Sequence[Drawing]) -> Figure:
    """Draws blocks side by side."""
    width = sum(drawing.width for drawing in pair) + APART * (len(pair) - 1) + 2 * MARGIN
    height = max(drawing.height for drawing in pair) + HEAD + FOOT
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(-height, 0), aspect="equal")
    axes.axis("off")
    left = MARGIN
    for drawing in pair:
        middle, y = left + WIDTH / 2, -HEAD
        _text(axes, middle, y + 0.7, drawing.name, weight="bold")
        _text(axes, middle, y + 0.5, drawing.arguments)
        _text(axes, middle, y + 0.2, f"input, {'×'.join(map(str, INPUT_SHAPE))}")
        start = y + 0.06
        y = _chain(axes, middle, start, WIDTH, drawing.stages)
        if drawing.shortcut is not None:
            _arrow(axes, (middle, y), (middle, y - GAP))
            y = _addition(axes, middle, start - 0.08, y - GAP, drawing.shortcut)
        y = _chain(axes, middle, y, WIDTH, drawing.tail)
        _arrow(axes, (middle, y), (middle, y - GAP))
        _text(axes, middle, y - GAP - 0.14, drawing.total, style="italic")
        left += drawing.width + APART
    return figure


def _chain(axes: Any, x: float, y: float, width: float, boxes: Sequence[Box]) -> float:
    """Draws a column of boxes with an arrow to each; returns the bottom of the last one."""
    for box in boxes:
        _arrow(axes, (x, y), (x, y - GAP))
        y -= GAP
        _box(axes, x, y, width, box)
        y -= box.height
    return y


def _addition(axes: Any, x: float, top: float, y: float, boxes: Sequence[Box]) -> float:
    """Draws the addition below `y`, with the shortcut from the input on the right."""
    radius = GAP / 2
    middle, end = y - radius, top
    beside = x + WIDTH / 2 + BESIDE + (SHORTCUT_WIDTH / 2 if boxes else 0)
    _line(axes, (x, top), (beside, top))
    if boxes:
        tall = sum(box.height + GAP for box in boxes)
        start = (top + middle + tall) / 2
        _line(axes, (beside, top), (beside, start))
        end = _chain(axes, beside, start, SHORTCUT_WIDTH, boxes)
    _line(axes, (beside, end), (beside, middle))
    _arrow(axes, (beside, middle), (x + radius, middle))
    axes.add_patch(Circle((x, middle), radius, facecolor="white", edgecolor="black", lw=0.8))
    _text(axes, x, middle, "+")
    return y - 2 * radius


def _box(axes: Any, x: float, top: float, width: float, box: Box) -> None:
    round_by = 0.04
    corner = (x - width / 2 + round_by, top - box.height + round_by)
    size = (width - 2 * round_by, box.height - 2 * round_by)
    style = f"round,pad={round_by}"
    colors = {"facecolor": COLORS[box.kind], "edgecolor": "#555555"}
    axes.add_patch(FancyBboxPatch(corner, *size, style, lw=0.8, **colors))
    for number, line in enumerate(box.lines):
        is_name = number == 0 and len(box.lines) > 1
        y = top - PADDING / 2 - LINE * (number + 0.5)
        _text(axes, x, y, line, weight="bold" if is_name else "normal")


def _text(axes: Any, x: float, y: float, text: str, **style: str) -> None:
    axes.text(x, y, text, ha="center", va="center_baseline", **style)


def _line(axes: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.plot(*zip(start, end, strict=True), color="black", lw=0.8, snap=False)


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "color": "black", "lw": 0.8, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops={**style, "snap": False})


def save(name: str, path: Path, **options: Any) -> None:
    """Writes a picture in the format of the suffix."""
    with matplotlib.rc_context(SETTINGS):
        metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else None
        draw(drawings(name)).savefig(path, metadata=metadata, **options)


def main() -> None:
    """Writes all pictures."""
    for name in PICTURES:
        save(name, FOLDER / f"{name}.svg")


if __name__ == "__main__":
    main()
