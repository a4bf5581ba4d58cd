"""Image classification: a depthwise-separable net against its standard-convolution twin.

    python -m examples.vision.train
        scikit-learn's handwritten digits, no download
    python -m examples.vision.train --dataset fashion_mnist --width 1.25 --batch-size 128 --seeds 2
        accuracy 0.933 (separable), 0.940 (standard); 52 minutes with --conv all
    python -m examples.vision.train --dataset cifar10 --depth-multiplier 2 --batch-size 128
            --epochs 10 --seeds 2
        accuracy 0.826 (separable), 0.830 (standard); 45 minutes with --conv all
    python -m examples.vision.train --dataset cifar10 --net separable_resnet --batch-size 128
            --epochs 10 --seeds 2 --sizes 0.35,0.5,0.75,1
        accuracy against cost: 0.773 to 0.836 (separable), 0.697 to 0.834 (standard); 2.5 hours
    python -m examples.vision.train --data FOLDER
        your own images, in one folder for each class

Minutes are on two CPU cores. Both nets get the same data, budget and seeds. The comparison is
printed and written to `--output`, beside the trained models. Run the same command again to continue
an interrupted run.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import keras

from examples import command_line
from examples.artifacts import export_arrays
from examples.augmentation import RandomMirror, RandomShift
from examples.nets import Experiment, compare_nets, residual_net
from examples.vision import data, predict
from sepconv_layers import Comparison, ConvBlock2D, Frontier, Search, SeparableConvBlock2D

# Of --net mobilenet.
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
POSITIONS = 16  # a side, at most, after the stem of --net separable_resnet
SPACE: dict[str, dict[str, Any]] = {  # of --search
    "mobilenet": {"width": (0.25, 2.0), "kernel_size": [3, 5], "depth_multiplier": [1, 2]},
    "separable_resnet": {
        "width": (0.25, 2.0),
        "depth": [0.5, 1.0, 1.5],
        "kernel_size": [3, 5],
        "positions": [12, 16, 24],
    },
}
OPTIONS: dict[str, Any] = {  # of `train` and `convert`
    "datasets": data.SOURCES,
    "default": data.DEFAULT,
    "own_data": ("PATH", "a folder of images, or a .npz file"),
    "cache": "decoded image files, for all runs; default: none, and large sets are decoded "
    "in each epoch",
    "epochs": "10 to 20, by data set",
}
# Pixels to shift images by in separable_resnet, at most, in the sets where also a mirror image has
# the same class.
SHIFTS = {"cifar10": 4, "fashion_mnist": 2}
LARGEST_STEM_OUTPUT = 32  # positions a side, of mobilenet


def mobilenet(
    conv: str,
    input_shape: Sequence[int],
    classes: int,
    width: float = 1.0,
    depth_multiplier: int = 1,
    kernel_size: int = 3,
) -> keras.Model:
    """Returns a small MobileNet, from pixels between 0 and 255 to logits."""
    separable = partial(SeparableConvBlock2D, depth_multiplier=depth_multiplier)
    block = {"separable": separable, "standard": ConvBlock2D}[conv]
    stem_strides = -(-min(input_shape[:2]) // LARGEST_STEM_OUTPUT)
    images = x = keras.Input(input_shape, name="images")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(x)
    x = ConvBlock2D(_scaled(STEM_FILTERS, width), strides=stem_strides, name="stem")(x)
    for i, (filters, strides) in enumerate(STAGES):
        strides = strides if min(x.shape[1:3]) > SMALLEST_MAP else 1
        x = block(_scaled(filters, width), kernel_size, strides=strides, name=f"block_{i}")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    logits = keras.layers.Dense(classes, name="logits")(x)
    return keras.Model(images, logits, name=f"{conv}_net")


# Nets from pixels between 0 and 255 to logits.
NETS: dict[str, Any] = {
    "mobilenet": mobilenet,
    "separable_resnet": partial(residual_net, scale=1 / 127.5, offset=-1, positions=POSITIONS),
}


def augmentation(name: str, net: str) -> keras.layers.Layer | None:
    """Returns the augmentation of a public set for a net, if there is one."""
    if name not in SHIFTS:
        return None
    if net == "mobilenet":
        return keras.layers.RandomFlip("horizontal")
    shift = RandomShift(SHIFTS[name], axes=(1, 2), fill="nearest")
    return keras.Sequential([RandomMirror((2,)), shift])


def _scaled(filters: int, width: float) -> int:
    return max(8, 8 * round(filters * width / 8))


def prepare(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Experiment:
    """Loads the images that the options name, and returns nets for them and their recipe."""
    with command_line.user_errors(parser, folder="--data"):
        dataset = data.load(
            arguments.dataset or data.DEFAULT,
            folder=arguments.data,
            limit=arguments.limit,
            image_size=arguments.image_size,
            cache=arguments.cache,
        )
    input_shape, classes = dataset.train[0].shape[1:], len(dataset.classes)
    print(dataset.summary("images", f" of shape {input_shape}, {classes} classes"))
    own, net = arguments.data is not None, arguments.net
    training = {
        "learning_rate": LEARNING_RATE,
        "weight_decay": WEIGHT_DECAY,
        "label_smoothing": 0.1,
        "augmentation": None if own else augmentation(dataset.name, net),
        "task": "Image classification",
    }
    build = partial(NETS[net], input_shape=input_shape, classes=classes)
    epochs = EPOCHS.get(dataset.name, DEFAULT_EPOCHS)
    return Experiment(dataset.name, dataset, build, epochs, training)


@command_line.without_traceback
def main(argv: Sequence[str] | None = None) -> Comparison | Frontier | Search:
    argv = sys.argv[1:] if argv is None else argv
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.depth_multiplier and arguments.net != "mobilenet":
        parser.error(f"--depth-multiplier is for mobilenet, not for {arguments.net}")
    images = prepare(parser, arguments)
    net = images.build
    if arguments.depth_multiplier:
        net = partial(net, depth_multiplier=arguments.depth_multiplier)
    options = command_line.compare_options(
        arguments, argv, example="vision", dataset=images.name, epochs=images.epochs
    )
    space = SPACE[arguments.net]
    found = compare_nets(net, images.data, arguments, {**options, **images.training}, space)
    if not isinstance(found, Comparison):
        return found
    output = options["output"]
    predict.save_about(images.data, output)
    export_arrays(found, arguments.export, output, images.data)
    print(f"\n{found}\n\nSaved in {output}: report.md, comparison.png, results.json, models")
    print(f"Try: python -m examples.vision.predict {output} FILE")
    return found


def make_parser() -> argparse.ArgumentParser:
    searched = dict.fromkeys(name for space in SPACE.values() for name in space)
    parser = command_line.training_parser("vision", __doc__, **OPTIONS, searched=searched)
    positive = command_line.positive_number(int)
    parser.add_argument(
        "--depth-multiplier",
        type=positive,
        help="depthwise kernels per channel in the separable mobilenet; default: 1",
    )
    add_options(parser)
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of images, which `train` and `convert` share."""
    parser.add_argument("--net", choices=NETS, default="mobilenet", help="default: mobilenet")
    positive = command_line.positive_number(int)
    parser.add_argument("--image-size", type=positive, help="height and width to resize images to")


if __name__ == "__main__":
    main()
