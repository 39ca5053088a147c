"""Write a report on all runs under the given folders: one self-contained HTML file."""

import argparse
import os
from pathlib import Path

from matplotlib.figure import Figure

from dassl.command import run
from dassl.utils.figures import FORMATS, save_figure
from dassl.utils.files import atomic_write, file_name
from results.plots import as_svg
from results.report.page import report_page
from results.summary import add_arguments, summary_of


def main() -> None:
    """Write the report, and print its path and size."""
    parser = argparse.ArgumentParser(prog="python -m results.report", description=__doc__)
    add_arguments(parser)
    parser.add_argument(
        "--output",
        type=Path,
        help="file to write (default: report.html in the folder, or in the parent of several)",
    )
    parser.add_argument(
        "--root", type=Path, help="folder of the data sets (default: that of the evaluation)"
    )
    parser.add_argument(
        "--plots", type=Path, help="folder to write every plot to as well (default: none)"
    )
    parser.add_argument(
        "--format", choices=FORMATS, default="pdf", help="format of --plots (default: %(default)s)"
    )
    args = parser.parse_args()

    def draw(figure: Figure, name: str) -> str:
        if args.plots:
            save_figure(figure, args.plots / f"{file_name(name)}.{args.format}")
        return as_svg(figure)

    summary = summary_of(args)
    parent = os.path.commonpath([os.path.abspath(folder) for folder in args.folders])
    path = args.output or Path(os.path.relpath(parent), "report.html")
    page = report_page(summary, args.root, draw)
    with atomic_write(path) as file:
        file.write(page)
    print("\n".join([*summary.notes, f"{path} ({len(page.encode()) / 1e6:.1f} MB)"]))


if __name__ == "__main__":
    run(main)
