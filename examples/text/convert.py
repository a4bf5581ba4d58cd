"""Text classification: a trained standard net becomes separable and keeps what it learned.

    python -m examples.text.convert
        docstrings of installed packages, no download
    python -m examples.text.convert --dataset trec --macs 0.5,0.33
    python -m examples.text.convert --data FILE
        your own texts: a label and a text on each line

The standard net is trained, converted to shares of its MACs and adapted by distillation. Nets with
the same MACs that are trained from scratch stand beside it. Run the same command again to continue
an interrupted run.
"""

import argparse
import sys
from collections.abc import Sequence

from examples import command_line, conversion
from examples.text import train


@command_line.without_traceback
def main(argv: Sequence[str] | None = None) -> list[conversion.Point]:
    argv = sys.argv[1:] if argv is None else argv
    parser = make_parser()
    arguments = parser.parse_args(argv)
    texts, *_ = train.prepare(parser, arguments)
    return conversion.run(texts, arguments, argv, "text")


def make_parser() -> argparse.ArgumentParser:
    parser = conversion.make_parser("text", __doc__, **train.OPTIONS)
    train.add_options(parser)
    return parser


if __name__ == "__main__":
    main()
