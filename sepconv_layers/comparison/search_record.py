"""The result of `search`: the nets that were tried, and the best one of each family."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Self

from sepconv_layers.comparison.figure import figure_class, plot_trials
from sepconv_layers.comparison.limits import LIMITS
from sepconv_layers.comparison.record import Names, Record, number
from sepconv_layers.comparison.row import COSTS, OPTIONAL, Row
from sepconv_layers.comparison.tradeoff import pareto_front

TRAINED, STOPPED, DIVERGED = "trained", "stopped early", "diverged"
OVER_LIMITS, REFUSED, REPEATED = "over limits", "refused", "repeated"
TRAINING = TRAINED, STOPPED, DIVERGED
SHOWN = 10  # trials of each family in a table


@dataclasses.dataclass(frozen=True)
class Trial:
    """One net of a search.

    Attributes:
        conv: "separable" or "standard".
        number: Its place among the suggestions for this family, from 0.
        choices: The arguments of `build`.
        outcome: "trained"; "stopped early", because nets before it were better at that epoch;
            "diverged", if a loss was not finite; "over limits"; or "refused", if `build` raised a
            `ValueError`. The last two cost no training.
        costs: `macs`, `params` and, if it was measured, `int8_bytes`.
        val_accuracy: The best validation accuracy of any epoch, or `None` without training and if
            nets are chosen by another metric.
        epochs: The number of epochs it was trained for.
        seconds: How long they took.
        note: The limits that it exceeds, or what `build` said.
        key: A hash of the net and of all that its training depends on; empty without a net.
        val_score: The best value of that metric.
    """

    conv: str
    number: int
    choices: dict[str, Any]
    outcome: str = ""
    costs: dict[str, float] = dataclasses.field(default_factory=dict)
    val_accuracy: float | None = None
    epochs: int = 0
    seconds: float = 0.0
    note: str = ""
    key: str = ""
    val_score: float | None = dataclasses.field(default=None, metadata=OPTIONAL)

    @property
    def score(self) -> float | None:
        """The best value of the metric by which nets are chosen, or `None` without training."""
        return self.val_score if self.val_accuracy is None else self.val_accuracy

    def choices_text(self) -> str:
        """The choices in a line."""
        return ", ".join(
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in self.choices.items()
        )


@dataclasses.dataclass(frozen=True)
class Search(Record):
    """The result of `search`. `print(search)` shows the best nets.

    Attributes:
        space: Name of a choice to its values: a list, or a range with `low` and `high`.
        limits: Name of a cost to its largest value.
        trials: One `Trial` per suggestion, in order. Suggestions of a net that was tried before
            are left out.
        rows: One `Row` per family: its best net, trained with every seed, with its test accuracy,
            as in a `Comparison`.

    The other attributes are those of `Record`; `budget` also has `trials`, for each family.
    """

    space: dict[str, Any]
    limits: dict[str, float]
    trials: list[Trial]
    rows: list[Row]

    NAMES: ClassVar[Names] = Names("search.json", "search.md", "search.png")
    FUNCTION: ClassVar[str] = "search"
    CAPTION: ClassVar[str] = "validation {metric} of each trial, and against each cost"

    def best(self, conv: str | None = None) -> Trial:
        """The trial that is best on the validation part, with the fewest MACs among equals.

        Args:
            conv: "separable" or "standard"; by default both count.

        Raises:
            ValueError: If no net of that family was trained.
        """
        family = [trial for trial in self.trials if conv in (None, trial.conv)]
        best = best_of(family, self._sign)
        if best is None:
            raise ValueError(
                f"`conv` must be a family of which nets were trained. Received: conv={conv!r}."
            )
        return best

    def front(self, cost: str = "macs") -> list[Trial]:
        """The nets that no other net beats in both this cost and the validation metric.

        Args:
            cost: "macs", "params" or "int8_bytes".

        Raises:
            ValueError: If there is no such cost, or it was not measured.
        """
        trained = [trial for trial in self._trained() if cost in trial.costs]
        if not trained:
            raise ValueError(
                f"`cost` must be one that was measured, of {', '.join(LIMITS)}; 'int8_bytes' is if "
                f"it is limited. Received: cost={cost!r}."
            )
        points = [(trial.costs[cost], self._sign * (trial.score or 0.0)) for trial in trained]
        return [trained[index] for index in pareto_front(points)]

    def plot(self) -> Any:
        """Draws the validation metric by trial, and against MACs and each limited cost.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        measured = [cost for cost in LIMITS if cost == "macs" or cost in self.limits]
        figure = figure_class()(figsize=(4.2 * (1 + len(measured)), 4), layout="constrained")
        panels = figure.subplots(1, 1 + len(measured), squeeze=False, sharey=True)[0]
        better = max if self._sign > 0 else min
        numbers = self._points(lambda trial: trial.number)
        plot_trials(panels[0], numbers, "trial", better=better)
        for axes, cost in zip(panels[1:], measured, strict=True):
            plot_trials(
                axes,
                self._points(partial(_cost, name=cost)),
                COSTS[cost],
                self.limits.get(cost),
                better,
            )
        panels[0].set_ylabel(f"validation {self.metric_words}")
        figure.suptitle(self._title(), fontweight="bold")
        return figure

    @classmethod
    def _from_json(cls, record: dict[str, Any]) -> Self:
        trials = [Trial(**trial) for trial in record["trials"]]
        rows = [Row.from_record(row) for row in record["rows"]]
        return cls(**record | {"trials": trials, "rows": rows})

    def _trained(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.outcome == TRAINED]

    def _points(self, position: Callable[[Trial], float]) -> dict[str, list[tuple[float, float]]]:
        """Position and validation metric of each trained net, by family."""
        points: dict[str, list[tuple[float, float]]] = {}
        for trial in self._trained():
            points.setdefault(trial.conv, []).append((position(trial), trial.score or 0.0))
        return points

    def _tables(self) -> list[list[list[str]]]:
        return [self._winners(), self._best_trials()]

    def _winners(self) -> list[list[str]]:
        rows = [
            [row.conv, best.choices_text(), row.score_text(), *self._costs_text(best)]
            for row in self.rows
            for best in [self.best(row.conv)]
        ]
        return [["net", "choices", f"test {self.metric_words}", *self._cost_labels()], *rows]

    def _best_trials(self) -> list[list[str]]:
        metric = f"validation {self.metric_words}"
        cells = [["net", "choices", metric, "epochs", *self._cost_labels()]]
        for row in self.rows:
            family = [trial for trial in self._trained() if trial.conv == row.conv]
            family.sort(key=lambda each: -self._sign * (each.score or 0.0))
            for trial in family[:SHOWN]:
                score = f"{trial.score:.4f}"
                choices, epochs = trial.choices_text(), str(trial.epochs)
                cells.append([trial.conv, choices, score, epochs, *self._costs_text(trial)])
        return cells

    def _measured(self) -> list[str]:
        return [cost for cost in LIMITS if any(cost in trial.costs for trial in self._trained())]

    def _cost_labels(self) -> list[str]:
        return [COSTS[cost] for cost in self._measured()]

    def _costs_text(self, trial: Trial) -> list[str]:
        return [number(trial.costs.get(cost)) for cost in self._measured()]

    def _sentences(self) -> list[str]:
        return [*map(self._effort, [row.conv for row in self.rows]), *super()._sentences()]

    def _effort(self, conv: str) -> str:
        family = [trial for trial in self.trials if trial.conv == conv]
        counts = Counter(trial.outcome for trial in family)
        epochs = sum(trial.epochs for trial in family)
        ended = sum(counts[outcome] for outcome in TRAINING)
        return (
            f"The {conv} family: {ended} nets trained for {epochs:,} epochs in all "
            f"({counts[STOPPED]} stopped early, {counts[DIVERGED]} diverged); "
            f"{counts[OVER_LIMITS]} beyond the limits, {counts[REFUSED]} not possible."
        )

    def _remarks(self) -> list[str]:
        space = "; ".join(f"{name}: {_values_text(self.space[name])}" for name in self.space)
        limits = ", ".join(f"{name} ≤ {limit:,}" for name, limit in self.limits.items())
        return [
            f"Test {self.metric_words}: of the net that was best on the validation part, trained "
            f"again with the seeds {self._seeds()}: mean ± standard deviation. The search did not "
            "use the test part.",
            f"Space: {space}. Limits: {limits or 'none'}.",
            f"The best trials of each family, at most {SHOWN}. Each was trained once, with the "
            "first seed.",
        ]


def _cost(trial: Trial, name: str) -> float:
    return trial.costs[name]


def best_of(trials: Sequence[Trial], sign: int = 1) -> Trial | None:
    """The trained net that is best on the validation part, if there is one.

    Args:
        trials: The trials.
        sign: 1 if higher values of the metric are better, or -1.
    """
    trained = [trial for trial in trials if trial.outcome == TRAINED]
    return max(
        trained,
        key=lambda trial: (sign * (trial.score or 0.0), -trial.costs["macs"]),
        default=None,
    )


def _values_text(values: Sequence[Any] | Mapping[str, Any]) -> str:
    if not isinstance(values, Mapping):
        return ", ".join(map(str, values))
    scale = " on a logarithmic scale" if values.get("log") else ""
    step = f" in steps of {values['step']}" if values.get("step") not in (None, 1) else ""
    return f"{values['low']} to {values['high']}{step}{scale}"
