"""Draw the generated benchmark and write it to a data folder: python -m generated --root data"""

import argparse
import time

from dassl.command import run
from generated.build import ID_FOLDER, OOD_FOLDER, VERSION, Counts, build


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m generated", description=__doc__)
    parser.add_argument("--root", default="data", help="data folder (default: data)")
    parser.add_argument(
        "--workers", type=int, default=None, help="drawing processes (default: one a core)"
    )
    args = parser.parse_args(arguments)
    started = time.perf_counter()
    if build(args.root, workers=args.workers):
        print(
            f"{Counts().images()} generated (synthetic) images in {args.root}/{ID_FOLDER} and "
            f"{args.root}/{OOD_FOLDER}, {time.perf_counter() - started:.0f} s"
        )
    else:
        print(
            f"The generated benchmark, version {VERSION}, is complete in {args.root}: "
            "nothing to do."
        )


if __name__ == "__main__":
    run(main)
