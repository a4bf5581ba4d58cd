"""Tables of strings, as aligned text and as Markdown."""

from collections.abc import Sequence

__all__ = ["markdown", "text"]

Cells = Sequence[str]


def text(rows: Sequence[Cells], text_columns: int = 1, has_total: bool = False) -> str:
    """Returns a table as text in aligned columns.

    Args:
        rows: The cells of the header and of each row.
        text_columns: The number of columns on the left that hold text, aligned to the left. The
            others hold numbers, aligned to the right.
        has_total: Whether the last row is a total, which a line then separates from the others.

    Example:
        >>> from sepconv_layers import tables
        >>> print(tables.text([("net", "MACs"), ("standard", "1,552")]))
        net        MACs
        ---------------
        standard  1,552
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    header, *body = (
        "  ".join(
            cell.ljust(width) if column < text_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    line = "-" * len(header)
    lines = [header, line, *body]
    if has_total:
        lines.insert(-1, line)
    return "\n".join(lines)


def markdown(rows: Sequence[Cells], text_columns: int = 1) -> str:
    """Returns a table in Markdown.

    Args:
        rows: The cells of the header and of each row.
        text_columns: The number of columns on the left that hold text. The others hold numbers,
            aligned to the right.

    Example:
        >>> from sepconv_layers import tables
        >>> print(tables.markdown([("net", "MACs"), ("standard", "1,552")]))
        | net | MACs |
        | --- | ---: |
        | standard | 1,552 |
    """
    header, *body = rows
    align = ["---"] * text_columns + ["---:"] * (len(header) - text_columns)
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, align, *body))
