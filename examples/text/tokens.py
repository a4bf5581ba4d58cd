"""From strings to token numbers by tensorflow-text, in a graph: WordPiece over normalised words.

Text is brought into one form of Unicode, lower case and without accents, is split at blanks,
punctuation and between Chinese characters, and each word into the longest pieces that are in the
vocabulary. The vocabulary is learned from the training part.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import tensorflow as tf

from examples.sources import require

text = require("tensorflow_text")
splitter = require("tensorflow_text.python.ops.bert_tokenizer")
learner = require("tensorflow_text.tools.wordpiece_vocab.wordpiece_tokenizer_learner_lib")

PADDING, UNKNOWN = "[PAD]", "[UNK]"  # tokens 0 and 1
BATCH = 1024
FEWEST = 2  # times that a token occurs
MOST_WORDS = 40_000  # to learn from: the most frequent ones


class Tokenizer(tf.Module):
    """Strings `(batch,)` to token numbers `(batch, max_length)`, cut or padded with zeros."""

    def __init__(self, vocabulary: Sequence[str], max_length: int) -> None:
        super().__init__(name="tokenizer")
        self.vocabulary, self.max_length = list(vocabulary), max_length
        self._pieces = text.FastWordpieceTokenizer(
            self.vocabulary,
            token_out_type=tf.int32,
            unknown_token=UNKNOWN,
            support_detokenization=False,
        )

    def __call__(self, texts: tf.Tensor) -> tf.Tensor:
        tokens = self._pieces.tokenize(normalised(texts))
        return tokens.to_tensor(shape=(None, self.max_length))  # cuts and pads

    def arrays(self, texts: np.ndarray) -> np.ndarray:
        """The tokens of all texts."""
        batches = [texts[i : i + BATCH].tolist() for i in range(0, len(texts), BATCH)]
        return np.concatenate([self(tf.constant(batch)).numpy() for batch in batches])


def normalised(texts: tf.Tensor) -> tf.Tensor:
    """One form of what looks the same: compatible characters, lower case, no accents."""
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8")  # replaces what is no UTF-8
    texts = text.normalize_utf8(texts, "NFKC")
    return text.FastBertNormalizer(lower_case_nfd_strip_accents=True).normalize(texts)


def learn_vocabulary(texts: np.ndarray, size: int, pieces: bool = True) -> list[str]:
    """A WordPiece vocabulary of about so many tokens, from the words of texts.

    Without pieces it has none that go on a word, so that a word is in it or unknown.
    """
    split = splitter.BasicTokenizer().tokenize
    batches = [texts[i : i + BATCH].tolist() for i in range(0, len(texts), BATCH)]
    counts = learner.count_words(split(normalised(tf.constant(batch))) for batch in batches)
    counts = dict(counts.most_common(MOST_WORDS))
    learn = partial(learner.learn, counts, size, [PADDING, UNKNOWN], num_iterations=2)
    # Never once: what is learned of the one text that has a token is of no use for others.
    vocabulary = learn(lower_thresh=FEWEST, upper_thresh=FEWEST)
    if len(vocabulary) > size:
        # How often a token must occur is searched for, in a pass over all words for each try. The
        # words that occur more often than this are too few, even if each were a token.
        upper = sorted(counts.values(), reverse=True)[: size // 4][-1]
        vocabulary = learn(lower_thresh=FEWEST, upper_thresh=max(FEWEST, upper))
    return [token for token in vocabulary if pieces or not token.startswith("##")]
