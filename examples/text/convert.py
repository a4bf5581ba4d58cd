"""Text classification: a trained standard net becomes separable and keeps what it learned.

    python -m examples.text.convert
        docstrings of installed packages, no download
    python -m examples.text.convert --dataset trec --macs 0.5,0.33
    python -m examples.text.convert --data FILE
        your own texts: a label and a text on each line

The standard net is trained, converted to shares of its MACs and adapted by distillation. Nets with
the same MACs that are pruned or trained from scratch stand beside it. Run the same command again to
continue an interrupted run.
"""

from examples import conversion
from examples.text import train

COMMAND = conversion.Command(
    "text", __doc__, train.OPTIONS, train.add_options, lambda *given: train.prepare(*given)[0]
)
make_parser, main = COMMAND.make_parser, COMMAND.main

if __name__ == "__main__":
    main()
