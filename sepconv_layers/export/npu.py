"""Arm's estimate of how a LiteRT file runs on its Ethos-U NPU, by the compiler Vela."""

import csv
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ACCELERATOR = "ethos-u55-128"
RUN_VELA = "from ethosu.vela.vela import main; main()"


def npu_estimate(path: Path) -> dict[str, Any] | None:
    """Compiles a file for an Ethos-U NPU, without keeping the result.

    Args:
        path: A quantized LiteRT file.

    Returns:
        The `accelerator`, its system configuration, the `operator_share` that runs on it and the
        estimated `cycles`; `None` if the package `ethos-u-vela` is not installed.

    Raises:
        ValueError: If Vela cannot compile the file.
    """
    if not find_spec("ethosu"):
        return None
    with tempfile.TemporaryDirectory() as folder:
        options = ["--accelerator-config", ACCELERATOR, "--output-dir", folder]
        command = [sys.executable, "-c", RUN_VELA, str(path), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        share = re.search(r"NPU operators = \d+ \((.*)%\)", done.stdout)
        summaries = list(Path(folder).glob("*_summary_*.csv"))
        if done.returncode != 0 or not share or not summaries:
            reason = (done.stderr or done.stdout).strip()
            raise ValueError(f"Vela cannot compile the model for {ACCELERATOR}: {reason}")
        with open(summaries[0], newline="") as file:
            (summary,) = csv.DictReader(file)
    return {
        "accelerator": ACCELERATOR,
        "system": f"{summary['system_config']}, {summary['memory_mode']}",
        "operator_share": float(share[1]) / 100,
        "cycles": int(float(summary["cycles_total"])),
    }
