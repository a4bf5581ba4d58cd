"""The documentation: its snippets run, its reference is whole, its pictures are of these blocks."""

import importlib
import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest

import sepconv_layers as sl
from tests.backends import BACKEND
from tests.snippets import blocks, links, run_all

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TEXTS = {
    path.relative_to(DOCS).as_posix(): path.read_text("utf-8")
    for path in sorted(DOCS.rglob("*.md"))
}
# Modules with an `__all__`.
LISTED = [sl, sl.comparison, sl.convert, sl.cost, sl.export, sl.files, sl.models, sl.ops]
LISTED += [sl.quantize, sl.streaming, sl.tables, sl.timing]
DRAWING = runpy.run_path(str(DOCS / "draw_blocks.py"))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the exports need TensorFlow")
@pytest.mark.parametrize("name", [name for name, text in TEXTS.items() if blocks(text, "python")])
def test_every_snippet_runs(name, tmp_path):
    run_all(TEXTS[name], tmp_path)


def resolve(identifier):
    """The object of a dotted name."""
    names = identifier.split(".")
    for length in range(len(names), 0, -1):
        try:
            found = importlib.import_module(".".join(names[:length]))
        except ImportError:
            continue
        for name in names[length:]:
            found = getattr(found, name)
        return found
    raise LookupError(identifier)


IDENTIFIERS = [
    identifier for text in TEXTS.values() for identifier in re.findall(r"(?m)^::: (\S+)$", text)
]


def public():
    """Each public name with what it stands for."""
    for module in LISTED:
        yield from ((f"{module.__name__}.{name}", getattr(module, name)) for name in module.__all__)


def test_the_reference_has_every_public_name():
    there = {id(resolve(identifier)) for identifier in IDENTIFIERS}
    missing = [name for name, value in public() if id(value) not in there]
    assert not missing, f"add `::: {missing[0]}` to a page in docs/reference"


def test_the_reference_has_nothing_twice():
    assert len(set(IDENTIFIERS)) == len(IDENTIFIERS)


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name):
    for target in links(TEXTS[name]):
        assert (DOCS / name).parent.joinpath(target).exists(), target


def texts_of(picture):
    return [element.text for element in ElementTree.parse(picture).iter() if element.text]


@pytest.mark.parametrize("name", DRAWING["PICTURES"])
def test_pictures_are_of_the_blocks_as_they_are(name, tmp_path):
    for path in (tmp_path / "one.svg", tmp_path / "two.svg"):
        DRAWING["save"](name, path)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    # The rest may differ from one version of matplotlib to the next.
    expected = [text.strip() for text in texts_of(tmp_path / "one.svg")]
    found = [text.strip() for text in texts_of(DOCS / "blocks" / f"{name}.svg")]
    assert found == expected, "run `make docs`"
