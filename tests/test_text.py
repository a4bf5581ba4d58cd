"""The text example: its data, its tokens, and its commands from strings to labels."""

import gzip
import io
import json
import lzma
import re
import subprocess
import sys
import tarfile

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow_text")  # has no wheels for the newest Python

import tensorflow as tf

from examples.text import baseline, data, predict, ratios, tokens, train
from sepconv_layers import Comparison, timing
from sepconv_layers.comparison import Row

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


def write_parts(folder, first=""):
    folder.mkdir()
    for name, rows in (("train", ROWS[:30]), ("val", ROWS[30:34]), ("test", ROWS[34:])):
        (folder / f"{name}.tsv").write_text(first + tsv(rows), "utf-8")


@pytest.mark.parametrize("first", ["sentiment\tphrase\n", "Polarity\tText\n", "label\ttext\n"])
def test_a_header_is_known_by_one_usual_name(tmp_path, first):
    path = tmp_path / "own.tsv"
    path.write_text(first + tsv(ROWS), "utf-8")
    assert rows_of(data.load(file=path)) == set(ROWS)
    write_parts(tmp_path / "own", first)
    dataset = data.load(file=tmp_path / "own")
    assert dataset.classes == ("bad", "good") and rows_of(dataset) == set(ROWS)


def test_a_usual_name_may_be_a_label_or_a_text(tmp_path):
    label = {"good": "topic", "bad": "other"}
    rows = [(label[of], text) for of, text in ROWS]
    path = tmp_path / "own.tsv"
    for some in (rows, [("other", "Title"), *rows]):
        path.write_text(tsv(some), "utf-8")
        assert rows_of(data.load(file=path)) == set(some)
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "train.tsv").write_text(tsv(rows[4:]), "utf-8")
    (folder / "test.tsv").write_text(tsv(rows[:2]), "utf-8")  # in which each label is once
    assert rows_of(data.load(file=folder)) == set(rows) - set(rows[2:4])


def test_what_may_be_a_header_is_a_clear_error(tmp_path):
    path, first = tmp_path / "own.tsv", "polarity\tphrase\n"
    path.write_text("\n" + first + tsv(ROWS), "utf-8")
    message = "own.tsv, line 2: the label must .*'polarity'.*--text-column and --label-column"
    with pytest.raises(ValueError, match=message):
        data.load(file=path)
    names = {"text_column": "phrase", "label_column": "polarity"}
    assert rows_of(data.load(file=path, **names)) == set(ROWS)
    folder = tmp_path / "own"
    write_parts(folder, first)
    with pytest.raises(ValueError, match="tsv, line 1: the label must .*'polarity'"):
        data.load(file=folder)
    assert rows_of(data.load(file=folder, **names)) == set(ROWS)


