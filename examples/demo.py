"""All examples at small size, one table at the end, and a report to open in a browser.

    python -m examples.demo
        twins on digits, spoken words, docstrings and solids, no download
    python -m examples.demo --quick
        the same with as little training as possible, to see that everything runs

`--output` then holds `report.html`, which is self-contained, a picture of each comparison, and a
folder for each example. Run the same command again to continue an interrupted run.
"""

import argparse
import base64
import html
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from examples.audio import train as audio
from examples.command_line import add_output, new_parser, without_traceback
from examples.summary import cells
from examples.text import train as text
from examples.vision import train as vision
from examples.volumes import train as volumes
from sepconv_layers import Comparison, files, tables

EXAMPLES = {"vision": vision, "audio": audio, "text": text, "volumes": volumes}
BUDGET = ("--seeds", "2")
# Volumes are slow, so each net is trained once, at half the width, without XLA.
BUDGETS = {
    "volumes": ("--seeds", "1", "--width", "0.5", "--batch-size", "16", "--no-jit-compile"),
}
QUICK = ("--epochs", "1", "--seeds", "1", "--width", "0.25", "--limit", "96")
# The commands for your own data, for the report.
NEXT = {
    "vision": "python -m examples.vision.train --data FOLDER",
    "audio": "python -m examples.audio.train --data FOLDER",
    "text": "python -m examples.text.train --data FILE",
    "volumes": "python -m examples.volumes.train --data FILE.npz",
}

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Depthwise-separable nets and their standard twins</title>
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ padding: .35rem .6rem; text-align: right; border-bottom: 1px solid #ccc }}
th:first-child, td:first-child {{ text-align: left }}
img {{ max-width: 100% }}
pre {{ background: #f4f4f4; padding: .6rem; overflow-x: auto }}
</style>
<h1>Depthwise-separable nets and their standard twins</h1>
<p>Both nets of a row had the same data, budget and seeds. Ratios are standard ÷ separable: how many
times fewer parameters and multiply-accumulates (MACs) the separable net has, and how many times as
fast it ran on {device}.</p>
{table}
{sections}
</html>
"""
SECTION = """<h2>{title}</h2>
<img alt="Accuracy against MACs, and real against ideal speed-up" src="data:image/png;base64,{png}">
<pre>{text}</pre>
<p>Made by <code>{command}</code>. On your own data:</p>
<pre>{how}</pre>
"""


@without_traceback
def main(argv: Sequence[str] | None = None) -> dict[str, Comparison]:
    arguments = make_parser().parse_args(argv)
    output = Path(arguments.output or "demo")
    found = {}
    for number, (name, example) in enumerate(EXAMPLES.items(), 1):
        print(f"\n== {number} of {len(EXAMPLES)}: {name} ==\n", flush=True)
        budget = QUICK if arguments.quick else BUDGETS.get(name, BUDGET)
        found[name] = example.main([*budget, "--output", str(output / name)])
        picture = partial(shutil.copyfile, output / name / "comparison.png")
        files.write(output / f"{name}.png", picture)
    files.write_text(output / "report.html", report(found, output))
    print(f"\n{tables.text(cells(found.values()))}\n\nOpen {output / 'report.html'}")
    return found


def make_parser() -> argparse.ArgumentParser:
    parser = new_parser("examples.demo", __doc__)
    parser.add_argument("--quick", action="store_true", help="as little training as possible")
    add_output(parser, default="demo")
    return parser


def report(found: Mapping[str, Comparison], output: Path) -> str:
    """Returns an HTML page with everything in it."""
    header, *body = cells(found.values())
    rows = [("th", header), *(("td", row) for row in body)]
    lines = [
        "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"
        for tag, row in rows
    ]
    sections = [
        SECTION.format(
            title=html.escape(f"{one.task}: {one.dataset}"),
            png=base64.b64encode((output / f"{name}.png").read_bytes()).decode(),
            text=html.escape(str(one)),
            command=html.escape(one.command),
            how=html.escape(NEXT[name]),
        )
        for name, one in found.items()
    ]
    return PAGE.format(
        device=html.escape(next(iter(found.values())).device),
        table="<table>\n" + "\n".join(lines) + "\n</table>",
        sections="\n".join(sections),
    )


if __name__ == "__main__":
    main()
