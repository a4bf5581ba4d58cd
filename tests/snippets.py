"""Runs the Python snippets of a page: all in one process, which imports the backend once."""

import json
import re
import subprocess
import sys

# Each in a folder and a namespace of its own: none may need what another has left. What they time
# is of no interest here.
RUNNER = """
import json, os, sys, traceback
from sepconv_layers import timing

timing.SECONDS_PER_CALL, timing.SECONDS_PER_TURN = 0.01, 0.001
for number, snippet in enumerate(json.load(sys.stdin)):
    os.mkdir(str(number))
    os.chdir(str(number))
    try:
        exec(compile(snippet, f"<snippet {number}>", "exec"), {"__name__": "__main__"})
    except BaseException:
        traceback.print_exc()
        sys.exit(f"This snippet failed:\\n\\n{snippet}")
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
