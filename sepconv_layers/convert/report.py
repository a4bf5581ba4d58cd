"""What the reports of all conversions have in common: a row for each layer, and their table."""

import abc
from collections.abc import Sequence
from typing import TypeVar, overload

from sepconv_layers import tables

Row = TypeVar("Row")


class LayerReport(Sequence[Row], abc.ABC):
    """A report of rows for layers; `print` shows it as a table.

    Attributes:
        layers: One row for each layer, in the order of the model.
        notes: Further findings, one sentence each.
    """

    layers: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.layers)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        return self.layers[index]

    def __str__(self) -> str:
        rows, total = self._rows(), self._total()
        return "\n".join([tables.text([*rows, *total], has_total=bool(total)), *self.notes])

    def to_markdown(self) -> str:
        """Returns the table and the notes in Markdown."""
        return "\n\n".join([tables.markdown([*self._rows(), *self._total()]), *self.notes])

    @abc.abstractmethod
    def _rows(self) -> list[tables.Cells]:
        """The cells of the header and of each layer."""

    def _total(self) -> list[tables.Cells]:
        """The cells of the whole model, if they are known."""
        return []
