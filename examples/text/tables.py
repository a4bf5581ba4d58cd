"""Labels and texts from tables: CSV, tab-separated, or a JSON object on each line.

The separator, the use of quotes and whether the first line is a header are detected.
"""

import csv
import io
import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from examples.sources import PACKED, expect, read_file

TEXT_COLUMNS = ("text", "sentence", "review", "content", "document", "question", "title")
TEXT_COLUMNS += ("message", "body", "comment", "tweet", "sms", "utterance")
LABEL_COLUMNS = ("label", "class", "category", "sentiment", "target", "topic")
SUFFIXES = (".tsv", ".txt", ".csv", ".jsonl", ".ndjson")
SEPARATORS = (",", ";", "\t", "|")
BEST_FIT = (True, 0.9, True, True, True)  # see `_fit`; up to a tenth of the lines may be damaged
PLAIN = "plain"  # quotes are ordinary characters
QUOTED, QUOTED_AFTER_BLANKS = "quoted", "quoted after blanks"
SEPARATOR_LINE = re.compile(r"sep=([^\r\n])\r?\n")  # Excel's first line
HALF_PAIR = re.compile(r"[\ud800-\udfff]")  # JSON may write an emoji as two such characters
NAMED = 5  # skipped lines in a message
PROSE = 3  # words in a typical text; the name of a column has fewer

Fields = list[str] | dict[str, Any]
Line = tuple[int, Fields]  # its number, starting from 1, and its fields
Rows = list[tuple[str, str]]  # label and text
Columns = tuple[str | None, str | None]  # of text and label: names, or numbers starting from 1


def columns(
    files: dict[str, Path], names: Columns = (None, None), separator: str | None = None
) -> dict[str, Rows]:
    """Reads label and text of each line of each part, and skips lines that lack one of them.

    Args:
        files: The file of each part.
        names: The columns of text and label, if given: names, or numbers starting from 1.
        separator: The separator, if given.

    Returns:
        The rows of each part.

    Raises:
        ValueError: If a file is not a table with a text and a label.
    """
    if separator is not None:
        separator = {"tab": "\t", "\\t": "\t"}.get(separator, separator)
        is_one = len(separator) == 1 and separator not in '"\r\n'
        expect(is_one, "`separator` must be one character, or tab", repr(separator))
    tables = {part: _table(path, names, separator) for part, path in files.items()}
    below = [fields for header, lines in tables.values() if not header for _, fields in lines[1:]]
    rows: dict[str, Rows] = {}
    numbers = {}  # of first lines that were not recognized as a header
    for part, path in files.items():
        header, lines = tables[part]
        if header is None and _is_header(path, lines[0][1], below, names):
            header, lines = [field.strip() for field in lines[0][1]], lines[1:]
            expect(bool(lines), f"{path} must hold texts below its header", "none")
        elif header is None:
            numbers[part] = lines[0][0]
        at_text, at_label = _column_indices(path, header, lines, names)
        found = _rows(path, header, lines, at_text, at_label)
        if part in numbers and found and found[0][0] != numbers[part]:
            del numbers[part]  # the first line was skipped
        rows[part] = [row for _, row in found]
    _expect_no_header(files, rows, numbers)
    return rows