def test_labels_are_one_line(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text(csv(ROWS).replace(",good", ',"very\n  good"'), "utf-8")
    assert data.load(file=path).classes == ("bad", "very good")


DEEP = '{"text": "a", "label": 1, "more": ' + "[" * 10_000 + "]" * 10_000 + "}\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", tsv(ROWS) + "good\n", "a.tsv, line 41: there must be 2 columns. Received 1"),
        ("a.tsv", tsv(ROWS).encode() + b"good\tcaf\xe9\n", r"a.tsv, line 41.*UTF-8.*b'\\xe9'"),
        ("a.tsv", tsv([("good", text) for _, text in ROWS]), "at least two classes.*'good'"),
        ("a.tsv", tsv([("x", "one"), ("y", "two")] * 2), "'x' must have at least 3"),
        ("a.tsv", "", "must hold texts. Received nothing"),
        ("a.csv", "id,words,kind\n1,a,b\n", "column for the text.*words.*Use --text-column"),
        ("a.csv", 'text,label\n"open,good\n', "a.csv, line 2: it is not CSV"),
        (
            "a.jsonl",
            '{"text": "a", "label": 1}\n{"text"\n',
            "a.jsonl, line 2: it cannot be read as",
        ),
        ("a.jsonl", jsonl(ROWS[:1]) + f'{{"label": {"9" * 5000}}}', "line 2: it cannot be read as"),
        ("a.jsonl", DEEP, "line 1: it cannot be read as JSON"),
        ("a.jsonl", jsonl([("good", "so \ud83d")]), r"line 1: .* whole characters.*'\\ud83d'"),
        ("a.jsonl", jsonl([*ROWS, ("\ude00", "so")]), r"line 41: .* whole characters.*'\\ude00'"),
        ("a.csv", csv([(label, "\u200b") for label, _ in ROWS]), "texts must have words"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n', "line 2.*none of \\['label'\\]"),
        ("a.pdf", "x", "must end in one of .tsv"),
        ("a.tsv.xz", "x", "cannot be read"),
        ("a.tsv.gz", gzip.compress(b"", mtime=0)[:10] + b"\xff" * 40, "cannot be read"),
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
        (["--data", "nowhere"], "--data must be an existing file or folder.*nowhere"),
        (["--text-column", "x"], "are for --data"),
        (["--separator", ";"], "--separator are for --data"),
        (["--data", __file__, "--separator", "::"], "error: --separator must be one character"),
        (["--limit", "2"], "--limit must be at least the number of classes, 6"),
        (["--export", "zip"], "--export: must be of hub,litert,int8,micro,onnx, or none"),
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


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("9 Why ?", "train part must have labels from 0 to 5. Received also .'9'"),
        ("-1 Why ?", "train part must have labels from 0 to 5. Received also .'-1'"),
        ("human Why ?", "train part must have labels from 0 to 5. Received also .'human'"),
        ("3", "TREC.train.all must have a label and a text on each line"),
    ],
)
def test_a_corpus_with_other_labels_is_a_sentence(tmp_path, monkeypatch, capsys, line, message):
    (tmp_path / "text").mkdir()
    lines = [f"{label} Who is {i} ?\n" for i in range(4) for label in range(6)]
    for part in ("train", "test"):
        (tmp_path / "text" / f"TREC.{part}.all").write_text("".join(lines))
    monkeypatch.setenv("SEPCONV_DATA", str(tmp_path))
    assert len(data.load("trec").test[1]) == 24
    (tmp_path / "text" / "TREC.train.all").write_text("".join([*lines, line]))
    with pytest.raises(SystemExit, match="2"):
        train.main(["--dataset", "trec"])
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("damage", ["garbage", "truncated", "no UTF-8"])
def test_a_damaged_corpus_is_a_sentence(tmp_path, monkeypatch, capsys, damage):
    names = [f"aclImdb/{part}/{label}/0_7.txt" for part in ("train", "test") for label in ("neg",)]
    archive = tmp_path / "aclImdb.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        for name in names:
            info = tarfile.TarInfo(name)
            content = b"so \xff bad" if damage == "no UTF-8" else b"so bad"
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    if damage != "no UTF-8":
        content = archive.read_bytes()
        archive.write_bytes(b"garbage" * 9 if damage == "garbage" else content[:-20])
    monkeypatch.delenv("SEPCONV_DATA", raising=False)
    monkeypatch.setattr(keras.utils, "get_file", lambda *args, **kwargs: str(archive))
    with pytest.raises(SystemExit, match="2"):
        train.main(["--dataset", "imdb"])
    where = "aclImdb/train/neg/0_7.txt" if damage == "no UTF-8" else "aclImdb.tar.gz"
    assert f"{where} is truncated or" in capsys.readouterr().err


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


def test_a_long_text_can_keep_its_start_and_its_end():
    vocabulary = [tokens.PADDING, tokens.UNKNOWN, *"abcdef"]
    texts = tf.constant(["a b c d e f", "a b c d", "a b", ""])
    for head, longer in ((None, "abcd"), (1, "adef"), (3, "abcf"), (0, "cdef"), (9, "abcd")):
        found = tokens.Tokenizer(vocabulary, 4, head)(texts).numpy()
        kept = ["".join(vocabulary[token] for token in row if token) for row in found]
        assert kept == [longer, "abcd", "ab", ""] and found.shape == (4, 4)


def test_ratios_tell_which_class_a_token_speaks_for():
    x = np.array([[2, 3, 2], [2, 0, 0], [3, 4, 0], [4, 4, 3]])
    found = ratios.log_count_ratios(x, np.array([1, 1, 0, 0]), 6)
    assert found.shape == (6, 1) and not found[[0, 1, 5]].any()
    np.testing.assert_allclose(found[2:5, 0], np.log([3, 2 / 3, 1 / 3]))
    several = ratios.log_count_ratios(x, np.array([0, 0, 1, 2]), 6)
    assert several.shape == (6, 3) and several[2].argmax() == 0 and several[4, 0] < 0


def test_the_first_channels_of_an_embedding_can_start_from_ratios():
    prior = np.arange(20.0).reshape(20, 1)
    settings = train.Settings(embedding=8)
    model = train.build("standard", 5, 2, 20, settings, prior=prior)
    (weights,) = model.get_layer("embedding").get_weights()
    np.testing.assert_array_equal(weights[:, 0], prior[:, 0])
    assert np.abs(weights[:, 1:]).max() < 1


