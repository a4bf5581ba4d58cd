"""Image classification: a depthwise-separable net against its standard-convolution twin.

    python -m examples.vision.train
        scikit-learn's handwritten digits, no download
    python -m examples.vision.train --dataset fashion_mnist --width 1.25 --batch-size 128
    python -m examples.vision.train --dataset cifar10
    python -m examples.vision.train --data FOLDER      one folder of images for each class

Both nets get the same data, budget and seeds. The comparison is printed and written to `--output`,
beside the trained models. The same command goes on where an interrupted run stopped.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

import keras

from examples.artifacts import add_export, export_arrays
from examples.command_line import (
    add_budget,
    add_output,
    command,
    default_output,
    in_sentences,
    new_parser,
    positive_number,
    user_errors,
)
from examples.nets import CHOICES, by_name
from examples.vision import data, predict
from sepconv_layers import Comparison, ConvBlock2D, SeparableConvBlock2D, compare

STEM_FILTERS = 16
STAGES = (  # filters, strides
    (32, 2),
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
)
SMALLEST_MAP = 4  # positions a side
EPOCHS = {"digits": 10, "fashion_mnist": 10}
DEFAULT_EPOCHS = 20
LEARNING_RATE = 2e-2
WEIGHT_DECAY = 2e-2
MIRRORED = ("cifar10", "fashion_mnist")  # where left and right mean nothing
LARGEST_STEM_OUTPUT = 32


def build(
    conv: str,
    input_shape: Sequence[int],
    classes: int,
    width: float = 1.0,
    depth_multiplier: int = 1,
) -> keras.Model:
    """A net like MobileNet in the small. It takes pixels from 0 to 255 and gives logits."""
    separable = partial(SeparableConvBlock2D, depth_multiplier=depth_multiplier)
    block = {"separable": separable, "standard": ConvBlock2D}[conv]
    stem_strides = -(-min(input_shape[:2]) // LARGEST_STEM_OUTPUT)
    images = x = keras.Input(input_shape, name="images")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(x)
    x = ConvBlock2D(_scaled(STEM_FILTERS, width), strides=stem_strides, name="stem")(x)
    for i, (filters, strides) in enumerate(STAGES):
        strides = strides if min(x.shape[1:3]) > SMALLEST_MAP else 1
        x = block(_scaled(filters, width), strides=strides, name=f"block_{i}")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    logits = keras.layers.Dense(classes, name="logits")(x)
    return keras.Model(images, logits, name=f"{conv}_net")


def _scaled(filters: int, width: float) -> int:
    return max(8, 8 * round(filters * width / 8))


@in_sentences
def main(argv: Sequence[str] | None = None) -> Comparison:
    argv = sys.argv[1:] if argv is None else argv
    parser = make_parser()
    arguments = parser.parse_args(argv)
    with user_errors(parser, folder="--data"):
        dataset = data.load(
            arguments.dataset or "digits",
            folder=arguments.data,
            limit=arguments.limit,
            image_size=arguments.image_size,
        )
    input_shape, classes = dataset.train[0].shape[1:], len(dataset.classes)
    print(f"{dataset.name}: {dataset.note}")
    print(f"{dataset.sizes('images')} of shape {input_shape}, {classes} classes")
    if dataset.scaling:
        print(dataset.scaling)
    output = arguments.output or default_output("vision", dataset.name)
    convs = CHOICES[arguments.conv]
    net = partial(
        build,
        input_shape=input_shape,
        classes=classes,
        depth_multiplier=arguments.depth_multiplier,
    )
    mirrored = dataset.name in MIRRORED and arguments.data is None
    found = compare(
        by_name(net, convs, arguments.width),
        dataset,
        convs=convs,
        epochs=arguments.epochs or EPOCHS.get(dataset.name, DEFAULT_EPOCHS),
        batch_size=arguments.batch_size,
        seeds=arguments.seeds,
        jit_compile=arguments.jit_compile,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        label_smoothing=0.1,
        augmentation=keras.layers.RandomFlip("horizontal") if mirrored else None,
        output=output,
        task="Image classification",
        dataset=dataset.name,
        command=command("examples.vision.train", argv),
    )
    predict.save_about(dataset, output)
    export_arrays(found, arguments.export, output, dataset)
    print(f"\n{found}\n\nSaved in {output}: report.md, comparison.png, results.json, models")
    print(f"Try: python -m examples.vision.predict {output} FILE")
    return found


def make_parser() -> argparse.ArgumentParser:
    parser = new_parser("examples.vision.train", __doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--dataset", choices=data.SOURCES, help="a public set; default: digits")
    source.add_argument("--data", metavar="PATH", help="your own images: a folder or .npz file")
    add_budget(parser, epochs="10 to 20, by data set")
    parser.add_argument(
        "--depth-multiplier",
        type=positive_number(int),
        default=1,
        help="spatial kernels of the separable net for each channel",
    )
    parser.add_argument(
        "--image-size", type=positive_number(int), help="resize to so many pixels a side"
    )
    add_export(parser, default="none")
    add_output(parser, default="runs/vision/DATASET")
    return parser


if __name__ == "__main__":
    main()
