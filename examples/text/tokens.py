"""Strings to token numbers with tensorflow-text, in a graph: WordPiece over normalized words.

Text is normalized to one Unicode form, lower case without accents. It is split at whitespace, at
punctuation and between Chinese characters, and each word into the longest pieces in the vocabulary,
which is learned from the training part. A vocabulary without pieces has shapes, which represent
unknown words by their case and ending, or by their digits.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow as tf

from examples import cache
from examples.sources import require

text = require("tensorflow_text")
splitter = require("tensorflow_text.python.ops.bert_tokenizer")
learner = require("tensorflow_text.tools.wordpiece_vocab.wordpiece_tokenizer_learner_lib")

PADDING, UNKNOWN = "[PAD]", "[UNK]"  # tokens 0 and 1
SHAPE = "[UNK:"  # prefix of the token of a shape
FORM = 1  # version of the files in the cache
BATCH = 1024
FEWEST = 2  # occurrences of a token
FEWEST_OF_SHAPE = 5
MOST_WORDS = 40_000  # the most frequent ones, to learn from


class Tokenizer(tf.Module):
    """Strings `(batch,)` to token numbers `(batch, max_length)`, truncated or padded with zeros.

    Args:
        vocabulary: The tokens.
        max_length: The number of tokens of each text.
        head: The number of tokens that a truncated text keeps from its start. The others are its
            last ones. By default all are from its start.
    """

    def __init__(self, vocabulary: Sequence[str], max_length: int, head: int | None = None) -> None:
        super().__init__(name="tokenizer")
        self.vocabulary, self.max_length = list(vocabulary), max_length
        self.head = max_length if head is None else min(head, max_length)
        self._has_shapes = any(token.startswith(SHAPE) for token in self.vocabulary)
        self._pieces = text.FastWordpieceTokenizer(
            self.vocabulary,
            token_out_type=tf.int32,
            unknown_token=UNKNOWN,
            no_pretokenization=self._has_shapes,
            support_detokenization=False,
        )

    def __call__(self, texts: tf.Tensor) -> tf.Tensor:
        texts = normalize_unicode(texts)
        if self._has_shapes:
            split = words(texts)
            known, shape = self._known_and_shape(split.flat_values)
            tokens = split.with_flat_values(tf.where(known == 1, shape, known))
        else:
            tokens = self._pieces.tokenize(lower(texts))
        first = tokens.to_tensor(shape=(None, self.max_length))  # truncates and pads
        tail = self.max_length - self.head
        if not tail:
            return first
        last = tokens[:, -tail:].to_tensor(shape=(None, tail))
        is_longer = tokens.row_lengths()[:, None] > self.max_length
        return tf.where(is_longer, tf.concat([first[:, : self.head], last], 1), first)

    def _known_and_shape(self, split: tf.Tensor) -> list[tf.Tensor]:
        """Returns the tokens of whole words and of their shapes, 1 where there is none."""
        return [
            self._pieces.tokenize(whole).to_tensor(1, shape=(None, 1))[:, 0]
            for whole in (lower(split), shapes(split))
        ]

    def arrays(self, texts: np.ndarray, folder: Path | None = None) -> np.ndarray:
        """Returns the tokens of all texts.

        Args:
            texts: The texts.
            folder: A cache, which computes them once for all runs. Those of more than 128 MiB are
                mapped into memory and read by index, with or without a cache.
        """
        shape, dtype = (len(texts), self.max_length), "int32"

        def make(add: cache.Add) -> None:
            add(cache.SAMPLES, shape, dtype, self.pieces(texts))

        def check(arrays: Mapping[str, np.ndarray]) -> bool:
            found = arrays[cache.SAMPLES]
            return found.shape == shape and found.dtype == dtype

        if folder is None and cache.size_of(shape, dtype) <= cache.IN_MEMORY:
            return np.concatenate(list(self.pieces(texts)))
        digest = hashlib.sha256()
        for one in texts:
            digest.update(repr(one).encode())
        form = FORM, text.__version__, self.vocabulary, self.max_length, self.head
        key = cache.key_of(form, digest.hexdigest())
        found = cache.stored(folder, key, make, check, what="tokens")
        return found.ordered(np.arange(len(texts))) if found.digest else found.samples

    def pieces(self, texts: np.ndarray) -> Iterator[np.ndarray]:
        """Yields the tokens of some texts at a time."""
        for batch in batches(texts):
            yield self(batch).numpy()

    def unknown(self, texts: np.ndarray) -> np.ndarray:
        """Returns the token that would replace each token if it were not in the vocabulary.

        With shapes, this is the most frequent shape of the word in these texts.
        """
        found = np.ones(len(self.vocabulary), "int32")
        if self._has_shapes:
            split = [words(normalize_unicode(batch)).flat_values for batch in batches(texts)]
            pairs = np.stack(self._known_and_shape(tf.concat(split, 0)), 1)
            pairs, counts = np.unique(pairs, axis=0, return_counts=True)
            token, shape = pairs[np.argsort(counts, kind="stable")].T  # the most frequent one last
            found[token] = shape
            is_shape = np.char.startswith(self.vocabulary, SHAPE)
            found[is_shape] = np.flatnonzero(is_shape)
        found[1] = 1
        return found


def batches(texts: np.ndarray) -> Iterator[tf.Tensor]:
    """Yields the texts in batches, as tensors."""
    for start in range(0, len(texts), BATCH):
        yield tf.constant(texts[start : start + BATCH].tolist())


def normalize_unicode(texts: tf.Tensor) -> tf.Tensor:
    """Returns valid UTF-8 in the Unicode normalization form NFKC."""
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8")  # replaces invalid UTF-8
    return text.normalize_utf8(texts, "NFKC")


def lower(texts: tf.Tensor) -> tf.Tensor:
    """Returns texts in lower case, without accents."""
    return text.FastBertNormalizer(lower_case_nfd_strip_accents=True).normalize(texts)


def words(texts: tf.Tensor) -> tf.RaggedTensor:
    """Returns the words and punctuation `(batch, words)` of texts."""
    return splitter.BasicTokenizer().tokenize(texts)


def shapes(split: tf.Tensor) -> tf.Tensor:
    """Returns the shapes of words: case and last two letters, or the pattern of digits.

    Petrov et al., "Learning Accurate, Compact, and Interpretable Tree Annotation", 2006, use such
    classes for English: https://aclanthology.org/P06-1055.
    """
    matches, replace = tf.strings.regex_full_match, tf.strings.regex_replace
    case = tf.where(
        matches(split, r"\p{Lu}\p{Lu}+"), "AA", tf.where(matches(split, r"\p{Lu}.*"), "Aa", "a")
    )
    ending = replace(lower(split), r"^.*?(.{1,2})$", r"\1")
    digits = replace(replace(split, r"\p{Nd}", "0"), r"^(.{4}).*$", r"\1")
    shape = tf.where(matches(split, r".*\p{Nd}.*"), digits, case + ":" + ending)
    return SHAPE + shape + "]"


def learn_vocabulary(texts: np.ndarray, size: int, pieces: bool = True) -> list[str]:
    """Learns a WordPiece vocabulary from the words of texts.

    Args:
        texts: The training texts.
        size: The approximate number of tokens.
        pieces: Whether words are split. If not, the vocabulary has no tokens that continue a word,
            but the frequent shapes of words.

    Raises:
        ValueError: If the texts have no words.
    """
    try:
        counts = learner.count_words(
            words(lower(normalize_unicode(batch))) for batch in batches(texts)
        )
    except StopIteration as error:
        raise ValueError(
            "The training texts must have words, not only invisible characters. "
            f"Received {len(texts)} texts such as {texts[0][:20]!r}."
        ) from error
    counts = dict(counts.most_common(MOST_WORDS))
    learn = partial(learner.learn, counts, size, [PADDING, UNKNOWN], num_iterations=2)
    # At least twice: a token of a single text teaches nothing about other texts.
    vocabulary = learn(lower_thresh=FEWEST, upper_thresh=FEWEST)
    if len(vocabulary) > size:
        # The learner searches for the number of occurrences that a token needs, with one pass over
        # all words per try. Too few words occur more often than this upper bound.
        upper = sorted(counts.values(), reverse=True)[: max(1, size // 4)][-1]
        vocabulary = learn(lower_thresh=FEWEST, upper_thresh=max(FEWEST, upper))
    if pieces:
        return vocabulary
    split = (words(normalize_unicode(batch)).flat_values for batch in batches(texts))
    seen = learner.count_words(map(shapes, split))
    frequent = sorted(shape for shape, count in seen.items() if count >= FEWEST_OF_SHAPE)
    return [token for token in vocabulary if not token.startswith("##")] + frequent
