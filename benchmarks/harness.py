"""Shared parts of the benchmarks: one process per backend, progress, the record and its plot.

A benchmark is a module with `NAME`, `add_arguments`, `cells` (the cases to measure), `measure` (the
rows of one cell, plain data), `table` (rows as Markdown) and `draw` (rows into a figure). It may
have `SETTINGS`: for a backend, named environments in which to measure again on a CPU. An
interrupted command resumes after its last complete cell when it is run again.
"""

import argparse
import hashlib
import importlib.util
import itertools
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras

from sepconv_layers import files, timing

SOURCE = "Source"  # key in the metadata of a picture
BACKENDS = tuple(timing.MODES)


def main(benchmark: Any, argv: Sequence[str] | None = None) -> dict:
    """Measures on every backend, then saves, prints and returns the record."""
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = make_parser(benchmark).parse_args(argv)
    if arguments.part_to:
        part = _measure_here(benchmark, arguments)
        Path(arguments.part_to).write_text(json.dumps(part), "utf-8")
        return part
    devices, versions, rows = [], {}, []
    settings = getattr(benchmark, "SETTINGS", {})
    for backend in arguments.backends:
        for setting, environment in {"": {}, **settings.get(backend, {})}.items():
            if setting and not devices[-1].startswith("cpu"):
                continue
            if arguments.backends == [keras.backend.backend()] and not environment:
                part = _measure_here(benchmark, arguments)
            else:
                part = _in_process_of(backend, benchmark, argv, setting, environment)
            devices.append(part["device"])  # each backend reports its own: one may see no GPU
            versions |= part["versions"]
            rows += part["rows"]
    record = {
        "benchmark": benchmark.NAME,
        "command": " ".join(["python -m", f"benchmarks.{benchmark.NAME}", *argv]),
        "device": " and ".join(dict.fromkeys(devices)),
        "versions": versions,
        "rows": rows,
    }
    save(benchmark, record, Path(arguments.output))
    for backend in arguments.backends:
        for path in Path(arguments.output).glob(f"{benchmark.NAME}-{backend}*.unfinished.json"):
            path.unlink()
    print(benchmark.table(rows))
    return record


def save(benchmark: Any, record: dict, directory: Path) -> None:
    """Writes `<name>-<device>.json` and the picture beside it."""
    device = re.sub(r"\W+", "-", record["device"]).strip("-").lower()
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{benchmark.NAME}-{device}.json"
    files.write_text(path, json.dumps(record, indent=1) + "\n")
    save_picture(benchmark, path)
    print(f"Saved in {path} and {path.with_suffix('.png').name}")


def save_picture(benchmark: Any, path: Path) -> None:
    """Plots a record into a file beside it, whose metadata identify the record."""
    from matplotlib.figure import Figure

    record = json.loads(path.read_text("utf-8"))
    figure = Figure(layout="constrained")
    benchmark.draw(figure, record["rows"])
    figure.suptitle(f"{benchmark.NAME}: {record['device']}", fontweight="bold")
    metadata = {SOURCE: digest(path)}
    files.write(path.with_suffix(".png"), partial(figure.savefig, dpi=110, metadata=metadata))


