"""Runs the Python snippets of a page, each in a folder and a namespace of its own."""

import contextlib
import re
import traceback
import warnings
from unittest import mock

import pytest

from sepconv_layers import timing
from sepconv_layers.comparison import memory


@contextlib.contextmanager
def measuring_little():
    """What examples measure is of no interest: one mode, and no process for each net's memory."""
    one = {backend: dict(list(modes.items())[:1]) for backend, modes in timing.MODES.items()}
    brief = mock.patch.multiple(timing, SECONDS_PER_CALL=0.01, SECONDS_PER_TURN=0.001)
    peak = mock.patch.object(memory, "train_peak_bytes", lambda *_, **__: 1)
    with mock.patch.dict(timing.MODES, one), brief, peak:
        yield


def blocks(text, language):
    """The code blocks of a Markdown text in that language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def run_all(text, folder):
    """Runs the Python snippets of a Markdown text, and fails by the first that does."""
    for number, snippet in enumerate(blocks(text, "python")):
        own = folder / str(number)  # none may need what another has left
        own.mkdir()
        with contextlib.chdir(own), measuring_little(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                exec(compile(snippet, f"<snippet {number}>", "exec"), {"__name__": "__main__"})
            except (Exception, SystemExit) as error:
                told = "".join(traceback.format_exception(error))[-3000:]
                pytest.fail(f"This snippet failed:\n\n{snippet}\n\n{told}", pytrace=False)


def links(text):
    """The relative links of a Markdown text, pictures included, without what follows a #."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", prose)
