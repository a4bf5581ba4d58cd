"""Training on several devices and in several processes gives what one device gives."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sepconv_layers import compare
from sepconv_layers.comparison.devices import choice
from tests.backends import BACKEND

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(BACKEND != "tensorflow", reason="starts each backend itself")


def start(backend, *arguments, **variables):
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    command = [sys.executable, "-m", "tests.distributed", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def found_by(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return json.loads(output.splitlines()[-1])


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module", params=["tensorflow", "jax"])
def two_devices(request):
    pytest.importorskip(request.param)
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    return found_by(start(request.param, "devices", XLA_FLAGS=flags))


def assert_same(found, expected):
    np.testing.assert_allclose(found["history"], expected["history"], rtol=0, atol=1e-5)
    assert found["accuracy"] == expected["accuracy"]


@pytest.mark.parametrize("way", ["two", "around"])
def test_two_devices_give_the_record_of_one(two_devices, way):
    assert_same(two_devices[way], two_devices["one"])
    both = {"devices": 2, "processes": 1}
    assert two_devices[way]["budget"] == two_devices["one"]["budget"] | both


def test_parts_of_a_batch_stay_on_their_device(two_devices):
    if "moved" in two_devices:
        assert not any(two_devices["moved"].values())


def test_a_batch_that_devices_cannot_share_is_refused(two_devices):
    assert "`batch_size`" in two_devices["refused"] and " 2 " in two_devices["refused"]


def test_two_processes_give_the_record_of_one_though_one_was_killed(tmp_path):
    pytest.importorskip("jax")
    output = tmp_path / "output"

    def both(*last):
        addresses = f"127.0.0.1:{free_port()}"
        return [
            start(
                "jax",
                "process",
                output,
                *(last if number else ()),
                KERAS_DISTRIBUTION_JOB_ADDRESSES=addresses,
                KERAS_DISTRIBUTION_NUM_PROCESSES="2",
                KERAS_DISTRIBUTION_PROCESS_ID=str(number),
                JAX_COMPILATION_CACHE_DIR=str(tmp_path / "cache"),
                JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
            )
            for number in range(2)
        ]

    first, killed = both(1)
    killed.communicate(timeout=300)
    assert killed.returncode < 0
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 1 and "go on" in errors
    states = list(output.glob("runs/*/*.npz"))
    assert len(states) == 1, "complete epochs are kept"

    found, other = map(found_by, both())
    alone = found_by(start("jax", "process", tmp_path / "alone"))
    assert_same(found, alone)
    assert found["history"] == other["history"]
    assert found["budget"]["processes"] == 2 and (output / "results.json").is_file()


def test_synchronized_statistics_of_two_processes_of_torch_are_those_of_one():
    pytest.importorskip("torch")
    port = free_port()
    first, second = (start("torch", "ddp", rank, port) for rank in range(2))
    first, second = found_by(first), found_by(second)
    for name in ("losses", "statistics"):
        np.testing.assert_allclose(first["together"][name], first["alone"][name], rtol=0, atol=1e-5)
    assert first["together"] == second["together"]
    assert "one device by one process" in first["refused"]


def test_bad_input():
    part = np.zeros((4, 4)), np.arange(4) % 2
    data = {"train": part, "val": part, "test": part}
    with pytest.raises(ValueError, match="`distribution` must be 'auto'.*'both'"):
        compare(lambda conv: None, data, distribution="both")


def test_pytorch_says_that_it_trains_on_one_of_several_gpus(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(choice.keras.backend, "backend", lambda: "torch")
    with pytest.warns(UserWarning, match="one of 2 GPUs"):
        assert choice.devices_for("auto").count == 1
