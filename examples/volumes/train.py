"""Volume classification: a 3D depthwise-separable net against its standard-convolution twin.

    python -m examples.volumes.train
        solids drawn as voxels, no download
    python -m examples.volumes.train --dataset modelnet10 --epochs 18 --seeds 2
        accuracy 0.887 (separable), 0.888 (standard); 52 minutes with --conv all
    python -m examples.volumes.train --data FILE.npz
        your own volumes

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
from examples.augmentation import RandomMirror, RandomShift, RandomTurn
from examples.nets import compare_nets, residual_net
from examples.volumes import data
from sepconv_layers import Comparison, Frontier, Search

SPACE = {  # of --search
    "width": (0.25, 2.0),
    "depth": [0.5, 1.0, 1.5],
    "kernel_size": [3, 5],
    "positions": [8, 12, 16],
}
EPOCHS = {"solids": 8}
DEFAULT_EPOCHS = 15
BATCH_SIZE = 32
LEARNING_RATE = 1e-2
POSITIONS = 12  # a side, at most, after the stem
HORIZONTAL = (1, 2)  # axes: the objects of the public sets stand upright
SHIFT = 2  # voxels at most, for ModelNet10, which has few volumes of some classes


def augmentation(name: str) -> keras.layers.Layer:
    """Returns the augmentation for a public set."""
    mirror, turn = RandomMirror(HORIZONTAL), RandomTurn(HORIZONTAL)
    shift = RandomShift(SHIFT, axes=(1, 2, 3))
    return mirror if name == "solids" else keras.Sequential([mirror, turn, shift])


# A small residual net, from values between 0 and 255 to logits.
build = partial(residual_net, scale=1 / 255, positions=POSITIONS)


@command_line.without_traceback
def main(argv: Sequence[str] | None = None) -> Comparison | Frontier | Search:
    argv = sys.argv[1:] if argv is None else argv
    parser = make_parser()
    arguments = parser.parse_args(argv)
    with command_line.user_errors(parser, file="--data"):
        name = arguments.dataset or data.DEFAULT
        dataset = data.load(name, file=arguments.data, limit=arguments.limit)
    input_shape, classes = dataset.train[0].shape[1:], len(dataset.classes)
    print(dataset.summary("volumes", f" of shape {input_shape}, {classes} classes"))
    net = partial(build, input_shape=input_shape, classes=classes)
    epochs = EPOCHS.get(dataset.name, DEFAULT_EPOCHS)
    options = command_line.compare_options(
        arguments, argv, example="volumes", dataset=dataset.name, epochs=epochs
    )
    training = {
        "learning_rate": LEARNING_RATE,
        "label_smoothing": 0.1,
        "augmentation": augmentation(dataset.name) if arguments.data is None else None,
        "task": "Volume classification",
    }
    found = compare_nets(net, dataset, arguments, options | training, SPACE)
    if not isinstance(found, Comparison):
        return found
    output = options["output"]
    export_arrays(found, arguments.export, output, dataset)
    print(f"\n{found}\n\nSaved in {output}: report.md, comparison.png, results.json, models")
    return found


def make_parser() -> argparse.ArgumentParser:
    return command_line.training_parser(
        "volumes",
        __doc__,
        datasets=data.SOURCES,
        default=data.DEFAULT,
        own_data=("FILE", "a .npz file of volumes"),
        searched=SPACE,
        epochs="8 for solids, else 15",
        batch_size=BATCH_SIZE,
    )


if __name__ == "__main__":
    main()
