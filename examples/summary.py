"""Several comparisons as one table."""

from collections.abc import Collection, Iterable

from examples.nets import NARROW
from sepconv_layers import Comparison, tables

NETS = ["separable", "standard", "standard, narrowed"]
SHORT = ("data", *NETS, "MACs ÷", "inference", "training step")


def cells(found: Iterable[Comparison]) -> list[list[str]]:
    """Returns the header, and a row for each comparison of twins."""
    header = ["data", *NETS]
    header += ["parameters ÷", "MACs ÷", "inference", "training step", "int8 kB", "minutes"]
    return [header, *(_row(one) for one in found)]


def _row(one: Comparison) -> list[str]:
    rows = {row.conv: row for row in one.rows}
    separable, standard = rows["separable"], rows["standard"]
    # Without embeddings, whose parameters no convolution saves.
    params = [row.params - row.embedding_params for row in (standard, separable)]
    int8 = [row.artifacts.get("int8", {}).get("bytes") for row in (separable, standard)]
    return [
        f"{one.task}: {one.dataset}",
        separable.accuracy_text(),
        standard.accuracy_text(),
        rows[NARROW].accuracy_text() if NARROW in rows else "–",
        f"{params[0] / params[1]:.1f}",
        f"{one.mac_ratio:.1f}",
        f"{one.speedup['infer']:.1f}×",
        f"{one.speedup['train']:.1f}×",
        " / ".join(f"{size / 1e3:,.0f}" for size in int8) if all(int8) else "–",
        f"{one.wall_seconds / 60:.0f}",
    ]


def table(found: Iterable[Comparison], columns: Collection[str] | None = None) -> str:
    """Returns the table in Markdown with aligned columns: all of them, or the named ones."""
    header, *body = cells(found)
    if columns is not None:
        at = [i for i, name in enumerate(header) if name in columns]
        header, *body = ([row[i] for i in at] for row in (header, *body))
    return tables.markdown([header, *body])
