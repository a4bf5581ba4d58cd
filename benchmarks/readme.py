"""Regenerates the tables of the READMEs and guides, and the pictures of the benchmarks.

    python -m benchmarks.readme

A table stands between `<!-- results/RECORD -->` and `<!-- end -->`, where RECORD is the folder of a
comparison, or the file of a frontier, of a conversion or of a benchmark. `<!-- results/* -->` is a
table of all comparisons, `<!-- results/{FOLDER,...} -->` a short table of the listed ones, and
`<!-- results/*/frontier.json -->` a table of all frontiers.
"""

import importlib
import json
import re
from pathlib import Path
from types import ModuleType

from benchmarks import harness
from examples import conversion
from examples.summary import SHORT, margins
from examples.summary import table as summary
from sepconv_layers import Comparison, Frontier

ROOT = Path(__file__).parents[1]
READMES = (
    ROOT / "README.md",
    *sorted(ROOT.glob("examples/*/README.md")),
    ROOT / "docs" / "guides" / "results.md",
)
EVERY = "results/*"
FRONTIER, CONVERSION = "frontier.json", "conversion.json"
LISTED = re.compile(r"results/\{(.*)\}")
RECORDS = sorted(ROOT.glob("results/*-*.json"))  # those of benchmarks


def render(text: str) -> str:
    """Returns the text with every table generated from its record."""

    def table(match: re.Match) -> str:
        path = ROOT / match[1]
        if match[1] == EVERY:
            paths = sorted(ROOT.glob(f"{EVERY}/*/results.json"))
            markdown = summary(map(Comparison.load, paths))
        elif match[1] == f"{EVERY}/{FRONTIER}":
            markdown = margins(map(Frontier.load, sorted(ROOT.glob(f"{EVERY}/*/{FRONTIER}"))))
        elif listed := LISTED.fullmatch(match[1]):
            paths = [ROOT / "results" / name for name in listed[1].split(",")]
            markdown = summary(map(Comparison.load, paths), SHORT)
        elif path.name == FRONTIER:
            markdown = Frontier.load(path).to_markdown()
        elif path.name == CONVERSION:
            markdown = conversion.markdown(json.loads(path.read_text("utf-8")))
        elif path.is_dir():
            markdown = Comparison.load(path).to_markdown()
        else:
            markdown = benchmark_of(path).table(json.loads(path.read_text("utf-8"))["rows"])
        return f"<!-- {match[1]} -->\n{markdown}\n<!-- end -->"

    return re.sub(r"<!-- (results/\S+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def benchmark_of(path: Path) -> ModuleType:
    """The module of the benchmark that wrote a record."""
    name = json.loads(path.read_text("utf-8"))["benchmark"]
    return importlib.import_module(f"benchmarks.{name}")


def main() -> None:
    for path in RECORDS:
        harness.save_picture(benchmark_of(path), path)
    for path in READMES:
        path.write_text(render(path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
