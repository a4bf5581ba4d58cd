"""The result of `frontier`: nets of several sizes, their margins, and the best one under limits."""

import dataclasses
import os
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self
from zipfile import BadZipFile

import numpy as np

from sepconv_layers.comparison.figure import figure_class, plot_frontier
from sepconv_layers.comparison.record import Names, Record, number
from sepconv_layers.comparison.row import COSTS, SizedRow
from sepconv_layers.comparison.task import ACCURACY
from sepconv_layers.comparison.tradeoff import (
    Difference,
    Margin,
    exceeded,
    goodness,
    margin_at_equal_cost,
    paired_bootstrap,
    pareto_front,
)
from sepconv_layers.files import regular, write

PREDICTIONS = "predictions.npz"
FAMILIES = "separable", "standard"


@dataclasses.dataclass(frozen=True)
class Frontier(Record):
    """The result of `frontier`. `print(frontier)` shows its nets and margins as tables.

    Attributes:
        rows: One `SizedRow` per net.
        predictions: Name of a net to the classes that it predicts for the test part, as (seeds,
            samples), and "labels" to the labels. They are in a file beside the record,
            predictions.npz. Other labels, such as those of pixels, have more axes.

    The other attributes are those of `Record`.
    """

    rows: list[SizedRow]
    predictions: dict[str, np.ndarray] = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )

    NAMES: ClassVar[Names] = Names("frontier.json", "frontier.md", "frontier.png")
    FUNCTION: ClassVar[str] = "frontier"
    CAPTION: ClassVar[str] = "test {metric} against each cost"

    def family(self, conv: str) -> list[SizedRow]:
        """The rows of a family, "separable" or "standard"."""
        return [row for row in self.rows if row.conv == conv]

    def margin(self, cost: str) -> Margin | None:
        """How much more accurate the separable nets are than the standard ones at equal cost.

        If nets are chosen by another metric, it is the difference in that, separable minus
        standard. It is negative where lower is better, such as an error, and separable nets are.

        Args:
            cost: "macs", "params", "infer_ms", "train_step_ms", "train_peak_bytes", "litert_ms",
                "int8_ms" or "int8_bytes".

        Returns:
            A `Margin`, or `None` if the cost was not measured or the families do not overlap in it.

        Raises:
            ValueError: If there is no such cost.
        """
        _check_costs("cost", [cost])
        separable, standard = (
            [(row.costs[cost], row.score["per_seed"]) for row in rows]
            for rows in (self._measured(cost, self.family(conv)) for conv in FAMILIES)
        )
        return margin_at_equal_cost(separable, standard) if separable and standard else None

    def front(self, cost: str) -> list[SizedRow]:
        """The nets of both families that no other beats in both this cost and the test metric."""
        _check_costs("cost", [cost])
        rows = self._measured(cost, self.rows)
        points = [(row.costs[cost], self._sign * row.score["mean"]) for row in rows]
        return [rows[index] for index in pareto_front(points)]

    def best(self, **limits: float) -> SizedRow:
        """The net that is best on the validation part among those within limits.

        Args:
            **limits: The largest value of any cost, such as `macs=5e6` or `int8_bytes=100_000`.

        Returns:
            Its row.

        Raises:
            ValueError: If there is no such cost, or no net is within the limits.

        Example:
            `result.best(macs=5e6, int8_bytes=100_000, litert_ms=1.0)`
        """
        _check_costs("limits", limits)
        within = [row for row in self.rows if not exceeded(row.costs, limits)]
        if not within:
            smallest = {
                name: min(row.costs[name] for row in rows) if rows else "not measured"
                for name in limits
                for rows in [self._measured(name, self.rows)]
            }
            raise ValueError(
                "The limits must leave at least one net. The smallest costs are "
                f"{_listed(smallest)}. Received: {_listed(limits)}."
            )
        return max(within, key=lambda row: self._sign * row.validated["mean"])

    def difference(self, one: SizedRow, other: SizedRow) -> Difference:
        """Compares the test accuracies of two nets by a paired bootstrap over the test samples.

        Where labels are numbers, it compares the mean absolute errors: that of the other net minus
        that of this one, so that a positive difference is in favor of this one.

        Args:
            one: A row.
            other: Another row.

        Raises:
            ValueError: If the record was loaded without its predictions.
        """
        missing = {one.name, other.name, "labels"} - set(self.predictions)
        if missing:
            raise ValueError(
                f"The predictions must be beside the record, in {PREDICTIONS}. Received: a record "
                f"without those of {', '.join(sorted(missing))}."
            )
        labels = self.predictions["labels"]
        return paired_bootstrap(
            *(goodness(self.predictions[row.name], labels) for row in (one, other))
        )

    @staticmethod
    def _measured(cost: str, rows: Sequence[SizedRow]) -> list[SizedRow]:
        return [row for row in rows if cost in row.costs]

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Reads a record and the predictions beside it.

        Args:
            path: The path of the JSON file or of its directory.

        Raises:
            FileNotFoundError: If the record does not exist.
            ValueError: If record or predictions are damaged or of another kind.
        """
        found = super().load(path)
        folder = Path(path) if Path(path).is_dir() else Path(path).parent
        predictions = folder / PREDICTIONS
        if not os.path.lexists(predictions):
            return found
        try:
            # NumPy leaves a file open that it opens itself and finds damaged.
            with regular(predictions).open("rb") as file, np.load(file) as arrays:
                found.predictions.update(arrays)
        except (BadZipFile, EOFError, LookupError, TypeError, ValueError, zlib.error) as error:
            raise ValueError(
                f"The predictions in {PREDICTIONS} must be as `frontier` writes them. Delete the "
                f"file to read the record without them. Received: {str(predictions)!r}, which is "
                f"damaged or of another kind: {error!r}"
            ) from error
        return found

    def save(self, directory: str | os.PathLike) -> None:
        """Writes the record, a report, a picture and the predictions, as `Record.save` does."""
        if self.predictions:
            directory = Path(directory)
            directory.mkdir(parents=True, exist_ok=True)
            write(directory / PREDICTIONS, partial(_savez, self.predictions))
        super().save(directory)

    def plot(self, costs: Sequence[str] = ("macs", "infer_ms", "train_step_ms", "int8_ms")) -> Any:
        """Draws accuracy against each cost that was measured, with a line per family.

        Args:
            costs: Names of costs, as in `margin`.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If there is no such cost.
        """
        _check_costs("costs", costs)
        measured = [cost for cost in costs if self._measured(cost, self.rows)]
        figure = figure_class()(figsize=(4.2 * len(measured), 4), layout="constrained")
        panels = figure.subplots(1, len(measured), squeeze=False, sharey=True)[0]
        for axes, cost in zip(panels, measured, strict=True):
            margin = self.margin(cost)
            title = f"separable {self._margin_text(margin)} at equal cost" if margin else ""
            plot_frontier(axes, self.rows, cost, COSTS[cost], title)
        panels[0].set_ylabel(f"test {self.metric_words}")
        figure.suptitle(self._title(), fontweight="bold")
        return figure

    @classmethod
    def _from_json(cls, record: dict[str, Any]) -> Self:
        record.pop("margins", None)
        rows = [SizedRow.from_record(row) for row in record.pop("rows")]
        return cls(**record, rows=rows)

    def _derived(self) -> dict[str, Any]:
        margins = {cost: self.margin(cost) for cost in COSTS}
        return {
            "margins": {
                cost: margin and dataclasses.asdict(margin) for cost, margin in margins.items()
            }
        }

    @property
    def _is_accuracy(self) -> bool:
        return self.metric_words == ACCURACY

    def _margin_text(self, margin: Margin) -> str:
        """In percentage points of accuracy, or in the unit of another metric."""
        if self._is_accuracy:
            return f"{margin} points"
        spread = "" if margin.std is None else f" ± {margin.std:.2g}"
        return f"{margin.mean:+.4g}{spread}"

    def _tables(self) -> list[list[list[str]]]:
        return [self._nets(), self._margins()]

    def _nets(self) -> list[list[str]]:
        measured = [cost for cost in COSTS if self._measured(cost, self.rows)]
        header = ["net", f"test {self.metric_words}", *(COSTS[cost] for cost in measured)]
        return [header] + [
            [row.name, row.score_text(), *(number(row.costs.get(cost)) for cost in measured)]
            for row in self.rows
        ]

    def _margins(self) -> list[list[str]]:
        unit = "points" if self._is_accuracy else self.metric_words
        rows = [["at equal", f"separable - standard, {unit}", "from", "to"]]
        for cost, label in COSTS.items():
            margin = self.margin(cost)
            if margin is not None:
                text = self._margin_text(margin).removesuffix(" points")
                rows.append([label, text, number(margin.low), number(margin.high)])
        return rows

    def _remarks(self) -> list[str]:
        return [
            f"Test {self.metric_words}: mean ± standard deviation over the seeds "
            f"{self._seeds()}, with the weights that were best on the validation part.",
            f"A margin is the mean difference{' in percentage points' * self._is_accuracy} over "
            f"the costs that both families cover, with {self.metric_words} linear in the logarithm "
            "of the cost between two nets, ± its standard deviation over the seeds.",
            "Times in Keras: medians after warm-up, the nets taking turns in one process, each in "
            "its fastest mode. LiteRT: one sample at a time on one thread.",
        ]


def _savez(arrays: Mapping[str, Any], path: Path) -> None:
    with path.open("wb") as file:  # `savez` would add an ending to the name
        np.savez_compressed(file, **arrays)


def _check_costs(argument: str, names: Any) -> None:
    unknown = [name for name in names if name not in COSTS]
    if unknown:
        raise ValueError(
            f"The `{argument}` argument must name costs: {', '.join(COSTS)}. Received: "
            f"{', '.join(map(repr, unknown))}."
        )


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())
