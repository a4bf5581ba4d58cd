"""What the READMEs say: every snippet runs, every command is one, every table is a record's."""

import itertools
import json
import re
import shlex
import tomllib

import pytest
from PIL import Image

from benchmarks import (
    batch_norm_momentum,
    compile_time,
    examples,
    harness,
    layers,
    lowerings,
    nets,
    readme,
    scaling,
    streaming,
)
from examples import demo
from examples.audio import convert as audio_convert
from examples.audio import detection, listen
from examples.audio import predict as audio_predict
from examples.audio import train as audio
from examples.text import baseline as text_baseline
from examples.text import convert as text_convert
from examples.text import predict as text_predict
from examples.text import train as text
from examples.vision import convert as vision_convert
from examples.vision import predict, train
from examples.volumes import train as volumes
from sepconv_layers import cli
from tests.snippets import blocks, links, run_all

TEXTS = {
    path.relative_to(readme.ROOT).as_posix(): path.read_text("utf-8") for path in readme.READMES
}
PARSERS = {
    "examples.demo": demo.make_parser(),
    "examples.audio.convert": audio_convert.make_parser(),
    "examples.audio.detection": detection.make_parser(),
    "examples.audio.listen": listen.make_parser(),
    "examples.audio.predict": audio_predict.make_parser(),
    "examples.audio.train": audio.make_parser(),
    "examples.text.baseline": text_baseline.make_parser(),
    "examples.text.convert": text_convert.make_parser(),
    "examples.text.predict": text_predict.make_parser(),
    "examples.text.train": text.make_parser(),
    "examples.vision.convert": vision_convert.make_parser(),
    "examples.vision.predict": predict.make_parser(),
    "examples.vision.train": train.make_parser(),
    "examples.volumes.train": volumes.make_parser(),
    "benchmarks.batch_norm_momentum": batch_norm_momentum.make_parser(),
    "benchmarks.streaming": streaming.make_parser(),
    **{
        f"benchmarks.{benchmark.NAME}": harness.make_parser(benchmark)
        for benchmark in (compile_time, examples, layers, lowerings, nets, scaling)
    },
}
MAKEFILE = (readme.ROOT / "Makefile").read_text("utf-8")
PROJECT = tomllib.loads((readme.ROOT / "pyproject.toml").read_text("utf-8"))["project"]
VARIABLE = re.compile(r"[A-Z_]+=")
COMMANDS = sorted(
    {line for page in TEXTS.values() for block in blocks(page, "sh") for line in block.splitlines()}
)


def test_every_snippet_runs(tmp_path):
    run_all(TEXTS["README.md"], tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one(command):
    words = shlex.split(command.removeprefix("export ").removesuffix(" &"))
    words = list(itertools.dropwhile(VARIABLE.match, words))
    if not words:  # it sets variables for the lines after it
        return
    program, *arguments = words
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", MAKEFILE, re.MULTILINE)
    elif program == "pip":
        package, _, extras = arguments[-1].rstrip("]").partition("[")
        assert arguments[0] == "install" and package in (".", PROJECT["name"])
        assert set(filter(None, extras.split(","))) <= set(PROJECT["optional-dependencies"])
    elif program in PROJECT["scripts"]:
        cli.make_parser().parse_args(arguments)
    else:
        assert (program, arguments[0]) == ("python", "-m")
        PARSERS[arguments[1]].parse_args(arguments[2:])  # what they do, their own tests hold


def test_the_accuracies_of_linear_models_are_those_of_the_records():
    page = TEXTS["examples/text/README.md"]
    records = sorted(readme.ROOT.glob("results/text/*/baseline.json"))
    assert len(records) == 3
    for path in records:
        found = json.loads(path.read_text("utf-8"))
        assert f" | {found['features']:,} | {found['accuracy']:.4f} |" in page
        assert found["command"] in page


@pytest.mark.parametrize("name", TEXTS)
def test_tables_are_those_of_the_records(name):
    assert readme.render(TEXTS[name]) == TEXTS[name], "run `make readme`"


@pytest.mark.parametrize("path", readme.RECORDS, ids=lambda path: path.stem)
def test_pictures_are_those_of_the_records(path):
    with Image.open(path.with_suffix(".png")) as picture:
        assert picture.text[harness.SOURCE] == harness.digest(path), "run `make readme`"


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name):
    folder = (readme.ROOT / name).parent
    for target in links(TEXTS[name]):
        assert (folder / target).exists(), target
