"""Image classification: a trained standard net becomes separable and keeps what it learned.

    python -m examples.vision.convert
        scikit-learn's handwritten digits, no download
    python -m examples.vision.convert --dataset fashion_mnist --limit 20000 --width 0.5 --epochs 6
    python -m examples.vision.convert --data FOLDER
        your own images, in one folder for each class

The standard net is trained, converted to shares of its MACs and adapted by distillation. Nets with
the same MACs that are pruned or trained from scratch stand beside it. Run the same command again to
continue an interrupted run.
"""

from examples import conversion
from examples.vision import train

COMMAND = conversion.Command("vision", __doc__, train.OPTIONS, train.add_options, train.prepare)
make_parser, main = COMMAND.make_parser, COMMAND.main

if __name__ == "__main__":
    main()
