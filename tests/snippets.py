"""Runs the Python snippets of a page: all in one process, which imports the backend once."""

import contextlib
import inspect
import json
import re
import subprocess
import sys
from unittest import mock


@contextlib.contextmanager
def measuring_little():
    """What examples measure is of no interest: one mode, and no process for each net's memory."""
    from sepconv_layers import timing
    from sepconv_layers.comparison import memory

    one = {backend: dict(list(modes.items())[:1]) for backend, modes in timing.MODES.items()}
    brief = mock.patch.multiple(timing, SECONDS_PER_CALL=0.01, SECONDS_PER_TURN=0.001)
    peak = mock.patch.object(memory, "train_peak_bytes", lambda *_, **__: 1)
    with mock.patch.dict(timing.MODES, one), brief, peak:
        yield


# Each in a folder and a namespace of its own: none may need what another has left.
RUNNER = f"""
import contextlib, json, os, sys, traceback
from unittest import mock

{inspect.getsource(measuring_little)}
little = measuring_little()
little.__enter__()
for number, snippet in enumerate(json.load(sys.stdin)):
    os.mkdir(str(number))
    os.chdir(str(number))
    try:
        exec(compile(snippet, f"<snippet {{number}}>", "exec"), {{"__name__": "__main__"}})
    except BaseException:
        traceback.print_exc()
        sys.exit(f"This snippet failed:\\n\\n{{snippet}}")
    os.chdir("..")
"""


def blocks(text, language):
    """The code blocks of a Markdown text in that language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def run_all(text, folder):
    """Runs the Python snippets of a Markdown text, and fails by the first that does."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUNNER],
        input=json.dumps(blocks(text, "python")),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def links(text):
    """The relative links of a Markdown text, pictures included, without what follows a #."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", prose)
