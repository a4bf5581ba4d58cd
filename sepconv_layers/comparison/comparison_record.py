"""The result of `compare`: accuracy, cost and speed of twins."""

import dataclasses
from typing import Any, ClassVar, Self

import keras
import numpy as np

from sepconv_layers.comparison.figure import figure_class, plot_scores, plot_speedup
from sepconv_layers.comparison.record import Names, Record, number
from sepconv_layers.comparison.row import Row, spread_text
from sepconv_layers.comparison.task import words

PER_CLASS = "precision", "recall", "f1", "iou", "mean_absolute_error"  # figures in a report
SHOWN_CLASSES, CONFUSED_CLASSES = 50, 12  # at most, in a report; a record has more


@dataclasses.dataclass(frozen=True)
class Comparison(Record):
    """The result of `compare`. `print(comparison)` shows it as a table.

    Attributes:
        mac_ratio: MACs of the standard net divided by MACs of the separable net, or `None` if
            one of the nets is missing or has no MACs that can be counted.
        speedup: `infer` and `train`: time of the standard net divided by time of the separable
            net, each in its fastest mode; `infer` is for the largest batch size measured.
        realized_fraction: `speedup` divided by `mac_ratio`.
        rows: One `Row` per net.
        models: The trained models by `conv`. `results.json` does not contain them, and `save`
            does not write them.

    The other attributes are those of `Record`.
    """

    mac_ratio: float | None
    speedup: dict[str, float]
    realized_fraction: dict[str, float]
    rows: list[Row]
    models: dict[str, keras.Model] = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )

    NAMES: ClassVar[Names] = Names("results.json", "report.md", "comparison.png")
    FUNCTION: ClassVar[str] = "compare"
    CAPTION: ClassVar[str] = "{metric} against MACs, and measured against ideal speed-up"

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
        plot_scores(axes[0], self.rows, self.metric_words)
        if self.mac_ratio:
            plot_speedup(axes[1], self.mac_ratio, self.speedup)
        figure.suptitle(self._title(), fontweight="bold")
        return figure

    @classmethod
    def _from_json(cls, record: dict[str, Any]) -> Self:
        return cls(**record | {"rows": [Row.from_record(row) for row in record["rows"]]})

    def _tables(self) -> list[list[list[str]]]:
        return [self._cells(), *self._per_class()]

    def _per_class(self) -> list[list[list[str]]]:
        """The figures of each class, and the confusion matrices, if the record has them."""
        by_net = {row.conv: row.per_class for row in self.rows}
        first = by_net[self.rows[0].conv]
        if not 1 < len(first) <= SHOWN_CLASSES:
            return []
        names, figures = list(first), list(next(iter(first.values())))
        shown = [figure for figure in PER_CLASS if figure in figures]
        header = ["label", *["share"] * ("share" in figures)]
        header += [f"{words(figure)}, {conv}" for figure in shown for conv in by_net]
        rows = [
            [name, *(f"{first[name][each]:.4f}" for each in ["share"] if each in figures)]
            + [f"{found[name][each]:.4f}" for each in shown for found in by_net.values()]
            for name in names
        ]
        return [[header, *rows], *self._confusion(names)]

    def _confusion(self, names: list[str]) -> list[list[list[str]]]:
        matrices = {row.conv: row.confusion for row in self.rows if np.ndim(row.confusion) == 2}
        if len(names) > CONFUSED_CLASSES:
            return []
        return [
            [[f"{conv}: label", *(f"as {name}" for name in names)]]
            + [[name, *map(number, counts)] for name, counts in zip(names, matrix, strict=True)]
            for conv, matrix in matrices.items()
        ]

    def _cells(self) -> list[list[str]]:
        sizes = list(self.rows[0].infer_ms)
        infer = [f"inference ms, batch {size}" for size in sizes]
        step = f"training step ms, batch {self.budget['batch_size']}"
        kinds = list(self.rows[0].artifacts)
        has_embedding = any(row.embedding_params for row in self.rows)
        params = "parameters, embedding + rest" if has_embedding else "parameters"
        sizes_of = [f"{'.keras' if kind == 'keras' else kind} kB" for kind in kinds]
        has_micro = "micro" in kinds
        micro = ["arena KiB", "micro accuracy"] * has_micro
        others = list(self.rows[0].scores)[0 if self.rows[0].accuracy else 1 :]
        scores = [f"test {self.metric_words}", *(f"test {words(name)}" for name in others)]
        header = ["net", *scores, params, "MACs", *infer, step, *sizes_of, *micro]
        return [header] + [
            [
                row.conv,
                row.score_text(),
                *(spread_text(row.scores[name]) for name in others),
                f"{row.embedding_params:,} + " * has_embedding
                + f"{row.params - row.embedding_params:,}",
                f"{row.macs / 1e6:,.2f} M",
                *(f"{row.infer_ms[size]:.2f} ({row.infer_mode[size]})" for size in sizes),
                f"{row.train_step_ms:.2f} ({row.train_mode})",
                *(f"{row.artifacts[kind]['bytes'] / 1e3:,.0f}" for kind in kinds),
                *(_micro_cells(row.artifacts["micro"]) if has_micro else ()),
            ]
            for row in self.rows
        ]

    def _sentences(self) -> list[str]:
        return [*self._baseline(), *self._gains(), *self.notes]

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

    def _remarks(self) -> list[str]:
        return [
            f"Test {self.metric_words}: mean ± standard deviation over the seeds "
            f"{self._seeds()}, with the weights that were best on the validation part. The "
            "`.keras` files are from the seed that was best on that part.",
            "Times: medians of `predict_on_batch` and `train_on_batch` after warm-up. The nets "
            "take turns in one process, each in its fastest mode. The inference speed-up is for "
            "the largest batch size.",
        ]


def _micro_cells(artifact: dict[str, Any]) -> list[str]:
    """The memory of a net on a microcontroller, and the accuracy of its int8 file."""
    return [f"{artifact['arena_bytes'] / 1024:,.1f}", f"{artifact['accuracy']:.4f}"]
