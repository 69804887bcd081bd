"""Prints results as tables: GitHub Markdown for documents, rich for a terminal."""

from rich.table import Table
from rich.text import Text

from steersman.evals.layout import Column, Grid, grids
from steersman.evals.names import SHARES
from steersman.evals.records import Result, Results

NOTE = "Value [95% interval]. **Bold**: best of the column, oracles (*) excepted."


def table(results: Results) -> str:
    """Every table as GitHub Markdown; pool several seeds first."""
    parts = [_markdown(grid) for grid in grids(results)]
    return "\n\n".join([*parts, NOTE]) + "\n"


def rich_tables(results: Results) -> list[Table]:
    """Every table for a terminal; pool several seeds first."""
    return [_rich(grid) for grid in grids(results)]


def number(result: Result) -> str:
    """The value alone; a dash where it is undefined."""
    if result.n == 0:
        return "–"
    return _plain(result.value, result.metric)


def interval(result: Result) -> str:
    """The bounds in brackets."""
    return f"[{_plain(result.low, result.metric)}, {_plain(result.high, result.metric)}]"


def _plain(value: float, metric: str) -> str:
    return f"{value:.3f}" if metric in SHARES else f"{value:.4g}"


def _heading(column: Column) -> str:
    parts = [column.title]
    if column.heading not in (column.title, "Accuracy"):
        parts.insert(0, f"{column.heading}:")
    if column.n is not None:
        parts.append(f"(n {column.n})")
    return " ".join(parts)


def _cell(result: Result | None, column: Column) -> str:
    if result is None:
        return ""
    count = f", n {result.n}" if column.n is None else ""
    return f"{number(result)} {interval(result)}{count}"


def _markdown(grid: Grid) -> str:
    head = ["Method", *(_heading(column) for column in grid.columns)]
    lines = [f"**{grid.caption}**", "", f"| {' | '.join(head)} |"]
    lines.append(f"|:--|{'--:|' * len(grid.columns)}")
    for line in grid.lines:
        cells = [f"{line.title}{' *' if line.oracle else ''}"]
        for cell, column in zip(line.cells, grid.columns, strict=True):
            text = _cell(cell.result, column)
            cells.append(text.replace(" [", "** [", 1) if cell.best else text)
            if cell.best:
                cells[-1] = f"**{cells[-1]}"
        lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return "\n".join(lines)


def _rich(grid: Grid) -> Table:
    made = Table(title=grid.caption, title_justify="left")
    made.add_column("Method", no_wrap=True)
    for column in grid.columns:
        made.add_column(_heading(column), justify="right")
    for line in grid.lines:
        cells = [Text(f"{line.title}{' *' if line.oracle else ''}")]
        for cell, column in zip(line.cells, grid.columns, strict=True):
            text = _cell(cell.result, column).replace(" [", "\n[", 1)
            cells.append(Text(text, style="bold green" if cell.best else ""))
        made.add_row(*cells)
    return made
