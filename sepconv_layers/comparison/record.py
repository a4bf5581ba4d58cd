"""What all results have in common: plain data that prints, saves and loads."""

import dataclasses
import json
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from sepconv_layers import tables
from sepconv_layers.comparison.row import OPTIONAL, plain
from sepconv_layers.comparison.task import SIGNS, words
from sepconv_layers.files import regular, write_report

WIDTH = 100  # of the lines of a report


class Names(NamedTuple):
    """The names of the files of a result."""

    record: str
    report: str
    picture: str


@dataclasses.dataclass(frozen=True)
class Record:
    """The result of a function that trains nets.

    Attributes:
        task: The task, such as "Text classification".
        dataset: Name of the data.
        command: The command that reproduces this record.
        device: The processor.
        backend: Keras backend.
        versions: Name of a package to its version.
        wall_seconds: Total time, including the earlier parts of a resumed run.
        budget: `epochs`, `batch_size`, `seeds` and `training_samples`, the same for all nets.
        notes: Further findings, one sentence each.
        test_part: `samples`, and `largest_class`: the share of the largest class, which is the
            accuracy of always predicting that class. Empty in records of older versions. Unless
            the task is the default one, also `constant`: the best net that ignores its inputs,
            such as "the mean", and its monitored metric by name.
        metric: `name` of the metric by which nets and epochs are chosen, and its `mode`, "max" or
            "min". Empty for the default: accuracy. `budget` then has `loss`, `class_weight` and
            the names of the parts with `sample_weights`, too.
    """

    task: str
    dataset: str
    command: str
    device: str
    backend: str
    versions: dict[str, str]
    wall_seconds: float
    budget: dict[str, Any]
    notes: list[str] = dataclasses.field(default_factory=list, kw_only=True)
    test_part: dict[str, Any] = dataclasses.field(default_factory=dict, kw_only=True)
    metric: dict[str, str] = dataclasses.field(
        default_factory=dict, kw_only=True, metadata=OPTIONAL
    )

    NAMES: ClassVar[Names]
    FUNCTION: ClassVar[str]  # that returns such a record
    CAPTION: ClassVar[str]  # of the picture, with a place for the metric

    def __str__(self) -> str:
        """The tables, aligned, with sentences below them."""
        shown = "\n\n".join(map(tables.text, self._tables()))
        return "\n".join([self._title(), shown, *self._sentences()])

    def to_markdown(self) -> str:
        """The tables and the sentences in Markdown."""
        return "\n\n".join([*map(tables.markdown, self._tables()), *self._sentences()])

    def to_json(self) -> str:
        """The record, without what is kept in other files."""
        names = [field.name for field in dataclasses.fields(self) if field.repr]
        names = [name for name in names if name != "metric" or self.metric]
        record = {name: getattr(self, name) for name in names} | self._derived()
        return json.dumps(record, indent=2, default=plain) + "\n"

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Reads a record, given the path of its JSON file or of its directory.

        Raises:
            FileNotFoundError: If it does not exist.
            ValueError: If it is not such a record.
        """
        path = Path(path)
        path = path / cls.NAMES.record if path.is_dir() else path
        if not os.path.lexists(path):
            raise FileNotFoundError(
                f"{path} does not exist. `{cls.FUNCTION}` writes it at the end."
            )
        try:
            return cls._from_json(json.loads(regular(path).read_text("utf-8")))
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise cls._unreadable(path, error) from error

    def save(self, directory: str | os.PathLike) -> None:
        """Writes the record, a report and a picture.

        Each file is written beside its target and then renamed. Other files stay untouched.

        Raises:
            ImportError: If matplotlib, which draws the picture, is not installed. The other files
                are written.
        """
        texts = {self.NAMES.record: self.to_json(), self.NAMES.report: self._report()}
        write_report(directory, texts, self.NAMES.picture, self.plot)

    def plot(self) -> Any:
        """Draws the result as a `matplotlib.figure.Figure`."""
        raise NotImplementedError

    @classmethod
    def _from_json(cls, record: dict[str, Any]) -> Self:
        raise NotImplementedError

    @classmethod
    def _unreadable(cls, path: Path, error: Exception) -> ValueError:
        return ValueError(
            f"The `path` argument must be a {cls.NAMES.record} as `{cls.FUNCTION}` writes it. "
            f"Received: path={str(path)!r}, which is truncated or of another kind: {error!r}"
        )

    def _derived(self) -> dict[str, Any]:
        """What the JSON file has beside the fields."""
        return {}

    def _tables(self) -> Sequence[list[list[str]]]:
        """The cells of each table, with a header."""
        raise NotImplementedError

    def _sentences(self) -> Sequence[str]:
        return [*(self._baseline() if self.metric else []), *self.notes]

    def _remarks(self) -> Sequence[str]:
        """How to read the tables: the first points of the report, in Markdown."""
        raise NotImplementedError

    def _title(self) -> str:
        return f"{self.task}: {self.dataset}" if self.dataset else self.task

    def _caption(self) -> str:
        caption = self.CAPTION.format(metric=self.metric_words)
        return caption[:1].upper() + caption[1:]

    @property
    def metric_words(self) -> str:
        """The metric by which nets and epochs are chosen, in words."""
        return words(self.metric.get("name", "accuracy"))

    @property
    def _sign(self) -> int:
        """1 if higher values of the metric are better, or -1."""
        return SIGNS[self.metric.get("mode", "max")]

    def _baseline(self) -> list[str]:
        """A sentence on what a net that ignores its inputs can reach."""
        if not self.test_part:
            return []
        samples = f"The test part has {self.test_part['samples']:,} samples."
        if "constant" in self.test_part:
            what, value = self.test_part["constant"], self.test_part[self.metric["name"]]
            return [f"{samples} Always predicting {what}: {self.metric_words} {value:.4f}."]
        share = self.test_part["largest_class"]
        return [
            f"{samples} Always predicting its largest class would give an accuracy of {share:.4f}."
        ]

    def _seeds(self) -> str:
        return ", ".join(map(str, self.budget["seeds"]))

    def _report(self) -> str:
        budget, versions = self.budget, map(" ".join, self.versions.items())
        spent = (
            f"Budget of each net: {budget['training_samples']:,} training samples, "
            f"{budget['epochs']} epochs, batch size {budget['batch_size']}, the same optimizer, "
            f"schedule and regularization.{self._loss()}"
        )
        points = "\n".join(
            textwrap.fill(f"- {remark}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)
            for remark in (*self._remarks(), spent)
        )
        return f"""# {self._title()}

{self.to_markdown()}

![{self._caption()}]({self.NAMES.picture})

{points}
- Device: {self.device}. Backend: {self.backend}.
- Versions: {", ".join(versions)}.
- Run time: {self.wall_seconds:,.0f} seconds. Command: `{self.command or self._call()}`.
"""

    def _loss(self) -> str:
        loss, weights, weighted = (
            self.budget.get(name) for name in ("loss", "class_weight", "sample_weights")
        )
        if not loss:
            return ""
        listed = ", ".join(f"{name}: {weight:g}" for name, weight in (weights or {}).items())
        return (
            f" Loss: {loss}"
            + (f", with weights of the classes, {listed}" if listed else "")
            + (f", with sample weights in {', '.join(weighted)}" if weighted else "")
            + "."
        )

    def _call(self) -> str:
        return f"sepconv_layers.{self.FUNCTION}"


def number(value: float | None) -> str:
    """A count with separators, or four significant digits of a time."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
