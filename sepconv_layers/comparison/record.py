"""The result of a comparison: plain data that prints, saves and loads."""

import dataclasses
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import keras

from sepconv_layers import tables
from sepconv_layers.comparison.figure import figure_class, plot_accuracy, plot_speedup
from sepconv_layers.comparison.row import Row
from sepconv_layers.files import regular, write, write_text

FILES = RECORD, REPORT, PICTURE = "results.json", "report.md", "comparison.png"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The result of `compare`. `print(comparison)` shows it as a table.

    Attributes:
        task: The task, such as "Text classification".
        dataset: Name of the data.
        command: The command that reproduces this record.
        device: The processor.
        backend: Keras backend.
        versions: Name of a package to its version.
        wall_seconds: Total time, including the earlier parts of a resumed comparison.
        budget: `epochs`, `batch_size`, `seeds` and `training_samples`, the same for all nets.
        mac_ratio: MACs of the standard net divided by MACs of the separable net, or `None` if
            one of the nets is missing or has no MACs that can be counted.
        speedup: `infer` and `train`: time of the standard net divided by time of the separable
            net, each in its fastest mode; `infer` is for the largest batch size measured.
        realized_fraction: `speedup` divided by `mac_ratio`.
        rows: One `Row` per net.
        notes: Further findings, one sentence each.
        test_part: `samples`, and `largest_class`: the share of the largest class, which is the
            accuracy of always predicting that class. Empty in records of older versions.
        models: The trained models by `conv`. `results.json` does not contain them, and `save`
            does not write them.
    """

    task: str
    dataset: str
    command: str
    device: str
    backend: str
    versions: dict[str, str]
    wall_seconds: float
    budget: dict[str, Any]
    mac_ratio: float | None
    speedup: dict[str, float]
    realized_fraction: dict[str, float]
    rows: list[Row]
    notes: list[str] = dataclasses.field(default_factory=list)
    test_part: dict[str, float] = dataclasses.field(default_factory=dict)
    models: dict[str, keras.Model] = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )

    def __str__(self) -> str:
        """The rows as an aligned table, with sentences below it."""
        return "\n".join([self._title(), tables.text(self._cells()), *self._sentences()])

    def to_markdown(self) -> str:
        """The table and the sentences in Markdown."""
        return "\n\n".join([tables.markdown(self._cells()), *self._sentences()])

    def to_json(self) -> str:
        """The record, without the models."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "models"]
        record = {name: getattr(self, name) for name in names}
        return json.dumps(record, indent=2, default=dataclasses.asdict) + "\n"

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Comparison":
        """Reads a `results.json`, given its path or the path of its directory.

        Raises:
            FileNotFoundError: If it does not exist.
            ValueError: If it is not such a record.
        """
        path = Path(path)
        path = path / RECORD if path.is_dir() else path
        if not os.path.lexists(path):
            raise FileNotFoundError(f"{path} does not exist. A comparison writes it at the end.")
        try:
            record = json.loads(regular(path).read_text("utf-8"))
            return cls(**record | {"rows": [Row.from_record(row) for row in record["rows"]]})
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(
                "The `path` argument must be a results.json as `compare` writes it. Received: "
                f"path={str(path)!r}, which is truncated or of another kind: {error!r}"
            ) from error

    def save(self, directory: str | os.PathLike) -> None:
        """Writes `results.json`, `report.md` and `comparison.png`.

        Each file is written beside its target and then renamed. Other files stay untouched.

        Raises:
            ImportError: If matplotlib, which draws the picture, is not installed. The other files
                are written.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_text(directory / RECORD, self.to_json())
        write_text(directory / REPORT, self._report())
        write(directory / PICTURE, partial(self.plot().savefig, dpi=150))

    def plot(self) -> Any:
        """Draws accuracy against MACs, and the measured against the ideal speed-up.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        panels = 2 if self.mac_ratio else 1
        figure = figure_class()(figsize=(5.2 * panels, 4.2), layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False)[0]
        plot_accuracy(axes[0], self.rows)
        if self.mac_ratio:
            plot_speedup(axes[1], self.mac_ratio, self.speedup)
        figure.suptitle(self._title(), fontweight="bold")
        return figure

    def _title(self) -> str:
        return f"{self.task}: {self.dataset}" if self.dataset else self.task

    def _cells(self) -> list[list[str]]:
        sizes = list(self.rows[0].infer_ms)
        infer = [f"inference ms, batch {size}" for size in sizes]
        step = f"training step ms, batch {self.budget['batch_size']}"
        kinds = list(self.rows[0].artifacts)
        has_embedding = any(row.embedding_params for row in self.rows)
        params = "parameters, embedding + rest" if has_embedding else "parameters"
        sizes_of = [f"{'.keras' if kind == 'keras' else kind} kB" for kind in kinds]
        header = ["net", "test accuracy", params, "MACs", *infer, step, *sizes_of]
        return [header] + [
            [
                row.conv,
                row.accuracy_text(),
                f"{row.embedding_params:,} + " * has_embedding
                + f"{row.params - row.embedding_params:,}",
                f"{row.macs / 1e6:,.2f} M",
                *(f"{row.infer_ms[size]:.2f} ({row.infer_mode[size]})" for size in sizes),
                f"{row.train_step_ms:.2f} ({row.train_mode})",
                *(f"{row.artifacts[kind]['bytes'] / 1e3:,.0f}" for kind in kinds),
            ]
            for row in self.rows
        ]

    def _sentences(self) -> list[str]:
        return [*self._majority_baseline(), *self._gains(), *self.notes]

    def _majority_baseline(self) -> list[str]:
        if not self.test_part:
            return []
        samples, share = self.test_part["samples"], self.test_part["largest_class"]
        return [
            f"The test part has {samples:,} samples. Always predicting its largest class would "
            f"give an accuracy of {share:.4f}."
        ]

    def _gains(self) -> list[str]:
        if not self.mac_ratio:
            return []
        infer, train = (
            f"{self.speedup[key]:.2f} times as fast ({self.realized_fraction[key]:.0%} of that)"
            for key in ("infer", "train")
        )
        return [
            f"The separable net has {self.mac_ratio:.2f} times fewer MACs. Its inference is "
            f"{infer}, and its training step {train}."
        ]

    def _report(self) -> str:
        budget, versions = self.budget, map(" ".join, self.versions.items())
        return f"""# {self._title()}

{self.to_markdown()}

![Accuracy against MACs, and measured against ideal speed-up]({PICTURE})

- Test accuracy: mean ± standard deviation over the seeds {", ".join(map(str, budget["seeds"]))},
  with the weights that were best on the validation part. The `.keras` files are from the seed that
  was best on that part.
- Budget of each net: {budget["training_samples"]:,} training samples, {budget["epochs"]} epochs,
  batch size {budget["batch_size"]}, the same optimizer, schedule and regularization.
- Times: medians of `predict_on_batch` and `train_on_batch` after warm-up. The nets take turns in
  one process, each in its fastest mode. The inference speed-up is for the largest batch size.
- Device: {self.device}. Backend: {self.backend}.
- Versions: {", ".join(versions)}.
- Run time: {self.wall_seconds:,.0f} seconds. Command: `{self.command or "sepconv_layers.compare"}`.
"""
