"""MobileNet V1 and its standard twin in this library, `keras.layers`, PyTorch and LiteRT."""

import argparse
import contextlib
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from sepconv_layers import ConvBlock2D, SeparableConvBlock2D, ops

STEM = 32  # filters
FILTERS_AND_STRIDES = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)
CLASSES = 1000
FULL, HALF = "float32", "mixed_bfloat16"


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """Adds arguments for the sizes of the nets and of their input."""
    parser.add_argument("--size", type=int, default=128, help="height and width of the images")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--width", type=float, default=1.0, help="multiplier of all filters")


def stages(width: float) -> list[tuple[int, int]]:
    """Filters and strides of the stem and of each block."""
    table = ((STEM, 2), *FILTERS_AND_STRIDES)
    return [(max(1, round(filters * width)), strides) for filters, strides in table]


def of_blocks(block: Callable, arguments: argparse.Namespace) -> keras.Model:
    images = x = keras.Input((arguments.size, arguments.size, 3))
    (filters, strides), *blocks = stages(arguments.width)
    x = ConvBlock2D(filters, strides=strides)(x)
    for filters, strides in blocks:
        x = block(filters, strides=strides)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, keras.layers.Dense(CLASSES)(x))


def of_keras_layers(arguments: argparse.Namespace) -> keras.Model:
    layers = keras.layers

    def then_norm_act(convolution: keras.layers.Layer, x: Any) -> Any:
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(convolution(x)))

    images = x = keras.Input((arguments.size, arguments.size, 3))
    (filters, strides), *blocks = stages(arguments.width)
    common: dict[str, Any] = {"padding": "same", "use_bias": False}
    x = then_norm_act(layers.Conv2D(filters, 3, strides, **common), x)
    for filters, strides in blocks:
        x = then_norm_act(layers.DepthwiseConv2D(3, strides, **common), x)
        x = then_norm_act(layers.Conv2D(filters, 1, **common), x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(CLASSES)(x))


BUILDERS: dict[str, Callable[[argparse.Namespace], keras.Model]] = {
    "separable": partial(of_blocks, SeparableConvBlock2D),
    "standard": partial(of_blocks, ConvBlock2D),
    "keras.layers": of_keras_layers,
}


def in_pytorch(
    arguments: argparse.Namespace, conv: str, x: Any, labels: Any, kind: str, policy: str = FULL
) -> Callable[[], Any]:
    """The net as PyTorch users write it, in its fastest memory format."""
    import torch
    from torch import nn

    def then_norm_act(*convolution: Any, **options: Any) -> list[nn.Module]:
        layer = nn.Conv2d(*convolution, bias=False, **options)
        return [layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU(inplace=True)]

    (channels, strides), *blocks = stages(arguments.width)
    layers = then_norm_act(3, channels, 3, strides, 1)
    for filters, strides in blocks:
        if conv == "separable":
            layers += then_norm_act(channels, channels, 3, strides, 1, groups=channels)
            layers += then_norm_act(channels, filters, 1)
        else:
            layers += then_norm_act(channels, filters, 3, strides, 1)
        channels = filters
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]
    net = nn.Sequential(*layers).to(x.device, memory_format=torch.channels_last)
    images, loss = x.permute(0, 3, 1, 2), nn.CrossEntropyLoss()  # channels-last in memory
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)

    def precision() -> Any:
        if policy == FULL:
            return contextlib.nullcontext()
        return torch.autocast(x.device.type, torch.bfloat16)

    def infer() -> Any:
        with torch.inference_mode(), precision():
            return net(images).cpu()

    def train() -> Any:
        optimizer.zero_grad()
        with precision():
            value = loss(net(images), labels)
        value.backward()
        optimizer.step()
        return value.item()

    net.train(kind == "train")
    return train if kind == "train" else infer


def in_litert(model: keras.Model, x: np.ndarray) -> Callable[[], Any]:
    """The net in LiteRT, with one thread per core."""
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    with ops.lowering("portable"), tempfile.TemporaryDirectory() as directory:
        saved = Path(directory) / "saved"
        archive = keras.export.ExportArchive()
        archive.track(model)
        spec = [keras.InputSpec(shape=x.shape, dtype="float32")]
        archive.add_endpoint("serve", partial(model, training=False), input_signature=spec)
        archive.write_out(str(saved), verbose=False)
        content = tf.lite.TFLiteConverter.from_saved_model(str(saved)).convert()
    interpreter = Interpreter(model_content=content, num_threads=os.cpu_count())
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()

    def call() -> np.ndarray:
        interpreter.set_tensor(source["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(target["index"])

    return call
