"""Labels and texts from tables as others write them."""

import csv
import io
import json
import re
from collections import Counter

import pytest

from examples.text import tables

ROWS = [
    (label, f"{word} {i}, of {['green', 'small', 'old'][i % 3]} things")
    for i in range(20)
    for label, word in (("ham", "lovely"), ("spam", "awful"))
]
TABLE = [("text", "label"), *((text, label) for label, text in ROWS)]


def dumped(rows, separator, **options):
    """As pandas and Excel write a table."""
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=separator, **options).writerows(rows)
    return file.getvalue()


def json_lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def read(tmp_path, name, content, *arguments):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return tables.columns({"train": path}, *arguments)["train"]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt"])
@pytest.mark.parametrize("separator", [";", ",", "\t", "|"])
def test_the_separator_is_found_out_by_what_fits(tmp_path, name, separator):
    assert read(tmp_path, name, dumped(TABLE, separator)) == ROWS


def test_commas_in_free_text_do_not_mislead(tmp_path):
    bare = [f"{label};{text}\n" for label, text in ROWS]  # each with one comma
    assert read(tmp_path, "a.csv", "".join(bare)) == ROWS
    assert read(tmp_path, "b.csv", "label;text\n" + "".join(bare)) == ROWS
    other = [(label, text.replace(",", ";")) for label, text in ROWS]
    blanks = "".join(f"{label}, {text}\n" for label, text in other)
    assert read(tmp_path, "c.csv", blanks) == other
    # A line that is damaged is named, and does not make a comma of a tab.
    with pytest.raises(ValueError, match=r"line 41: there must be 2 columns.*`separator`"):
        read(tmp_path, "d.tsv", dumped([row[::-1] for row in TABLE[1:]], "\t") + "so, bad\n")


def test_the_separator_may_be_given(tmp_path):
    text = "".join(f"{label}^{text}\n" for label, text in ROWS)
    assert read(tmp_path, "a.csv", text, (None, None), "^") == ROWS
    for tab in ("tab", "\\t", "\t"):
        assert read(tmp_path, "b.csv", dumped(TABLE, "\t"), (None, None), tab) == ROWS
    assert read(tmp_path, "c.csv", "sep=^\r\n" + text) == ROWS  # as Excel has it
    for wrong in ("::", "", "\n", '"'):
        with pytest.raises(ValueError, match="`separator` must be one character"):
            read(tmp_path, "a.csv", text, (None, None), wrong)


def test_columns_that_are_named_or_numbered_decide_the_separator(tmp_path):
    rows = [("1", label, text) for label, text in ROWS]
    assert read(tmp_path, "a.csv", dumped(rows, ";"), ("3", "2")) == ROWS
    named = [("no", "topic, all", "body"), *rows]
    assert read(tmp_path, "b.csv", dumped(named, ";"), ("body", "topic, all")) == ROWS


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_encodings_and_ends_of_lines(tmp_path, encoding, line_end):
    table = [*TABLE, ("schöne Grüße, 日本", "ham")]
    content = dumped(table, ";", lineterminator=line_end).encode(encoding)
    assert read(tmp_path, "a.csv", content) == [*ROWS, ("ham", "schöne Grüße, 日本")]


def test_quotes_in_tables_with_tabs_mean_something_where_lines_fall_apart_without_them(tmp_path):
    text = 'She said "so\t\tand so",\nand went'
    assert read(tmp_path, "a.tsv", dumped([*TABLE, (text, "ham")], "\t")) == [*ROWS, ("ham", text)]
    raw = [(label, f'"{text} and') for label, text in ROWS]
    content = "".join(f"{label}\t{text}\n" for label, text in raw)
    assert read(tmp_path, "b.tsv", content) == raw


@pytest.mark.parametrize("separator", [",", ";"])
@pytest.mark.parametrize("left", [0, 3, len(ROWS)])
def test_a_quote_that_is_not_closed_is_reported_at_its_own_line(tmp_path, separator, left):
    lines = dumped(TABLE, separator).splitlines(keepends=True)
    lines.insert(1 + left, f'"open{separator}ham\r\n')
    with pytest.raises(ValueError, match=f"a.csv, line {2 + left}: it is not CSV .*doubled"):
        read(tmp_path, "a.csv", "".join(lines))


def test_errors_count_lines_of_the_file_not_rows(tmp_path):
    content = 'text,label\n"two\nlines",ham\n\nshort\n' + dumped(TABLE[1:], ",")
    with pytest.raises(ValueError, match="a.csv, line 5: there must be 2 columns"):
        read(tmp_path, "a.csv", content)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", dumped([*TABLE, ("", "ham"), ("so", ""), (" ", "ham")], ",")),
        ("a.tsv", dumped([*TABLE, ("", "ham"), ("so", " "), (" ", "ham")], "\t")),
        (
            "a.jsonl",
            json_lines({"text": text, "label": label} for label, text in ROWS)
            + '{"text": null, "label": 1}\n{"text": "so", "label": NaN}\n'
            + '{"text": "so", "label": []}\n',
        ),
    ],
)
def test_rows_that_lack_something_are_skipped_and_counted(tmp_path, name, content):
    first = 41 if name.endswith("l") else 42
    lines = f"lines {first}, {first + 1}, {first + 2}"
    with pytest.warns(UserWarning, match=rf"Skipped 3 rows of .*{name} .*{lines}\."):
        assert read(tmp_path, name, content) == ROWS


