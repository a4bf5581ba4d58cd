"""Image classification: a trained standard net becomes separable and keeps what it learned.

    python -m examples.vision.convert
        scikit-learn's handwritten digits, no download
    python -m examples.vision.convert --dataset fashion_mnist --limit 20000 --width 0.5 --epochs 6
    python -m examples.vision.convert --data FOLDER
        your own images, in one folder for each class

The standard net is trained, converted to shares of its MACs and adapted by distillation. Nets with
the same MACs that are trained from scratch stand beside it. Run the same command again to continue
an interrupted run.
"""

import argparse
import sys
from collections.abc import Sequence

from examples import command_line, conversion
from examples.vision import train


@command_line.without_traceback
def main(argv: Sequence[str] | None = None) -> list[conversion.Point]:
    argv = sys.argv[1:] if argv is None else argv
    parser = make_parser()
    arguments = parser.parse_args(argv)
    return conversion.run(train.prepare(parser, arguments), arguments, argv, "vision")


def make_parser() -> argparse.ArgumentParser:
    parser = conversion.make_parser("vision", __doc__, **train.OPTIONS)
    train.add_image_size(parser)
    return parser


if __name__ == "__main__":
    main()
