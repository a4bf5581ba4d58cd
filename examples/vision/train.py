"""Image classification: a depthwise-separable net against its standard-convolution twin.

    python -m examples.vision.train
        scikit-learn's handwritten digits, no download
    python -m examples.vision.train --dataset fashion_mnist --width 1.25 --batch-size 128 --seeds 2
        accuracy 0.933 (separable), 0.940 (standard); 52 minutes with --conv all
    python -m examples.vision.train --dataset cifar10 --depth-multiplier 2 --batch-size 128
            --epochs 10 --seeds 2
        accuracy 0.826 (separable), 0.830 (standard); 45 minutes with --conv all
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

import keras

from examples import command_line
from examples.artifacts import export_arrays
from examples.augmentation import RandomMirror, RandomShift
from examples.nets import compare_nets
from examples.vision import data, predict
from sepconv_layers import Comparison, Frontier, Search, models

EPOCHS = {"digits": 10, "fashion_mnist": 10}
DEFAULT_EPOCHS = 20
LEARNING_RATE = 2e-2
WEIGHT_DECAY = 2e-2
SPACE = {  # of --search
    "width": (0.25, 2.0),
    "depth": [0.5, 1.0, 1.5],
    "kernel_size": [3, 5, 7],
    "positions": [12, 16, 24],
}
# Pixels to shift images by, at most, in the sets where also a mirror image has the same class.
SHIFTS = {"cifar10": 4, "fashion_mnist": 2}
# The kernels between the stem and the pooling. In a standard net, the MACs of larger ones are better
# spent on channels.
KERNEL_SIZES = {"separable": 5, "standard": 3}
POSITIONS = 16  # a side, at most, after the stem


def build(
    conv: str,
    input_shape: Sequence[int],
    classes: int,
    width: float = 1.0,
    depth: float = 1.0,
    kernel_size: int | None = None,
    positions: int = POSITIONS,
) -> keras.Model:
    """Returns a small residual net, from pixels between 0 and 255 to logits."""
    images = keras.Input(input_shape, name="images")
    net = models.separable_resnet(
        input_shape,
        classes,
        conv,
        width=width,
        depth=depth,
        kernel_size=kernel_size or KERNEL_SIZES[conv],
        stem_strides=-(-min(input_shape[:2]) // positions),
    )
    logits = net(keras.layers.Rescaling(1 / 127.5, offset=-1)(images))
    return keras.Model(images, logits, name=f"{conv}_net")


def augmentation(name: str) -> keras.layers.Layer | None:
    """Returns the augmentation for a public set."""
    if name not in SHIFTS:
        return None
    shift = RandomShift(SHIFTS[name], axes=(1, 2), fill="nearest")
    return keras.Sequential([RandomMirror((2,)), shift])


@command_line.without_traceback
def main(argv: Sequence[str] | None = None) -> Comparison | Frontier | Search:
    argv = sys.argv[1:] if argv is None else argv
    parser = make_parser()
    arguments = parser.parse_args(argv)
    with command_line.user_errors(parser, folder="--data"):
        dataset = data.load(
            arguments.dataset or data.DEFAULT,
            folder=arguments.data,
            limit=arguments.limit,
            image_size=arguments.image_size,
        )
    input_shape, classes = dataset.train[0].shape[1:], len(dataset.classes)
    print(dataset.summary("images", f" of shape {input_shape}, {classes} classes"))
    net = partial(
        build,
        input_shape=input_shape,
        classes=classes,
        depth=arguments.depth,
        kernel_size=arguments.kernel_size,
    )
    epochs = EPOCHS.get(dataset.name, DEFAULT_EPOCHS)
    options = command_line.compare_options(
        arguments, argv, example="vision", dataset=dataset.name, epochs=epochs
    )
    training = {
        "learning_rate": LEARNING_RATE,
        "weight_decay": WEIGHT_DECAY,
        "label_smoothing": 0.1,
        "augmentation": augmentation(dataset.name) if arguments.data is None else None,
        "task": "Image classification",
    }
    found = compare_nets(net, dataset, arguments, options | training, SPACE)
    if not isinstance(found, Comparison):
        return found
    output = options["output"]
    predict.save_about(dataset, output)
    export_arrays(found, arguments.export, output, dataset)
    print(f"\n{found}\n\nSaved in {output}: report.md, comparison.png, results.json, models")
    print(f"Try: python -m examples.vision.predict {output} FILE")
    return found


def make_parser() -> argparse.ArgumentParser:
    parser = command_line.training_parser(
        "vision",
        __doc__,
        datasets=data.SOURCES,
        default=data.DEFAULT,
        own_data=("PATH", "a folder of images, or a .npz file"),
        searched=SPACE,
        epochs="10 to 20, by data set",
    )
    positive = command_line.positive_number(int)
    factor = command_line.positive_number(float)
    blocks = "factor on the number of residual blocks; default: 1"
    parser.add_argument("--depth", type=factor, default=1.0, help=blocks)
    kernels = "size of the kernels after the stem; default: 5, in standard nets 3"
    parser.add_argument("--kernel-size", type=positive, help=kernels)
    parser.add_argument("--image-size", type=positive, help="height and width to resize images to")
    return parser


if __name__ == "__main__":
    main()