def test_a_table_of_nothing_but_rows_that_lack_something_is_an_error(tmp_path):
    with (
        pytest.warns(UserWarning, match=r"Skipped 9 rows.*lines 2, 3, 4, 5, 6, …\."),
        pytest.raises(ValueError, match=r"a.csv must hold rows with label and text.* 9 rows"),
    ):
        read(tmp_path, "a.csv", "text,label\n" + ",ham\n" * 9)


@pytest.mark.parametrize("first", ["message,spam", "Message,Spam", "Review,ham", "spam,body"])
def test_a_label_may_name_its_column(tmp_path, capsys, first):
    is_swapped = first == "spam,body"
    table = [first.split(","), *(row if is_swapped else row[::-1] for row in ROWS)]
    assert read(tmp_path, "a.csv", dumped(table, ",")) == ROWS
    assert "is read as a header" in capsys.readouterr().out
    # It stays a text among texts that are as short.
    short = [("message", "spam"), *((f"word{i}", label) for i, (label, _) in enumerate(ROWS))]
    assert len(read(tmp_path, "b.csv", dumped(short, ","))) == 41


def test_of_json_only_the_keys_in_use_are_required(tmp_path):
    records = [{"text": text, "label": label} for label, text in ROWS]
    records[0]["id"] = 7
    records[5] = {"more": [1, {}], **records[5]}
    assert read(tmp_path, "a.jsonl", json_lines(records)) == ROWS
    del records[9]["label"]
    with pytest.raises(ValueError, match=r"line 10: .*keys \['label', 'text'\].*\['label'\]"):
        read(tmp_path, "a.jsonl", json_lines(records))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ((["a"], ["b"]), {"a": 20, "b": 20}),
        ((["a"], "b"), {"a": 20, "b": 20}),
        ((1, 0.0), {"1": 20, "0": 20}),
        ((True, False), {"True": 20, "False": 20}),
        ((1.5, "x"), {"1.5": 20, "x": 20}),
    ],
)
def test_labels_of_json(tmp_path, labels, expected):
    records = [{"text": text, "label": labels[label == "spam"]} for label, text in ROWS]
    rows = read(tmp_path, "a.jsonl", json_lines(records))
    assert Counter(label for label, _ in rows) == expected


@pytest.mark.parametrize("label", [["a", "b"], {"a": 1}, [["a", "b"]]])
def test_labels_that_are_several_are_an_error(tmp_path, label):
    records = [{"text": text, "label": label} for _, text in ROWS]
    with pytest.raises(ValueError, match="line 1: the label must be a string, a number"):
        read(tmp_path, "a.jsonl", json_lines(records))


def test_texts_of_json_may_be_tokens(tmp_path):
    records = [{"text": text.split(), "label": label} for label, text in ROWS]
    assert read(tmp_path, "a.jsonl", json_lines(records)) == ROWS


def test_a_field_may_be_huge(tmp_path):
    content = dumped([*TABLE, ("long " * 100_000, "ham")], ",")
    assert len(read(tmp_path, "a.csv", content)[-1][1]) == 499_999


def test_what_is_no_text_is_named(tmp_path):
    for name, content in (("a.csv", b"PK\3\4\xf0\xff" * 50), ("a.tsv", b"\x1f\x8b\xff" * 9)):
        with pytest.raises(ValueError, match=re.escape(name)):
            read(tmp_path, name, content)


def test_a_first_line_tells_separators_from_what_is_in_all_texts(tmp_path):
    header = ("id", "date", "category", "review", "source")
    rows = [(i, "1 May, noon", label, text, "x;y") for i, (label, text) in enumerate(ROWS)]
    for separator in ",;\t|":
        assert read(tmp_path, "a.csv", dumped([header, *rows], separator)) == ROWS


def test_a_column_of_one_value_is_no_label(tmp_path):
    rows = [(text.replace(",", ""), f"{1 + (label == 'ham')},5") for label, text in ROWS]
    content = "".join(f"{text};{label}\n" for text, label in rows)  # as in half of Europe
    assert read(tmp_path, "a.csv", content) == [row[::-1] for row in rows]


def test_quotes_may_follow_blanks(tmp_path):
    content = "".join(f'{label},  "{text}"\n' for label, text in ROWS)
    assert read(tmp_path, "a.csv", content) == ROWS
    said = [(label, f'She said "so" {text.replace(",", "")}') for label, text in ROWS]
    content = "".join(f"{label},{text}\n" for label, text in said)
    assert read(tmp_path, "b.csv", content) == said
    last = [(label, f'He said, "{text.replace(",", "")}"') for label, text in ROWS]
    content = "".join(f"{label}|{text}\n" for label, text in last)
    assert read(tmp_path, "c.csv", content) == last


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("".join(f"{text}\n" for _, text in ROWS).replace(",", ""), "use --separator"),
        ("".join(f"{label}^{text}\n" for label, text in ROWS).replace(",", ""), "use --separator"),
        (dumped([("snippet", "y"), *((t, int(k == "ham")) for k, t in ROWS)], ";"), "--text-colu"),
        (dumped([("v1", "v2", "", ""), *((k, t, "", "") for k, t in ROWS)], ","), "--text-column"),
        (dumped([*TABLE, ("so", "ham", "so")], ","), "line 42: there must be 2 columns"),
    ],
)
def test_commands_name_their_options(tmp_path, capsys, content, message):
    text = pytest.importorskip("examples.text.train")
    (tmp_path / "a.csv").write_text(content, "utf-8")
    with pytest.raises(SystemExit, match="2"):
        text.main(["--data", str(tmp_path / "a.csv")])
    error = capsys.readouterr().err
    assert message in error and "`" not in error
