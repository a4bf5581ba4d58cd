"""The report of a conversion: plain data that prints, plots and is saved."""

import dataclasses
import json
import os
from typing import Any

from sepconv_layers import tables
from sepconv_layers.convert.report import LayerReport
from sepconv_layers.extras import require
from sepconv_layers.files import write_report


@dataclasses.dataclass(frozen=True)
class ConvertedLayer:
    """Report on a convolution.

    Attributes:
        name: Path of the layer in the model.
        rank: Number of depthwise output channels per input channel; `None` if the layer is still a
            standard convolution.
        error: Relative Frobenius error of the kernel (0 = exact). A kernel that is fitted to data
            is farther from the original one than the closest kernel is.
        macs_ratio: MACs of the new layer divided by MACs of the old one.
        output_error: Relative root-mean-square error of the outputs on the data, before the
            activation: the root of the share of their variance that is lost. `None` without data.
        macs_before: MACs of all calls of the old layer; `None` if the model has open sizes.
        macs_after: MACs of all calls of the new layer; `None` if the model has open sizes.
    """

    name: str
    rank: int | None
    error: float
    macs_ratio: float
    output_error: float | None = None
    macs_before: int | None = None
    macs_after: int | None = None


@dataclasses.dataclass(frozen=True)
class Conversion(LayerReport[ConvertedLayer]):
    """The report of `to_separable`, a sequence of `ConvertedLayer`; `print` shows it as a table.

    Attributes:
        name: Name of the model.
        layers: One row for each convolution, in the order of the model.
        macs_before: MACs of the whole model for one sample; `None` if it has open sizes.
        macs_after: MACs of the converted model; `None` if it has open sizes.
        notes: Further findings, one sentence each.
    """

    name: str
    layers: tuple[ConvertedLayer, ...]
    macs_before: int | None = None
    macs_after: int | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Returns the report as a JSON object, with `null` for what is unknown."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    def plot(self) -> Any:
        """Draws the error and the MACs of each layer as a `matplotlib.figure.Figure`.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        figure_class = require("matplotlib.figure", "plot", "Conversion.plot").Figure
        figure = figure_class(figsize=(10, 1.8 + 0.22 * len(self)), layout="constrained")
        figure.suptitle(self._title())
        rows, places = self.layers[::-1], range(len(self))
        errors, macs = figure.subplots(1, 2, sharey=True)
        errors.barh(places, [row.error for row in rows], color="0.8", label="kernel")
        measured = [
            (place, row.output_error)
            for place, row in zip(places, rows, strict=True)
            if row.output_error is not None
        ]
        if measured:
            at, values = zip(*measured, strict=True)
            errors.plot(values, at, "o", color="tab:blue", label="output")
        errors.set_yticks(places, [f"{row.name} ({_rank(row)})" for row in rows])
        errors.set_xlabel("relative error")
        errors.legend(frameon=False)
        is_known = self.macs_before is not None
        before = [(row.macs_before or 0) / 1e6 if is_known else 1.0 for row in rows]
        after = [(row.macs_after or 0) / 1e6 if is_known else row.macs_ratio for row in rows]
        macs.barh(places, before, color="0.8", label="before")
        macs.barh(places, after, height=0.4, color="tab:blue", label="after")
        macs.set_xlabel("MACs (millions)" if is_known else "MACs, new ÷ old")
        macs.legend(frameon=False)
        return figure

    def save(self, directory: str | os.PathLike) -> None:
        """Writes `report.json`, `report.md` and `report.png`.

        Each file is written beside its target and then renamed. Other files stay untouched.

        Raises:
            ImportError: If matplotlib, which draws the picture, is not installed. The other files
                are written.
        """
        picture = "![Error and MACs of each layer](report.png)"
        text = f"# {self._title()}\n\n{self.to_markdown()}\n\n{picture}\n"
        texts = {"report.json": self.to_json(), "report.md": text}
        write_report(directory, texts, "report.png", self.plot)

    def _title(self) -> str:
        if self.macs_before is None or self.macs_after is None:
            return self.name
        millions = f"{self.macs_after / 1e6:,.2f} of {self.macs_before / 1e6:,.2f} million MACs"
        return f"{self.name}: {millions}"

    def _rows(self) -> list[tables.Cells]:
        header = "layer|rank|kernel error|output error|MACs before|MACs after|after ÷ before"
        rows = [
            [
                row.name,
                _rank(row),
                f"{row.error:.1%}",
                "–" if row.output_error is None else f"{row.output_error:.1%}",
                _count(row.macs_before),
                _count(row.macs_after),
                f"{row.macs_ratio:.3f}",
            ]
            for row in self
        ]
        return [header.split("|"), *rows]

    def _total(self) -> list[tables.Cells]:
        if self.macs_before is None or self.macs_after is None:
            return []
        counts = _count(self.macs_before), _count(self.macs_after)
        ratio = self.macs_after / max(self.macs_before, 1)
        return [["whole model", "", "", "", *counts, f"{ratio:.3f}"]]


def _rank(row: ConvertedLayer) -> str:
    return "standard" if row.rank is None else str(row.rank)


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"
