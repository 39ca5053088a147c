"""Write a report of all runs under the given folders: one HTML file that needs nothing else."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from dassl.utils.errors import in_a_sentence
from dassl.utils.files import atomic_write
from results.bootstrap import RESAMPLES
from results.report.page import report_page
from results.summary import summary_of


def main() -> None:
    args = _parser().parse_args()
    with in_a_sentence():
        _, summary = summary_of(args)
        shared = os.path.commonpath([os.path.abspath(folder) for folder in args.folders])
        path = args.output or Path(os.path.relpath(shared), "report.html")
        page = report_page(summary, args.root)
        with atomic_write(path) as file:
            file.write(page)
    print(f"{path} ({len(page.encode()) / 1e6:.1f} MB)")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m results.report", description=__doc__)
    add = parser.add_argument
    add("folders", nargs="+", type=Path, help="searched for results.json")
    add(
        "--output",
        type=Path,
        default=None,
        help="file to write (report.html in the folder, or in the one that holds all folders)",
    )
    add("--root", type=Path, default=None, help="folder of the datasets, if not where it was")
    add("--scores", default="", help="separated by commas (all)")
    add(
        "--resamples",
        type=int,
        default=RESAMPLES,
        help=f"of the images, for the intervals; 0 for none ({RESAMPLES})",
    )
    add("--seed", type=int, default=0, help="of the resamples (0)")
    return parser


if __name__ == "__main__":
    main()
