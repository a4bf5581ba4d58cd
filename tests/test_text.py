"""The text example: its data, its tokens, and its commands from strings to labels."""

import json
import lzma
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow_text")  # has no wheels for the newest Python

import tensorflow as tf

from examples.text import data, predict, tokens, train
from sepconv_layers.comparison import timing

ROWS = [
    (label, f"{word} {i} of {['green', 'small', 'old'][i % 3]} things")
    for i in range(20)
    for label, word in (("good", "lovely"), ("bad", "awful"))
]


@pytest.fixture(autouse=True)
def _brief_timing(monkeypatch):
    """How times are measured is not the matter here."""
    backend = keras.backend.backend()
    monkeypatch.setitem(timing.MODES, backend, dict(list(timing.MODES[backend].items())[:1]))
    monkeypatch.setattr(timing, "SECONDS_PER_CALL", 0.01)
    monkeypatch.setattr(timing, "SECONDS_PER_TURN", 0.001)


def tsv(rows):
    return "".join(f"{label}\t{text}\n" for label, text in rows)


def csv(rows):
    return "id,Text,Label\n" + "".join(
        f'{i},"{text}",{label}\n' for i, (label, text) in enumerate(rows)
    )


def jsonl(rows):
    return "".join(json.dumps({"sentence": text, "label": label}) + "\n" for label, text in rows)


def rows_of(dataset):
    """All labels and texts, whatever the part."""
    return {
        (dataset.classes[label], text)
        for part in (dataset.train, dataset.val, dataset.test)
        for text, label in zip(*part, strict=True)
    }


def test_docstrings_are_masked_and_no_text_is_in_two_parts(monkeypatch):
    made = data.SOURCES["docstrings"]()
    monkeypatch.setitem(data.SOURCES, "docstrings", lambda: made)  # it takes seconds
    dataset = data.load("docstrings")
    assert dataset.classes == data.PACKAGES
    texts = [list(part[0]) for part in (dataset.train, dataset.val, dataset.test)]
    assert sum(map(len, texts)) == len(set().union(*texts)) > 1000
    assert not any(data.NAMES.search(text) for part in texts for text in part)
    assert all(np.bincount(part[1]).min() > 0 for part in (dataset.train, dataset.test))
    again = data.load("docstrings", limit=100)
    np.testing.assert_array_equal(again.test[0], dataset.test[0])
    assert len(again.train[1]) == 100 and set(again.train[0]) < set(dataset.train[0])


@pytest.mark.parametrize(
    ("docstring", "masked"),
    [
        ("Like `np.sum(x)` of NumPy.\n\nArgs:\n    x: Numbers.", "Like code of package."),
        ("Sums up.\n\n>>> total([1])", "Sums up."),
        ("A_b of TensorFlow's tf.data for\ntwo axes.", "code of package code for two axes."),
        ("", ""),
    ],
)
def test_code_and_names_are_masked(docstring, masked):
    assert data.masked(docstring) == masked


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.tsv", tsv), ("a.txt", tsv), ("a.csv", csv), ("a.jsonl", jsonl), ("a.tsv.xz", tsv)],
)
def test_own_texts_of_any_form(tmp_path, name, write):
    path = tmp_path / name
    content = write(ROWS).encode()
    path.write_bytes(lzma.compress(content) if name.endswith("xz") else content)
    dataset = data.load(file=path)
    assert dataset.classes == ("bad", "good") and rows_of(dataset) == set(ROWS)
    assert [np.bincount(part[1]).tolist() for part in (dataset.val, dataset.test)] == [
        [2, 2], [4, 4]
    ]  # fmt: skip


