"""Keyword spotting: a trained standard net becomes separable and keeps what it learned.

    python -m examples.audio.convert
        eight words from a speech synthesizer, no download
    python -m examples.audio.convert --dataset fsdd --macs 0.5,0.33
    python -m examples.audio.convert --data FOLDER
        your own recordings, in one folder for each word

The standard net is trained, converted to shares of its MACs and adapted by distillation. Nets with
the same MACs that are pruned or trained from scratch stand beside it. Run the same command again to
continue an interrupted run.
"""

from examples import conversion
from examples.audio import train

COMMAND = conversion.Command("audio", __doc__, train.OPTIONS, train.add_options, train.prepare)
make_parser, main = COMMAND.make_parser, COMMAND.main

if __name__ == "__main__":
    main()
