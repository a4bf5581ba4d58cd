"""The result of `profile`: prints as a table, plots, and converts to Markdown and JSON."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from sepconv_layers import tables
from sepconv_layers.extras import require
from sepconv_layers.files import write

_TEXT_COLUMNS = 3  # layer, kind, output shape


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """One row of a `Profile`: all calls of a layer with the same shapes.

    Attributes:
        name: Name of the layer, preceded by those of the models and blocks around it, as a path.
        kind: Name of its class.
        input_shape: Shape of the input with a batch of 1, or a tuple of shapes.
        output_shape: Shape of the output with a batch of 1, or a tuple of shapes.
        calls: Number of calls with these shapes.
        params: Number of parameters, except those that an earlier row already counts.
        macs: Multiply-accumulates of all calls; `None` if they cannot be counted.
        activations: Number of elements in the outputs of all calls.
        bytes: Bytes of the weights, inputs and outputs of all calls.
    """

    name: str
    kind: str
    input_shape: tuple
    output_shape: tuple
    calls: int
    params: int
    macs: int | None
    activations: int
    bytes: int

    @property
    def intensity(self) -> float | None:
        """MACs per byte moved; `None` if the MACs cannot be counted."""
        return None if self.macs is None else self.macs / max(self.bytes, 1)


@dataclasses.dataclass(frozen=True)
class Profile:
    """The cost of one forward pass with one sample; `print` shows it as a table.

    Attributes:
        name: Name of the model.
        params: Number of parameters of the model.
        rows: One `LayerCost` for each layer, in the order of the first call.
    """

    name: str
    params: int
    rows: tuple[LayerCost, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all layers that can be counted."""
        return sum(row.macs or 0 for row in self.rows)

    @property
    def activations(self) -> int:
        """Number of elements in the outputs of all layers."""
        return sum(row.activations for row in self.rows)

    @property
    def bytes(self) -> int:
        """Bytes moved, if each layer reads its weights and inputs and writes its outputs."""
        return sum(row.bytes for row in self.rows)

    @property
    def intensity(self) -> float:
        """MACs per byte moved."""
        return self.macs / max(self.bytes, 1)

    @property
    def uncounted(self) -> tuple[str, ...]:
        """Layers whose MACs are unknown and missing from the total, as `"name (Kind)"`."""
        names = [f"{row.name} ({row.kind})" for row in self.rows if row.macs is None]
        return tuple(dict.fromkeys(names))

    def __str__(self) -> str:
        table = tables.text(self._cells(), _TEXT_COLUMNS, has_total=True)
        return "\n".join([table, *self._notes()])

    def to_markdown(self) -> str:
        """Returns the table in Markdown."""
        table = tables.markdown(self._cells(), _TEXT_COLUMNS)
        return "\n\n".join([table, *self._notes()])

    def to_json(self) -> str:
        """Returns totals and rows as a JSON object, with `null` for unknown counts."""
        totals = ("name", "macs", "params", "activations", "bytes", "intensity", "uncounted")
        rows = [{**dataclasses.asdict(row), "intensity": row.intensity} for row in self.rows]
        return json.dumps({**{key: getattr(self, key) for key in totals}, "rows": rows})

    def plot(self, path: str | os.PathLike | None = None) -> Any:
        """Plots the MACs and bytes of each layer that has MACs as bars.

        Args:
            path: File to write, in the format of its suffix; by default none.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        rows = [row for row in reversed(self.rows) if row.macs]
        places = range(len(rows))  # positions, because two rows can have the same name
        figure_class = require("matplotlib.figure", "plot", "Profile.plot").Figure
        figure = figure_class(figsize=(10, 1.5 + 0.2 * len(rows)), layout="constrained")
        figure.suptitle(f"{self.name}: {self.macs / 1e6:,.1f} M MACs, {self.params:,} parameters")
        macs, moved = figure.subplots(1, 2, sharey=True)
        macs.barh(places, [(row.macs or 0) / 1e6 for row in rows])
        macs.set_yticks(places, [row.name for row in rows])
        macs.set_xlabel("MACs (millions)")
        moved.barh(places, [row.bytes / 1e6 for row in rows], color="tab:orange")
        moved.set_xlabel("bytes moved (millions)")
        if path is not None:
            write(Path(path), figure.savefig)
        return figure

    def _cells(self) -> list[list[str]]:
        header = "layer|kind|output shape|params|MACs|activations|bytes|MACs/byte".split("|")
        body = [
            [
                row.name if row.calls == 1 else f"{row.name} x{row.calls}",
                row.kind,
                str(row.output_shape),
                f"{row.params:,}",
                "?" if row.macs is None else f"{row.macs:,}",
                f"{row.activations:,}",
                f"{row.bytes:,}",
                "?" if row.macs is None else f"{row.intensity:.2f}",
            ]
            for row in self.rows
        ]
        counts = (self.params, self.macs, self.activations, self.bytes)
        total = ["total", "", "", *(f"{count:,}" for count in counts), f"{self.intensity:.2f}"]
        return [header, *body, total]

    def _notes(self) -> list[str]:
        return [f"Not counted: {', '.join(self.uncounted)}"] if self.uncounted else []