def test_own_texts_that_are_split(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    for name, rows in (("train", ROWS[:30]), ("dev", ROWS[30:34]), ("test", ROWS[34:])):
        (folder / f"{name}.csv").write_text(csv(rows), "utf-8")
    dataset = data.load(file=folder)
    assert dataset.name == "own" and len(dataset.train[1]) == 30
    assert set(dataset.test[0]) == {text for _, text in ROWS[34:]}


def test_columns_by_name_and_by_number(tmp_path):
    path = tmp_path / "own.tsv"
    lines = [f"{i}\t{text}\tx\t{label}" for i, (label, text) in enumerate(ROWS)]
    path.write_text("\n".join(lines), "utf-8")
    assert rows_of(data.load(file=path, text_column="2", label_column="4")) == set(ROWS)
    path.write_text("\n".join(["no\twords\tx\tkind", *lines]), "utf-8")
    assert rows_of(data.load(file=path, text_column="words", label_column="kind")) == set(ROWS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", tsv(ROWS) + "good\t \n", "a.tsv, line 41: the text must not be empty"),
        ("a.tsv", tsv(ROWS) + "\tnice\n", "a.tsv, line 41: the label must not be empty"),
        ("a.tsv", tsv(ROWS) + "good\n", "a.tsv, line 41: there must be 2 columns. Received 1"),
        ("a.tsv", tsv(ROWS).encode() + b"good\tcaf\xe9\n", r"a.tsv, line 41.*UTF-8.*b'\\xe9'"),
        ("a.tsv", tsv([("good", text) for _, text in ROWS]), "two classes at least.*'good'"),
        ("a.tsv", tsv([("x", "one"), ("y", "two")] * 2), "'x' must have at least 3"),
        ("a.tsv", "", "must hold texts. Received nothing"),
        ("a.csv", "id,words,kind\n1,a,b\n", "column for the text.*words.*Give `text_column`"),
        ("a.csv", 'text,label\n"open,good\n', "a.csv, line 2: it is not CSV"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text"\n', "a.jsonl, line 2: it is not JSON"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n', "line 2.*none of \\['label'\\]"),
        ("a.pdf", "x", "must end in one of .tsv"),
        ("a.tsv.xz", "x", "cannot be read"),
    ],
)
def test_a_bad_file_is_a_clear_error(tmp_path, capsys, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SystemExit, match="2"):
        train.main(["--data", str(path)])
    assert re.search(message, capsys.readouterr().err.replace("\n", " "))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "`file` must be an existing file or folder.*nowhere"),
        (["--text-column", "x"], "are for --data"),
        (["--limit", "2"], "`limit` must be at least the number of classes, 6"),
        (["--export", "zip"], "--export: must be of hub,litert,int8,onnx, or none"),
    ],
)
def test_a_bad_argument_is_a_clear_error(arguments, message, capsys, monkeypatch):
    rows = {part: [(name, "some text") for name in data.PACKAGES] for part in data.LARGEST_CLASS}
    monkeypatch.setitem(data.SOURCES, "docstrings", lambda: (rows, data.PACKAGES, ""))
    with pytest.raises(SystemExit, match="2"):
        train.main(arguments)
    assert re.search(message, capsys.readouterr().err.replace("\n", " "))


def test_published_layouts(tmp_path, monkeypatch):
    monkeypatch.setenv("SEPCONV_DATA", str(tmp_path))
    folder = tmp_path / "text"
    for part in ("train", "test"):
        for label in ("neg", "pos"):
            (folder / "aclImdb" / part / label).mkdir(parents=True)
            for i in range(4):
                text = f"{label} film {i} of {part}"
                (folder / "aclImdb" / part / label / f"{i}_7.txt").write_text(text, "utf-8")
        (folder / f"TREC.{part}.all").write_bytes(b"0 Why ?\n3 Who is Ren\xe9 ?\n" * 3)
    for part in ("train", "dev", "test"):
        (folder / f"stsa.binary.{part}").write_text("1 so good\n0 so bad\n" * 3, "utf-8")
    (folder / "ag_news_csv").mkdir()
    for part in ("train", "test"):
        lines = [f'"{label}","Title","Text {label}"\n' for label in (1, 2, 3, 4)] * 3
        (folder / "ag_news_csv" / f"{part}.csv").write_text("".join(lines), "utf-8")
    imdb = data.load("imdb")
    assert imdb.classes == ("negative", "positive")
    assert all(("pos" in text) == label for text, label in zip(*imdb.test, strict=True))
    assert len(imdb.test[1]) == 8 and len(imdb.val[1]) == 2
    assert ("positive", "so good") in rows_of(data.load("sst2"))
    assert ("science", "Title. Text 4") in rows_of(data.load("ag_news"))
    with pytest.raises(ValueError, match="'entity' must have at least 2 training texts"):
        data.load("trec")


def test_a_corpus_that_cannot_be_downloaded_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.delenv("SEPCONV_DATA", raising=False)

    def fail(*args, **kwargs):
        raise Exception("no network")

    monkeypatch.setattr(keras.utils, "get_file", fail)
    for name in ("imdb", "sst2", "ag_news"):
        with pytest.raises(RuntimeError, match="no network.*SEPCONV_DATA"):
            data.load(name)


def test_tokens_do_not_depend_on_how_a_text_is_written():
    texts = np.array([text for _, text in ROWS], object)
    tokenizer = tokens.Tokenizer(tokens.learn_vocabulary(texts, 100), 12)
    assert tokenizer.vocabulary[:2] == [tokens.PADDING, tokens.UNKNOWN]
    alike = ["Lovely, OLD things", "ｌｏｖｅｌｙ ,  öld\tthings"]
    texts = tf.constant([*alike, "old " * 99, "", b"\xff \xe6\x97\xa5"])
    one, other, cut, nothing, strange = tokenizer(texts).numpy()
    np.testing.assert_array_equal(one, other)
    assert np.count_nonzero(one) >= 3 and (cut > 1).all() and not nothing.any()
    assert 1 in strange
    np.testing.assert_array_equal(tokenizer.arrays(np.array(["old"], object))[0, 1:], 0)