def suffix_of(path: Path) -> str:
    """Returns the ending of a name in lower case, without .gz or .xz."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def decoded(path: Path) -> str:
    """Returns the text of a file in UTF-8, or in UTF-16 as Windows writes it."""
    content = read_file(path)
    encoding, start = "utf-8-sig", content[:200]
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif len(start) > 3 and not any(start[1::2]):
        encoding = "utf-16-le"
    elif len(start) > 3 and not any(start[::2]):
        encoding = "utf-16-be"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        bad = content[error.start : error.end]
        raise ValueError(
            f"{path}, line {number}: the text must be in UTF-8. Received the bytes {bad!r}. "
            "Save the file as UTF-8."
        ) from error
    return text if "\n" in text else text.replace("\r", "\n")  # line ends of old Macs


def _table(
    path: Path, names: Columns, separator: str | None
) -> tuple[list[str] | None, list[Line]]:
    """Returns the names of the columns, if it is a JSON file, and the lines that are not blank."""
    suffix = suffix_of(path)
    expect(suffix in SUFFIXES, f"{path} must end in one of {', '.join(SUFFIXES)}", path.name)
    text = decoded(path)
    if suffix in (".jsonl", ".ndjson"):
        header, lines = _json_lines(path, text)
    else:
        header, lines = None, delimited(path, text, names, separator)
    expect(bool(lines), f"{path} must hold texts", "nothing")
    return header, lines


# Separators and quotes


def delimited(
    path: Path, text: str, names: Columns = (None, None), separator: str | None = None
) -> list[Line]:
    """Returns the lines that are not blank, split by the separator that fits best."""
    first = 1
    if match := SEPARATOR_LINE.match(text):
        separator, first, text = separator or match[1], 2, text[match.end() :]
    is_csv = suffix_of(path) == ".csv"
    by_name = "," if is_csv else "\t"
    best: tuple = ()
    # The first of several that fit equally well: what the name of the file suggests.
    for one in [separator] if separator else dict.fromkeys((by_name, *SEPARATORS)):
        # In tab-separated files quotes are ordinary characters, unless lines fall apart that way.
        styles: tuple[str, ...] = (QUOTED,)
        if not is_csv and one in (separator, by_name):
            styles = (PLAIN, QUOTED)
        elif re.search(re.escape(one) + ' +"', text):
            styles = (QUOTED_AFTER_BLANKS, QUOTED)
        ways = [(*_parsed(text, first, one, style), style) for style in styles]
        lines, error, style = max(ways, key=lambda way: _share(*way[:2]))
        fit = _fit(lines, error, names, style != QUOTED_AFTER_BLANKS)
        if fit > best:
            best, found = fit, (lines, error)
        if best == BEST_FIT:
            break
    lines, error = found
    if error:
        number, wrong = error
        fix = "A quote inside quotes is doubled."
        raise ValueError(f"{path}, line {number}: it is not CSV ({wrong}). {fix}")
    return lines


def _parsed(
    text: str, first: int, separator: str, style: str
) -> tuple[list[Line], tuple[int, str] | None]:
    """Returns the lines before the first bad one, and the number and error of that one."""
    if style == PLAIN:
        plain = ((i, line.rstrip("\r")) for i, line in enumerate(text.split("\n"), first))
        return [(i, line.split(separator)) for i, line in plain if line.strip()], None
    csv.field_size_limit(2**31 - 1)
    file, skips = io.StringIO(text, newline=""), style == QUOTED_AFTER_BLANKS
    reader = csv.reader(file, delimiter=separator, strict=True, skipinitialspace=skips)
    lines: list[Line] = []
    start = first
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                lines.append((start, fields))
            start = first + reader.line_num
    except csv.Error as error:
        wrong = "a quote is not closed" if "unexpected end" in str(error) else str(error)
        return lines, (start, wrong)
    return lines, None


def _share(lines: list[Line], error: tuple[int, str] | None) -> float:
    """Returns the share of lines with the most frequent number of columns, if that is over one."""
    widths = Counter(len(fields) for _, fields in lines)
    ((width, count),) = widths.most_common(1) or [(0, 0)]
    return count / (len(lines) + bool(error)) if width > 1 else 0.0


def _fit(
    lines: list[Line], error: tuple[int, str] | None, names: Columns, with_blanks: bool
) -> tuple[bool, float, bool, bool, bool]:
    """Returns how well a separator fits. Better fits compare as larger.

    Args:
        lines: The lines, split.
        error: The error of the first bad line.
        names: The columns that the user named.
        with_blanks: Whether blanks after separators were kept.

    Returns:
        Whether the named columns exist, the share of lines with the same number of columns, whether
        the first line is one of them, whether some column repeats values, as labels do, and whether
        some columns do not begin with a blank, as text after a comma in a sentence would.
    """
    share = _share(lines, error)
    if not share:
        return False, 0.0, False, False, False
    width = Counter(len(fields) for _, fields in lines).most_common(1)[0][0]
    header = {field.strip() for field in lines[0][1]}
    given = [name for name in names if name is not None]
    named = all(name in header or (name.isdecimal() and int(name) <= width) for name in given)
    same = list(zip(*(fields for _, fields in lines if len(fields) == width), strict=True))
    repeats = any(1 < len(set(column)) <= len(column) / 2 for column in same)
    tidy = with_blanks and not all(
        field.startswith(" ") for column in same[1:] for field in column if field
    )
    return named, min(share, BEST_FIT[1]), len(lines[0][1]) == width, repeats, tidy


# JSON


def _json_lines(path: Path, text: str) -> tuple[list[str], list[Line]]:
    header: dict[str, None] = {}
    lines: list[Line] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:  # also for very long or deeply nested JSON
            raise ValueError(
                f"{path}, line {number}: it cannot be read as JSON ({error}). Correct or remove it."
            ) from error
        expected = f"{path}, line {number}: there must be a JSON object"
        expect(isinstance(record, dict), expected, type(record).__name__)
        header |= dict.fromkeys(record)
        lines.append((number, record))
    return list(header), lines


def _string(value: Any, place: str, what: str) -> str:
    """Returns a JSON value as a field, empty if it is missing."""
    if isinstance(value, list) and len(value) == 1:  # multi-label data with one label
        return _string(value[0], place, what)
    if value == [] or value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list) and what == "text" and all(isinstance(item, str) for item in value):
        return " ".join(value)  # tokens
    expected = f"{place}: the {what} must be a string, a number, true or false"
    expect(not isinstance(value, list | dict), expected, type(value).__name__)
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


# Columns


def _rows(
    path: Path, header: list[str] | None, lines: list[Line], at_text: int, at_label: int
) -> list[tuple[int, tuple[str, str]]]:
    """Returns number, label and text of the lines that have both, and warns about the others."""
    rows, skipped = [], []
    for number, fields in lines:
        place = f"{path}, line {number}"
        if isinstance(fields, dict):
            used = {"label": header[at_label], "text": header[at_text]}
            missing = [key for key in used.values() if key not in fields]
            expected = f"{place}: there must be the keys {list(used.values())}"
            expect(not missing, expected, f"none of {missing}")
            label, text = (_string(fields[key], place, what) for what, key in used.items())
        else:
            width = len(header or lines[0][1])
            fix = "If another character separates the columns, use `separator`."
            expected = f"{place}: there must be {width} columns"
            expect(len(fields) == width, expected, len(fields), fix)
            label, text = fields[at_label], fields[at_text]
        # Without line breaks: an exported model has its labels in a file, one on each line.
        label, text = " ".join(label.split()), text.strip()
        if not (label and text):
            skipped.append(str(number))
            continue
        half = HALF_PAIR.search(label + text)
        expected = f"{place}: label and text must consist of whole characters"
        fix = "Remove it, or write both halves."
        expect(half is None, expected, f"half a surrogate pair, {half and half[0]!a}", fix)
        rows.append((number, (label, text)))
    if skipped:
        some, s = ", ".join(skipped[:NAMED]) + ", …" * (len(skipped) > NAMED), len(skipped) > 1
        message = f"Skipped {len(skipped)} row{'s' * s} of {path} without a label or a text: "
        message += f"line{'s' * s} {some}."
        warnings.warn(message, stacklevel=5)
    expected = f"{path} must hold rows with label and text"
    expect(bool(rows), expected, f"{len(skipped)} rows that lack one of them")
    return rows


def _is_header(path: Path, first: list[str], below: Iterable[list[str]], names: Columns) -> bool:
    """Returns whether a first line is a header, judging by the lines below it in all parts."""
    found = [field.strip().lower() for field in first]
    is_named = any(name is not None and not name.isdecimal() for name in names)
    is_usual = [not set(usual).isdisjoint(found) for usual in (TEXT_COLUMNS, LABEL_COLUMNS)]
    if is_named or all(is_usual):
        return True
    # A single common name may be a label or a text, but then it, or the label beside it, recurs.
    again = [
        any(len(fields) > i and fields[i].strip().lower() == name for fields in below)
        for i, name in enumerate(found)
    ]
    if any(is_usual) and not any(again):
        return True
    # A column may be named after one of its labels: "message, spam".
    is_alike = len({_style(field) for field in first}) == 1
    for i, name in enumerate(found):
        if name in TEXT_COLUMNS and not again[i] and (is_alike or suffix_of(path) == ".csv"):
            words = [len(fields[i].split()) for fields in below if len(fields) > i]
            if words and np.median(words) >= PROSE:
                print(f"{path}: the first line, {', '.join(first)}, is read as a header.")
                return True
    return False


def _style(name: str) -> str:
    name = name.strip()
    return "lower" if name.islower() else "upper" if name.isupper() else "title"


def _expect_no_header(
    files: dict[str, Path], rows: dict[str, Rows], numbers: dict[str, int]
) -> None:
    """Refuses a first line with a label that no other line has: it may be a header."""
    below = {part: found[1:] if part in numbers else found for part, found in rows.items()}
    others = Counter(label for found in below.values() for label, _ in found)
    for part, number in numbers.items():
        label, _ = rows[part][0]
        expect(
            label in others or max(others.values(), default=0) < 2,
            f"{files[part]}, line {number}: the label must occur on other lines too",
            repr(label),
            "If the line is a header, pass its names as --text-column and --label-column. "
            "Otherwise add texts with this label, or remove the line.",
        )


def _column_indices(
    path: Path, header: list[str] | None, lines: list[Line], names: Columns
) -> tuple[int, int]:
    """Returns the indices of the columns with the text and the label."""
    width = len(lines[0][1]) if header is None else len(header)
    given = dict(zip(("text_column", "label_column"), names, strict=True))
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
            fix = "If another character separates the columns, use `separator`." * (width < 2)
            expect(is_number, f"{path}: `{argument}` must be {columns}", repr(column), fix)
            places[argument] = int(column) - 1
    if width == 2 and not any(place is not None for place in places.values()):
        counts = [len(_different(header, lines, i)) for i in (0, 1)]
        places["label_column"] = int(np.argmin(counts))  # labels repeat, texts rarely do
    if width == 2:
        for argument, other in (("text_column", "label_column"), ("label_column", "text_column")):
            if places[argument] is None:
                places[argument] = 1 - places[other]
    columns = header if header is not None else f"columns without names, such as {lines[0][1]}"
    for argument, place in places.items():
        fix = f"Use `{argument}`" + (", a name." if header else f", a number from 1 to {width}.")
        if width < 2:
            fix = "If another character separates the columns, use `separator`."
        kind = argument.removesuffix("_column")
        expect(place is not None, f"{path} must have a column for the {kind}", columns, fix)
    expected = f"{path}: text and label must be two columns"
    expect(places["text_column"] != places["label_column"], expected, columns)
    return places["text_column"], places["label_column"]


def _different(header: list[str] | None, lines: list[Line], place: int) -> set[str]:
    """Returns the distinct values of a column."""
    if header and isinstance(lines[0][1], dict):
        return {repr(fields.get(header[place])) for _, fields in lines}
    return {fields[place] for _, fields in lines if len(fields) > place}
