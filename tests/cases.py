"""One table of what there is to test: every public class, arguments for it, and input shapes."""

from typing import NamedTuple

import keras

import sepconv_layers as sl

SIZES = (9, 7, 6)  # odd, unequal: an axis mixed up with another one shows
CHANNELS = 4
RANKS = (1, 2, 3)


class Case(NamedTuple):
    """A class, arguments, and the spatial rank of its input."""

    cls: type
    arguments: dict
    rank: int

    def __str__(self):
        words = ",".join(f"{k}={getattr(v, '__name__', v)}" for k, v in self.arguments.items())
        return f"{self.cls.__name__}({words})".replace(" ", "")

    @property
    def input_shape(self):
        spatial = SIZES[: self.rank]
        if self.arguments.get("data_format") == "channels_first":
            return (2, CHANNELS, *spatial)
        return (2, *spatial, CHANNELS)

    def make(self, **changes):
        return self.cls(**{**self.arguments, **changes})


def per_axis(*values):
    """Arguments that differ from axis to axis, cut to the rank."""
    return lambda rank: tuple(values[:rank])


LAYERS = {
    "Conv": {"filters": 6, "kernel_size": 3},
    "DepthwiseConv": {"kernel_size": 3},
    "SeparableConv": {"filters": 6, "kernel_size": 3},
    "SqueezeExcite": {},
}
BLOCKS = {
    "SeparableConvBlock": "ConvBlock",
    "ResidualSeparableConvBlock": "ResidualConvBlock",
    "InvertedBottleneckBlock": "FusedInvertedBottleneckBlock",
}
CONVOLUTION_VARIANTS = [
    {},
    {"strides": per_axis(2, 1, 2), "padding": "same", "activation": "relu"},
    {"kernel_size": per_axis(2, 3, 1), "dilation_rate": per_axis(1, 2, 1), "use_bias": False},
    {"padding": "causal", "strides": 2, "dilation_rate": 2},
    {"data_format": "channels_first", "padding": "same"},
]
BLOCK_VARIANTS = [
    {},
    {"filters": CHANNELS},
    {"strides": per_axis(2, 1, 2), "activation": "hard_silu", "normalization": "layer"},
    {"padding": "valid", "dilation_rate": per_axis(1, 2, 1), "kernel_size": 2},
    {"padding": "causal", "strides": 2, "dilation_rate": 2, "normalization": None},
    {"normalization": keras.layers.BatchNormalization, "activation": None},
    {"data_format": "channels_first", "normalization": "group"},
]
OWN_VARIANTS = {
    "DepthwiseConv": [{"depth_multiplier": 2}],
    "SeparableConv": [{"depth_multiplier": 2}],
    "SqueezeExcite": [
        {"data_format": "channels_first"},
        {"ratio": 0.5, "gate_activation": "hard_sigmoid", "divisor": 2},
    ],
    "SeparableConvBlock": [{"depth_multiplier": 2}],
    "ResidualSeparableConvBlock": [{"repeats": 3, "drop_path": 0.2}],
    "InvertedBottleneckBlock": [
        {"filters": CHANNELS, "expansion": 2, "se_ratio": 0.25, "drop_path": 0.2},
        {"expansion": 1},
    ],
}
for _separable, _standard in BLOCKS.items():
    OWN_VARIANTS[_standard] = OWN_VARIANTS[_separable]


def _cases():
    for rank in RANKS:
        for name, base in LAYERS.items():
            common = CONVOLUTION_VARIANTS if name != "SqueezeExcite" else [{}]
            yield from _variants(name, base, common + OWN_VARIANTS.get(name, []), rank)
        for pair in BLOCKS.items():
            for name in pair:
                yield from _variants(
                    name, {"filters": 6}, BLOCK_VARIANTS + OWN_VARIANTS[name], rank
                )
        yield Case(sl.DropPath, {"rate": 0.3}, rank)


def _variants(name, base, variants, rank):
    for variant in variants:
        arguments = {
            key: value(rank) if getattr(value, "__name__", "") == "<lambda>" else value
            for key, value in {**base, **variant}.items()
        }
        yield Case(getattr(sl, f"{name}{rank}D"), arguments, rank)


CASES = list(_cases())
TWINS = [
    (getattr(sl, f"{separable}{rank}D"), getattr(sl, f"{standard}{rank}D"), rank)
    for rank in RANKS
    for separable, standard in BLOCKS.items()
]