def test_rare_tokens_are_hidden_in_training_alone():
    x = np.repeat([[2, 3, 0]], 400, axis=0)
    layer = train.TokenDropout([9, 0, 5, 995, 0], [1, 1, 1, 4, 4], rate=0.1, rarity=5, seed=1)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer(x)), x)
    hidden = keras.ops.convert_to_numpy(layer(x, training=True))
    assert set(hidden[:, 0]) == {1, 2} and set(hidden[:, 1]) == {3, 4} and set(hidden[:, 2]) == {0}
    assert 0.4 < (hidden[:, 0] == 1).mean() < 0.6 and 0.05 < (hidden[:, 1] == 4).mean() < 0.15
    again = train.TokenDropout.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


def test_words_can_be_kept_whole():
    texts = np.array([text for _, text in ROWS], object)
    vocabulary = tokens.learn_vocabulary(texts, 100, pieces=False)
    assert "lovely" in vocabulary and not any(token.startswith("##") for token in vocabulary)
    (found,) = tokens.Tokenizer(vocabulary, 9)(tf.constant(["lovelything lovely"])).numpy()
    assert found[0] == 1 and vocabulary[found[1]] == "lovely"


def test_unknown_whole_words_go_by_their_shape():
    texts = np.array([*(text for _, text in ROWS), *["Mumbai NATO"] * 5], object)
    tokenizer = tokens.Tokenizer(tokens.learn_vocabulary(texts, 100, pieces=False), 9)
    text = "mumbai barely Shanghai KATO 1999 77 école"
    (found,) = tokenizer(tf.constant([text])).numpy()
    assert [tokenizer.vocabulary[token] for token in found] == [
        "mumbai", "[UNK:a:ly]", "[UNK:Aa:ai]", "[UNK:AA:to]", "[UNK]", "[UNK:00]", "[UNK]",
        "[PAD]", "[PAD]",
    ]  # fmt: skip
    unknown = tokenizer.unknown(texts)
    of = {token: tokenizer.vocabulary[unknown[i]] for i, token in enumerate(tokenizer.vocabulary)}
    assert of["mumbai"] == "[UNK:Aa:ai]" and of["lovely"] == of["[UNK:a:ly]"] == "[UNK:a:ly]"
    assert of["[UNK]"] == "[UNK]"


STRANGE = ["", "😀😀 lovely", "lovely " * 10_000, "これは日本語です。", "awful 3 of old things"]
APART = """
import json, sys
import tensorflow as tf, tensorflow_hub as hub, tensorflow_text
texts = tf.constant(json.load(open(sys.argv[2], encoding="utf-8")))
loaded = hub.load(sys.argv[1])
found = loaded.signatures["classify"](texts=texts)
logits = loaded(texts)
assert loaded(texts, training=True).shape == logits.shape
print(json.dumps([found["probabilities"].numpy().tolist(), tf.nn.softmax(logits).numpy().tolist()]))
assert not any(name.startswith(("sepconv", "examples")) for name in sys.modules)
"""


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are of TensorFlow")
def test_from_strings_to_labels(tmp_path, capsys):
    path, output = tmp_path / "own.tsv", tmp_path / "out"
    path.write_text(tsv(ROWS * 4), "utf-8")
    brief = ["--epochs", "10", "--seeds", "1", "--batch-size", "8", "--conv", "separable"]
    found = train.main(["--data", str(path), *brief, "--output", str(output)])
    assert str(found) in capsys.readouterr().out
    assert found.rows[0].accuracy["mean"] == 1
    record = json.loads((output / "results.json").read_text("utf-8"))
    assert record["task"] == "Text classification" and "Texts per second" in record["notes"][0]
    for row in record["rows"]:
        assert 0 < row["embedding_params"] < row["params"]
        assert row["artefacts"]["hub"]["agreement"] == 1

    predict.main([str(output), "lovely 3 of old things", STRANGE[-1], "--top", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["good", "bad"]

    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps(STRANGE), "utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", APART, str(output / "separable-hub"), str(texts)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    dataset = data.load(file=path)
    tokenizer = train.make_tokenizer(dataset.train[0])
    logits = found.models["separable"].predict(
        tokenizer.arrays(np.array(STRANGE, object)), verbose=0
    )
    expected = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    for probabilities in json.loads(done.stdout):
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)


def test_predict_says_what_is_wrong(tmp_path, capsys):
    (tmp_path / "broken-hub").mkdir()
    (tmp_path / "broken-hub" / "saved_model.pb").write_bytes(b"no model")
    for path, message in ((tmp_path / "none", "a \\*-hub folder"), (tmp_path, "cannot be loaded")):
        with pytest.raises(SystemExit, match="2"):
            predict.main([str(path), "text"])
        assert re.search(message, capsys.readouterr().err)
