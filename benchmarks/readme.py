"""Puts the tables of committed records into the READMEs.

    python -m benchmarks.readme

A table stands between `<!-- FOLDER OF THE RECORD -->` and `<!-- end -->`.
"""

import re
from pathlib import Path

from sepconv_layers import Comparison

ROOT = Path(__file__).parents[1]
READMES = (ROOT / "README.md", *sorted(ROOT.glob("examples/*/README.md")))


def render(text: str) -> str:
    """The text with each table as its record has it."""

    def table(match: re.Match) -> str:
        markdown = Comparison.load(ROOT / match[1]).to_markdown()
        return f"<!-- {match[1]} -->\n{markdown}\n<!-- end -->"

    return re.sub(r"<!-- (results/\S+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def main() -> None:
    for path in READMES:
        path.write_text(render(path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
