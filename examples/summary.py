"""Several comparisons, or frontiers, as one table."""

from collections.abc import Callable, Collection, Iterable

from examples.nets import NARROW
from sepconv_layers import Comparison, Frontier, tables

NETS = ["separable", "standard", "standard, narrowed"]
MARGINS = {
    "macs": "MACs",
    "infer_ms": "inference",
    "train_step_ms": "training step",
    "int8_ms": "LiteRT int8 time",
}
NONE = "–"
SHORT = ("data", *NETS, "MACs ÷", "inference", "training step")


def cells(found: Iterable[Comparison]) -> list[list[str]]:
    """Returns the header, and a row for each comparison of twins."""
    header = ["data", *NETS]
    header += ["parameters ÷", "MACs ÷", "inference", "training step"]
    header += ["int8 kB", "int8 accuracy", "flash kB", "arena KiB", "minutes"]
    return [header, *(_row(one) for one in found)]


def _row(one: Comparison) -> list[str]:
    rows = {row.conv: row for row in one.rows}
    separable, standard = rows["separable"], rows["standard"]
    # Without embeddings, whose parameters no convolution saves.
    params = [row.params - row.embedding_params for row in (standard, separable)]

    def of_files(kind: str, key: str, text: Callable[[float], str]) -> str:
        found = [row.artifacts.get(kind, {}).get(key) for row in (separable, standard)]
        return " / ".join(map(text, found)) if all(found) else NONE

    return [
        f"{one.task}: {one.dataset}",
        separable.score_text(),
        standard.score_text(),
        rows[NARROW].score_text() if NARROW in rows else NONE,
        f"{params[0] / params[1]:.1f}",
        f"{one.mac_ratio:.1f}",
        f"{one.speedup['infer']:.1f}×",
        f"{one.speedup['train']:.1f}×",
        of_files("int8", "bytes", lambda size: f"{size / 1e3:,.0f}"),
        of_files("int8", "accuracy", lambda accuracy: f"{accuracy:.4f}"),
        of_files("micro", "flash_bytes", lambda size: f"{size / 1e3:,.0f}"),
        of_files("micro", "arena_bytes", lambda size: f"{size / 1024:,.0f}"),
        f"{one.wall_seconds / 60:.0f}",
    ]


def table(found: Iterable[Comparison], columns: Collection[str] | None = None) -> str:
    """Returns the table in Markdown: the named columns, or all, that hold something."""
    header, *body = cells(found)
    at = [
        i
        for i, name in enumerate(header)
        if (columns is None or name in columns) and {row[i] for row in body} != {NONE}
    ]
    return tables.markdown([[row[i] for i in at] for row in (header, *body)])


def margins(found: Iterable[Frontier]) -> str:
    """Returns a table in Markdown of what separable nets gain at equal cost, in points."""
    header = [
        "data",
        "separable nets",
        *(f"equal {label}" for label in MARGINS.values()),
        "minutes",
    ]
    return tables.markdown([header, *map(_margins, found)])


def _margins(one: Frontier) -> list[str]:
    rows = one.family("separable")
    accuracies = [row.accuracy["mean"] for row in rows]
    macs = [row.macs / 1e6 for row in rows]
    span = f"{min(macs):.2g} to {max(macs):.2g} M MACs"
    return [
        f"{one.task}: {one.dataset}",
        f"{min(accuracies):.3f} to {max(accuracies):.3f}, {span}",
        *(str(one.margin(cost) or NONE) for cost in MARGINS),
        f"{one.wall_seconds / 60:.0f}",
    ]
