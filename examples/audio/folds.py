"""Cross-validation: the records of all folds as one record."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.sources import printable
from sepconv_layers import Comparison, Frontier

SHARES = ("accuracy", "agreement", "per_seed", "largest_class")
PER_FOLD = "per_fold"


def cross_validate(
    folders: Mapping[str, Path],
    train: Callable[[str, Path], Comparison | Frontier],
    output: Path,
) -> Comparison | Frontier:
    """Trains the nets of all folds, and saves their mean.

    Args:
        folders: The name of a fold to the folder of its results.
        train: Trains the nets of one fold, given its name and its folder.
        output: The folder of the mean.

    Returns:
        The mean of the records, as `mean_of` computes it.
    """
    records = {}
    for name, folder in folders.items():
        print(f"\nFold {len(records) + 1}: {printable(name)}")
        records[name] = train(name, folder)
    found = mean_of(records)
    found.save(output)
    return found


def mean_of(records: Mapping[str, Comparison | Frontier]) -> Comparison | Frontier:
    """Returns the mean of records of the same nets, which were tested on one fold each.

    The accuracy of a net with a seed is the mean over the folds, and `per_fold` is the mean over
    the seeds. Costs are medians. Predictions are those for the test parts of all folds.

    Args:
        records: The name of a fold to its record.
    """
    every = list(records.values())
    first = every[0]
    changes: dict[str, Any] = {
        "rows": [
            _mean_row(dict(zip(records, rows, strict=True)))
            for rows in zip(*(record.rows for record in every), strict=True)
        ],
        "wall_seconds": round(sum(record.wall_seconds for record in every), 1),
        "test_part": _merged([record.test_part for record in every])
        | {"samples": sum(record.test_part["samples"] for record in every)},
        "notes": [
            f"Mean over {len(every)} folds: {', '.join(records)}.",
            *dict.fromkeys(note for record in every for note in record.notes),
        ],
    }
    if isinstance(first, Comparison):
        for name in ("speedup", "realized_fraction"):
            changes[name] = _merged([getattr(record, name) for record in every])
        changes["models"] = {}
    else:
        changes["predictions"] = {
            name: np.concatenate([record.predictions[name] for record in every], axis=-1)
            for name in first.predictions
        }
    return dataclasses.replace(first, **changes)


def _mean_row(rows: Mapping[str, Any]) -> Any:
    """The mean of the rows of one net, given by fold."""
    every = list(rows.values())
    merged = _merged([dataclasses.asdict(row) for row in every])
    for name in ("accuracy", "val_accuracy"):
        if name in merged:
            values = merged[name]["per_seed"]
            merged[name] = {
                "mean": round(statistics.fmean(values), 6),
                "std": round(statistics.stdev(values), 6) if len(values) > 1 else 0.0,
                "per_seed": values,
                PER_FOLD: {fold: getattr(row, name)["mean"] for fold, row in rows.items()},
            }
    for artifact in merged["artifacts"].values():
        artifact.pop("seed", None)  # each fold has its own
    return type(every[0])(**merged)


def _merged(values: Sequence[Any], name: str = "") -> Any:
    """The mean of shares, and the median of all else, within the structure that values share."""
    first = values[0]
    if isinstance(first, Mapping):
        return {key: _merged([value[key] for value in values], key) for key in first}
    if isinstance(first, list):
        return [_merged(group, name) for group in zip(*values, strict=True)]
    if None in values:
        return None
    if name in SHARES:
        return round(statistics.fmean(values), 6)
    return statistics.median_low(values)
