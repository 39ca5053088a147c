"""Tables as aligned text and as Markdown."""

from collections.abc import Iterable, Sequence

from .console import one_line

RULE: Sequence[str] = ()
"""A row that is drawn as a line across the table."""


def text_table(
    rows: Iterable[Sequence[object]], header: Sequence[str] = (), sides: str = "<"
) -> str:
    """Return rows in columns that are two spaces apart.

    Args:
        rows: the cells of each row; `RULE` becomes a line.
        header: headings, with a line below; none by default.
        sides: "<" (left) or ">" (right) for each column; the last holds for all further columns.
    """
    heading = [header, RULE] if header else []
    lines = [[one_line(str(cell)) for cell in row] for row in (*heading, *rows)]
    widths = [max(map(len, column)) for column in zip(*filter(None, lines), strict=True)]
    sides = sides.ljust(len(widths), sides[-1])
    texts = [
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True)
        ).rstrip()
        if line
        else None
        for line in lines
    ]
    rule = "-" * max((len(text) for text in texts if text), default=0)
    return "\n".join(rule if text is None else text for text in texts)


def markdown_table(rows: Iterable[Sequence[object]], header: Sequence[str]) -> str:
    """Return a Markdown table; a `|` and a line break in a cell are escaped."""
    cells = [[_markdown(str(cell)) for cell in row] for row in (header, *rows)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def _markdown(text: str) -> str:
    return one_line(text.strip()).replace("|", "\\|")
