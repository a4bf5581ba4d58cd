"""The plots of a comparison, a frontier and a search."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sepconv_layers.comparison.row import Row, SizedRow
from sepconv_layers.extras import require

COLORS = {"separable": "tab:blue", "standard": "tab:orange", "standard-narrow": "tab:gray"}
# Shares of the height of the plot.
CLOSE = 0.05  # labels of one line overlap
CLOSE_LABELS = 0.15  # labels of two lines overlap
MARGIN = 0.3  # above and below the data
ANNOTATION = {"textcoords": "offset points", "va": "center"}


def figure_class() -> Any:
    """The figure class of matplotlib.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    return require("matplotlib.figure", "plot", "Comparison.plot").Figure


def plot_scores(axes: Any, rows: Sequence[Row], metric: str) -> None:
    """Draws a metric against MACs: a dot per seed, mean and standard deviation per net."""
    for row in rows:
        macs, color, score = row.macs / 1e6, COLORS[row.conv], row.score
        dots = [macs] * len(score["per_seed"])
        axes.scatter(dots, score["per_seed"], s=18, color=color, alpha=0.45, linewidth=0)
        axes.errorbar(
            macs, score["mean"], score["std"], fmt="o", color=color, capsize=5, markersize=8
        )
    axes.margins(y=MARGIN)
    bottom, top = axes.get_ylim()
    for row in rows:
        mean = row.score["mean"]
        beside = [
            (other.score["mean"], other.conv)
            for other in rows
            if row is other
            or row.macs < 2 * other.macs < 4 * row.macs
            and abs(other.score["mean"] - mean) <= CLOSE_LABELS * (top - bottom)
        ]
        apart = 15 * (2 * sorted(beside).index((mean, row.conv)) - len(beside) + 1)
        label, point = f"{row.conv}\n{row.score_text(3)}", (row.macs / 1e6, mean)
        axes.annotate(label, point, (12, apart), color=COLORS[row.conv], **ANNOTATION)
    all_macs = [row.macs / 1e6 for row in rows]
    axes.set(
        title=f"{metric[:1].upper()}{metric[1:]} vs. cost",
        xlabel="MACs per sample (millions)",
        ylabel=f"test {metric}",
    )
    if min(all_macs) > 0:  # a logarithmic axis cannot show zero
        _set_log_scale(axes)
        axes.set_xlim(min(all_macs) / 1.6, max(all_macs) * 4)
    _tidy(axes)


def plot_speedup(axes: Any, ideal: float, speedup: Mapping[str, float]) -> None:
    """Draws the measured speed-ups at the ideal one, and the line on which both are equal."""
    top = 1.15 * max(ideal, 1.0, *speedup.values())
    axes.plot([0, top], [0, top], color="0.5", linestyle="--")
    axes.annotate("ideal", (0.55 * top, 0.55 * top), (-10, 4), color="0.4", ha="right",
                  **ANNOTATION)  # fmt: skip
    axes.axhline(1, color="0.8", linewidth=1)
    upper = max(speedup, key=lambda key: speedup[key])
    is_close = abs(speedup["infer"] - speedup["train"]) < CLOSE * top
    for key, what, marker in (("infer", "inference", "o"), ("train", "training", "s")):
        point = ideal, speedup[key]
        axes.scatter(*point, s=70, marker=marker, color=COLORS["separable"], zorder=3)
        apart = (7 if key == upper else -7) if is_close else 0
        label = f"{what} {speedup[key]:.1f}×"
        axes.annotate(label, point, (-12, apart), ha="right", **ANNOTATION)
    axes.set(
        title="Measured vs. ideal speed-up",
        xlabel="ideal speed-up (MAC ratio)",
        ylabel="measured speed-up",
        xlim=(0, top),
        ylim=(0, top),
    )
    _tidy(axes)


def plot_frontier(axes: Any, rows: Sequence[SizedRow], cost: str, label: str, title: str) -> None:
    """Draws a metric against a cost on a logarithmic axis: a line per family."""
    for conv in dict.fromkeys(row.conv for row in rows):
        family = sorted(
            (row.costs[cost], row.score["mean"], row.score["std"], row.size)
            for row in rows
            if row.conv == conv and cost in row.costs
        )
        if not family:
            continue
        costs, means, spreads, sizes = zip(*family, strict=True)
        axes.errorbar(
            costs, means, spreads, fmt="o-", color=COLORS[conv], capsize=3, markersize=5, label=conv
        )
        for point in zip(costs, means, sizes, strict=True):
            axes.annotate(
                f"{point[2]:g}", point[:2], (4, -9), color=COLORS[conv], fontsize=7, **ANNOTATION
            )
    _set_log_scale(axes)
    axes.set_xlabel(label)
    axes.set_title(title, fontsize=9)
    axes.legend(frameon=False, loc="lower right")
    _tidy(axes)


def plot_trials(
    axes: Any,
    points: Mapping[str, Sequence[tuple[float, float]]],
    label: str,
    limit: float | None = None,
    better: Callable[..., float] = max,
) -> None:
    """Draws a validation metric: a dot per trial, a line of the best one from left to right.

    Args:
        axes: The axes.
        points: Name of a family to the position and the metric of each trial.
        label: What the horizontal axis shows.
        limit: A limit, drawn as a vertical line.
        better: `max` if higher values are better, or `min`.
    """
    for conv, family in points.items():
        places, scores = zip(*sorted(family), strict=True)
        color = COLORS[conv]
        axes.scatter(places, scores, s=18, color=color, alpha=0.6, linewidth=0, label=conv)
        best = list(itertools.accumulate(scores, better))
        axes.step(places, best, where="post", color=color, linewidth=1)
    if limit is not None:
        axes.axvline(limit, color="0.5", linestyle="--", linewidth=1)
    axes.set_xlabel(label)
    axes.legend(frameon=False, loc="lower right")
    _tidy(axes)


def _set_log_scale(axes: Any) -> None:
    """Makes the horizontal axis logarithmic, with labels that do not overlap within a decade."""
    from matplotlib import ticker

    thousands = ticker.EngFormatter(sep="")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_major_formatter(lambda x, _: thousands(x) if x >= 1000 else f"{x:g}")
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())


def _tidy(axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
