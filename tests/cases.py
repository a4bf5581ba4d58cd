"""One table of what there is to test: every public class, arguments for it, and input shapes."""

from typing import NamedTuple

import keras

import sepconv_layers as sl
from tests.backends import SHORT

SIZES = (9, 7, 6)  # odd, unequal: an axis mixed up with another one shows
CHANNELS = 4
RANKS = (1, 2, 3)


class Case(NamedTuple):
    """A class, arguments, and the spatial rank of its input."""

    cls: type
    arguments: dict
    rank: int
    number: int  # which variant of its class it is; the first is the plainest

    def __str__(self):
        words = ",".join(f"{k}={getattr(v, '__name__', v)}" for k, v in self.arguments.items())
        return f"{self.cls.__name__}({words})".replace(" ", "")

    @property
    def input_shape(self):
        return self.shape(2, SIZES[: self.rank])

    @property
    def unknown_shape(self):
        return self.shape(None, (None,) * self.rank)

    def shape(self, batch, spatial):
        if self.arguments.get("data_format") == "channels_first":
            return (batch, CHANNELS, *spatial)
        return (batch, *spatial, CHANNELS)

    def make(self, **changes):
        return self.cls(**{**self.arguments, **changes})


class PerAxis(tuple):
    """Values of which an argument takes as many as there are axes."""


KERNEL = PerAxis((3, 2, 2))
LAYERS = {
    "Conv": {"filters": 6, "kernel_size": KERNEL},
    "DepthwiseConv": {"kernel_size": KERNEL},
    "SeparableConv": {"filters": 6, "kernel_size": KERNEL},
    "DepthwiseConvTranspose": {"kernel_size": KERNEL},
    "SeparableConvTranspose": {"filters": 6, "kernel_size": KERNEL},
    "SqueezeExcite": {},
}
BLOCKS = {  # and their twins
    "SeparableConvBlock": "ConvBlock",
    "ResidualSeparableConvBlock": "ResidualConvBlock",
    "InvertedBottleneckBlock": "FusedInvertedBottleneckBlock",
}
CONVOLUTION_VARIANTS = [
    {},
    {"strides": PerAxis((2, 1, 2)), "padding": "same", "activation": "relu"},
    {
        "kernel_size": PerAxis((2, 3, 1)),
        "dilation_rate": PerAxis((1, 2, 1)),
        "use_bias": False,
    },
    {"padding": "causal", "strides": 2, "dilation_rate": 2},
    {"data_format": "channels_first", "padding": "same"},
]
BLOCK_VARIANTS = [
    {},
    {"filters": CHANNELS},
    {"strides": PerAxis((2, 1, 2)), "activation": "hard_silu", "normalization": "layer"},
    {"padding": "valid", "dilation_rate": PerAxis((1, 2, 1)), "kernel_size": 2},
    {"padding": "causal", "strides": 2, "dilation_rate": 2, "normalization": None},
    {"normalization": keras.layers.BatchNormalization, "activation": None},
    {"data_format": "channels_first", "normalization": "group"},
]
OWN_VARIANTS = {
    "Conv": [
        {"groups": 2, "strides": 2, "dilation_rate": 2, "padding": "same"},
        {"groups": 4, "filters": 8, "padding": "causal", "data_format": "channels_first"},
    ],
    "DepthwiseConv": [{"depth_multiplier": 2}],
    "SeparableConv": [{"depth_multiplier": 2}],
    "DepthwiseConvTranspose": [{"depth_multiplier": 2, "strides": 2, "output_padding": 1}],
    "SeparableConvTranspose": [{"depth_multiplier": 2, "strides": 3, "output_padding": 1}],
    "SqueezeExcite": [
        {"data_format": "channels_first"},
        {"ratio": 0.5, "gate_activation": "hard_sigmoid", "divisor": 2},
    ],
    "SeparableConvBlock": [{"depth_multiplier": 2}],
    "ResidualSeparableConvBlock": [{"repeats": 3, "drop_path": 0.2, "project_shortcut": True}],
    "InvertedBottleneckBlock": [
        {"filters": CHANNELS, "expansion": 2, "se_ratio": 0.25, "drop_path": 0.2},
        {"se_ratio": 0.5, "gate_activation": "hard_sigmoid"},
        {"expansion": 1},
        {"filters": CHANNELS, "expansion": 2, "depthwise": "start"},
    ],
}
OWN_VARIANTS |= {twin: OWN_VARIANTS[separable] for separable, twin in BLOCKS.items()}


def _cases():
    for rank in RANKS:
        for name, base in LAYERS.items():
            common = [{}] if name == "SqueezeExcite" else CONVOLUTION_VARIANTS
            yield from _variants(name, base, common + OWN_VARIANTS[name], rank)
        for name in (name for pair in BLOCKS.items() for name in pair):
            base = {"filters": 6, "kernel_size": KERNEL}
            yield from _variants(name, base, BLOCK_VARIANTS + OWN_VARIANTS[name], rank)
        yield Case(sl.DropPath, {"rate": 0.3}, rank, 0)
        yield Case(sl.BatchNormalization, {"momentum": 0.9}, rank, 0)


def _variants(name, base, variants, rank):
    for number, variant in enumerate(variants):
        arguments = {
            key: value[:rank] if isinstance(value, PerAxis) else value
            for key, value in {**base, **variant}.items()
        }
        yield Case(class_of(name, rank), arguments, rank, number)


def class_of(name, rank):
    """The class of a family for a rank."""
    family, transposed, _ = name.partition("Transpose")
    return getattr(sl, f"{family}{rank}D{transposed}")


def _one_of_each_class(cases):
    """Picks one variant of each class, in turn, so that all of them are met in several classes."""
    by_class = {}
    for case in cases:
        by_class.setdefault(case.cls, []).append(case)
    return [variants[turn % len(variants)] for turn, variants in enumerate(by_class.values())]


EVERY_CASE = list(_cases())
CASES = _one_of_each_class(EVERY_CASE) if SHORT else EVERY_CASE
# For what takes long: the plainest case of each class in every rank, each further one in one rank.
FEW_CASES = [case for case in CASES if SHORT or case.number in (0, *range(case.rank, 99, 3))]
PLAIN = [case for case in EVERY_CASE if case.number == 0]
TWINS = [
    (getattr(sl, f"{separable}{rank}D"), getattr(sl, f"{standard}{rank}D"), rank)
    for rank in RANKS
    for separable, standard in BLOCKS.items()
]
