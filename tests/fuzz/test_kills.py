"""A comparison that is killed at any moment goes on as if it had not been."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backends import BACKEND
from tests.fuzz.profiles import cases
from tests.test_comparison import compare_toy, runs_in, without_timing

pytestmark = pytest.mark.skipif(BACKEND != "tensorflow", reason="the same on every backend")
ROOT = Path(__file__).parents[2]
SCRIPT = """if True:
    import pathlib, sys
    from tests.fuzz.test_kills import run_toy

    print("ready", flush=True)
    run_toy(pathlib.Path(sys.argv[1]))
"""


def run_toy(output):
    with without_timing():
        return compare_toy(convs="separable", seeds=1, epochs=2, output=output)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run that was left alone, and how long it took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    start = time.perf_counter()
    found = run_toy(folder)
    return found, runs_in(folder), time.perf_counter() - start


@cases(few=1, many=15)
@given(share=st.floats(0, 1.2))
def test_a_killed_run_ends_as_if_it_had_not_been(undisturbed, tmp_path_factory, share):
    expected, runs, seconds = undisturbed
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-c", SCRIPT, folder]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        time.sleep(share * seconds)
        process.kill()
    found = run_toy(folder)
    assert runs_in(folder) == runs
    assert found.rows[0].accuracy == expected.rows[0].accuracy
    assert not list(folder.rglob("*.npz")) and not list(folder.rglob("*partial*"))