def digest(path: Path) -> str:
    """Hash of a record, which tells whether a picture was drawn from it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_parser(benchmark: Any) -> argparse.ArgumentParser:
    """The arguments of all benchmarks and of this one."""
    parser = argparse.ArgumentParser(
        description=benchmark.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=installed)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each measurement")
    parser.add_argument("--turns", type=int, default=5, help="minimum for each measurement")
    parser.add_argument("--output", default="results")
    parser.add_argument("--part-to", help=argparse.SUPPRESS)
    parser.add_argument("--setting", default="", help=argparse.SUPPRESS)
    benchmark.add_arguments(parser)
    return parser


def _measure_here(benchmark: Any, arguments: argparse.Namespace) -> dict:
    """Measures in this process, on its backend: a part of the record."""
    about = {"device": timing.device(), "versions": timing.versions()}
    rows = _rows(benchmark, arguments, about)
    if arguments.setting:
        rows = [{**row, "mode": f"{row['mode']}, {arguments.setting}"} for row in rows]
    return {**about, "rows": rows}


def _rows(benchmark: Any, arguments: argparse.Namespace, about: dict) -> list[dict]:
    # TensorFlow mistakes several functions for one that is retraced.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    backend = keras.backend.backend()
    # The rows of an interrupted run, from which the same command resumes.
    name = "-".join(filter(None, [benchmark.NAME, backend, arguments.setting.replace(" ", "-")]))
    path = Path(arguments.output) / f"{name}.unfinished.json"
    settings = {**vars(arguments), **about, "backends": backend, "part_to": None}
    run = json.loads(json.dumps(settings))  # in the form in which it is read back
    before, done = json.loads(path.read_text("utf-8")) if path.exists() else (None, [])
    done = done if before == run else []
    cells = benchmark.cells(arguments)
    progress = keras.utils.Progbar(len(cells), unit_name=f"{backend} cell")
    path.parent.mkdir(parents=True, exist_ok=True)
    for number, cell in enumerate(cells):
        if number >= len(done):
            keras.utils.clear_session()
            done.append(benchmark.measure(cell, arguments))
            files.write_text(path, json.dumps([run, done]))
        progress.add(1)
    return list(itertools.chain.from_iterable(done))


def _in_process_of(
    backend: str, benchmark: Any, argv: list[str], setting: str, environment: dict[str, str]
) -> dict:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "part.json"
        module = f"benchmarks.{benchmark.NAME}"
        command = [sys.executable, "-W", "ignore", "-m", module, *argv]
        subprocess.run(
            [*command, "--backends", backend, "--part-to", str(path), "--setting", setting],
            env={**os.environ, **environment}
            | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
            check=True,
        )
        return json.loads(path.read_text("utf-8"))


def forward(function: Callable, mode: str, *arrays: Any) -> Callable[[], Any]:
    """A call that computes `function(*arrays)` and returns when the result is ready."""
    return _call(function, mode, arrays)


def with_gradients(function: Callable, mode: str, *arrays: Any, upstream: Any) -> Callable[[], Any]:
    """The same with the gradients with respect to all arrays.

    `upstream` is the gradient with respect to the output, or a list of them for a list of outputs.
    Constant ones would distort the result: TensorFlow would compute part of the gradient of a
    convolution of `keras.layers` during graph optimization.
    """
    backend, count = keras.backend.backend(), len(arrays)
    is_list = isinstance(upstream, list)
    upstream = upstream if is_list else [upstream]

    def of_outputs(given: Sequence[Any]) -> Any:
        return list(given) if is_list else given[0]

    if backend == "tensorflow":
        import tensorflow as tf

        def compute(*tensors: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(tensors[:count])
                outputs = function(*tensors[:count])
            given = of_outputs(tensors[count:])
            return outputs, tape.gradient(outputs, tensors[:count], given)

        return _call(compute, mode, [*arrays, *upstream])
    if backend == "jax":
        import jax

        def compute(*tensors: Any) -> Any:
            outputs, pull = jax.vjp(function, *tensors[:count])
            return outputs, pull(of_outputs(tensors[count:]))

        return _call(compute, mode, [*arrays, *upstream])
    import torch

    tensors = [keras.ops.convert_to_tensor(array).requires_grad_() for array in arrays]
    given = of_outputs([keras.ops.convert_to_tensor(array) for array in upstream])

    def call() -> None:
        torch.autograd.grad(function(*tensors), tensors, given, allow_unused=True)
        _wait_for_torch()

    return call


def _call(function: Callable, mode: str, arrays: Sequence[Any]) -> Callable[[], Any]:
    tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return partial(tf.function(function, jit_compile=mode == "xla"), *tensors)
    if backend == "jax":
        import jax

        jitted = jax.jit(function)
        return lambda: jax.block_until_ready(jitted(*tensors))
    import torch

    def call() -> Any:
        with torch.no_grad():
            outputs = function(*tensors)
        _wait_for_torch()
        return outputs

    return call


def _wait_for_torch() -> None:
    """Waits until a GPU has finished the work of PyTorch."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_bytes() -> int:
    """Peak memory of this process."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, `getrusage` includes the peak of the parent process
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text("utf-8"))[1]) * 1024
    import resource  # which Windows does not have

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def has_torch_on_gpu() -> bool:
    """Whether PyTorch is the backend and computes on a GPU."""
    return keras.backend.backend() == "torch" and not timing.device().startswith("cpu")


def times(value: float | None) -> str:
    """A ratio as text."""
    return "–" if value is None else f"{value:.2f}×"