@pytest.mark.parametrize("size", [1, 3])
def test_a_vocabulary_has_all_characters_however_small_it_is(size):
    texts = np.array([text for _, text in ROWS], object)
    vocabulary = tokens.learn_vocabulary(texts, size)
    assert vocabulary == tokens.learn_vocabulary(texts, 4) and {"l", "##y"} < set(vocabulary)


def test_texts_may_mostly_have_no_words():
    texts = np.array(["\u200b"] * 40 + ["lovely things"], object)
    tokenizer = train.make_tokenizer(texts)
    assert tokenizer.max_length == 1 and tokenizer.arrays(texts).any(axis=1).sum() == 1


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
    brief += ["--no-jit-compile"]
    found = train.main(["--data", str(path), *brief, "--output", str(output)])
    assert str(found) in capsys.readouterr().out
    assert found.rows[0].accuracy["mean"] == 1
    record = json.loads((output / "results.json").read_text("utf-8"))
    assert record["task"] == "Text classification" and "Texts per second" in record["notes"][0]
    for row in record["rows"]:
        assert 0 < row["embedding_params"] < row["params"]
        assert row["artifacts"]["hub"]["agreement"] == 1

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


def write_run(folder, kinds):
    """The record of a run whose nets have so many kinds of artifacts."""
    rest = {"infer_ms": {}, "infer_mode": {}, "train_step_ms": 1.0, "train_mode": "graph"}
    rows = [
        Row(conv, conv, params=1, macs=1, accuracy={}, **rest, artifacts={kind: {} for kind in of})
        for conv, of in kinds.items()
    ]
    record = Comparison("", "", "", "", "", {}, 1.0, {}, None, {}, {}, rows)
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(record.to_json(), "utf-8")


def write_hub(folder, label, dtype=tf.string):
    """A model that finds the same label in everything."""
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec((None,), dtype, name="inputs")])
    def classify(inputs):
        shape = (tf.size(inputs), 1)
        return {"labels": tf.fill(shape, label), "probabilities": tf.ones(shape)}

    tf.saved_model.save(module, str(folder), signatures={"classify": classify})


def test_predict_takes_a_model_of_the_last_run_alone(tmp_path, capsys):
    write_hub(tmp_path / "separable-hub", "old")
    write_hub(tmp_path / "standard-hub", "new")
    write_run(tmp_path, {"standard-narrow": ["onnx"], "standard": ["hub", "onnx"]})
    predict.main([str(tmp_path), "text"])
    assert capsys.readouterr().out == "new 1.000\ttext\n"
    write_run(tmp_path, {"standard": ["hub"], "separable": ["hub"]})
    predict.main([str(tmp_path), "text"])
    assert capsys.readouterr().out == "old 1.000\ttext\n"


def test_predict_says_what_is_wrong(tmp_path, capsys):
    broken, vision, bare = tmp_path / "broken-hub", tmp_path / "vision", tmp_path / "bare"
    broken.mkdir()
    (broken / "saved_model.pb").write_bytes(b"no model")
    write_run(vision, {"separable": ["hub"]})
    write_hub(vision / "separable-hub", "cat", tf.float32)
    write_run(bare, {"separable": ["onnx"]})
    write_hub(bare / "separable-hub", "old")
    for path, message in (
        (tmp_path / "none", "must be a \\*-hub, or the folder"),
        (tmp_path, "or the folder of a run with its results.json"),
        (broken, "cannot be loaded"),
        (vision, "must take strings.*float32"),
        (bare, "Run it again with `--export hub`"),
    ):
        with pytest.raises(SystemExit, match="2"):
            predict.main([str(path), "text"])
        assert re.search(message, capsys.readouterr().err)


def test_a_linear_model_of_n_grams(tmp_path, capsys):
    path, output = tmp_path / "own.tsv", tmp_path / "out"
    rows = [
        (label, f"it is {word} {i}")
        for i in range(20)
        for label, word in (("good", "not bad"), ("bad", "bad not"))
    ]
    path.write_text(tsv(rows), "utf-8")
    found = baseline.main(["--data", str(path), "--output", str(output)])
    assert found["accuracy"] == found["val_accuracy"] == 1  # a pair of words tells them apart
    assert json.loads((output / "baseline.json").read_text("utf-8")) == found
    words = baseline.main(["--data", str(path), "--longest", "1"])
    assert words["accuracy"] <= 0.5 and words["features"] < found["features"]
    assert "Test accuracy 1.0000" in capsys.readouterr().out
