"""Optional packages: what is missing is named, with the extra that installs it."""

import ast
import pathlib
import tomllib

import numpy as np
import pytest

from sepconv_layers.extras import require
from tests.backends import the_same_everywhere

pytestmark = the_same_everywhere

ROOT = pathlib.Path(__file__).parents[1]


def test_a_module_that_is_there_is_returned():
    assert require("numpy.linalg", "plot", "compare") is np.linalg


def test_a_missing_package_is_named_with_its_extra():
    hint = r"Install it with `pip install 'sepconv-layers\[plot\]'`"
    with pytest.raises(ImportError, match=rf"`compare` needs the package 'absent'. {hint}"):
        require("absent.figure", "plot", "compare")


def test_every_extra_that_a_message_names_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = [
        call.args[1].value
        for path in (ROOT / "sepconv_layers").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(call, ast.Call) and getattr(call.func, "id", None) == "require"
    ]
    assert len(named) > 4 and set(named) <= set(extras["optional-dependencies"])
