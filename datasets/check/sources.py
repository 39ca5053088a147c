"""Where the data sets come from: shell lines that put them under the data root."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

CURATED = "http://pages.cs.wisc.edu/~huangrui/imagenet_ood_dataset"
ODIN = "https://www.dropbox.com/s"
ARCHIVES = {  # of OOD sets, each with one folder in it
    "iNaturalist": f"{CURATED}/iNaturalist.tar.gz",
    "SUN": f"{CURATED}/SUN.tar.gz",
    "Places": f"{CURATED}/Places.tar.gz",
    "Texture": "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
    "LSUN": f"{ODIN}/fhtsw1m3qxlwj6h/LSUN.tar.gz?dl=1",
    "LSUN-Resize": f"{ODIN}/moqh2wh8696c3yl/LSUN_resize.tar.gz?dl=1",
    "ImageNet-Resize": f"{ODIN}/kp3my3412u5k9rl/Imagenet_resize.tar.gz?dl=1",
}
EXPORTED = {"CIFAR-10": "cifar10", "CIFAR-100": "cifar100", "SVHN": "svhn"}
CC3M_TABLE = "https://ai.google.com/research/ConceptualCaptions/download"
VALPREP = "https://raw.githubusercontent.com/soumith/imagenetloader.torch/master/valprep.sh"


def quoted(path: str | Path) -> str:
    """A path for a shell."""
    return shlex.quote(str(path))


def ood_source(name: str, root: Path) -> list[str]:
    """Lines that fetch an OOD set, or say that nobody but the user knows where it is from."""
    if name in ARCHIVES:
        url = quoted(ARCHIVES[name])
        return [f"mkdir -p {quoted(root)} && curl -fL {url} | tar xz -C {quoted(root)}"]
    if name in EXPORTED:
        return [_export(EXPORTED[name], root)]
    if name.startswith("generated-"):
        return [_generate(root)]
    return [f'# put its images there, or leave the set out with   OOD.SETS.{name}.FOLDERS "[]"']


def as_setting(name: str, folder: str | Path) -> str:
    """The words that name an OOD set's folder in a command."""
    value = f"['{folder}']"
    plain = not set("'\"\\$`!") & set(str(folder))
    return f"OOD.SETS.{name}.FOLDERS " + (f'"{value}"' if plain else shlex.quote(value))


def in_comments(lines: Sequence[str]) -> list[str]:
    """Lines as advice: nothing that a script would run."""
    return ["#   " + line.removeprefix("# ") for line in lines]


def id_source(folder: str, root: Path, splits: Sequence[str]) -> list[str]:
    """Lines that fetch the ID set of that folder; of ImageNet the given splits."""
    if folder in EXPORTED.values():
        return [_export(folder, root)]
    if folder == "generated":
        return [_generate(root)]
    if folder == "imagenet":
        return [line for split in splits for line in _imagenet(root / "imagenet/images" / split)]
    return ["# put one folder of images a class there: train/CLASS/ and val/CLASS/"]


def pairs_source(place: Path, source: str, root: Path) -> list[str]:
    """Lines that bring image-caption pairs to a place, or say what belongs there."""
    if place.is_relative_to(root / "generated"):
        return [_generate(root)]
    if source == "shards" and place.name == "cc3m":
        return _cc3m(place)
    return {
        "shards": [
            "# put webdataset shards there, as img2dataset writes them: <key>.jpg, <key>.txt"
        ],
        "csv": [
            "# put a table with a header line there, of image paths and captions, and name its",
            "# columns with   DATASET.PAIRS.COLUMNS   in the command",
        ],
        "folder": ["# put images there, the caption of x.jpg in x.txt beside it"],
    }[source]


def _cc3m(folder: Path) -> list[str]:
    """Lines that download CC3M's images, hours of work, to be run where its table is."""
    table = "Train_GCC-training.tsv"
    return [
        f"# {table}, of captions and addresses, is at {CC3M_TABLE}",
        "pip install img2dataset",
        f"sed -i '1s/^/caption\\turl\\n/' {table}",
        f"img2dataset --url_list {table} --input_format tsv --url_col url --caption_col caption "
        f"--output_format webdataset --output_folder {quoted(folder)} --processes_count 16 "
        "--thread_count 64 --image_size 256",
    ]


def _imagenet(folder: Path) -> list[str]:
    """Lines for a split, to be run where its archive is."""
    archive, inside = f"ILSVRC2012_img_{folder.name}.tar", quoted(folder)
    sort = (
        f"(cd {inside} && curl -fL {VALPREP} | bash)"
        if folder.name == "val"
        else unpack_class_tars(folder)
    )
    return [
        f"# {archive} is at https://image-net.org/download-images, for those with an account",
        f"mkdir -p {inside} && tar xf {archive} -C {inside}",
        sort,
    ]


def unpack(archive: Path) -> str:
    """A line that unpacks an archive where it lies."""
    command, into = ("unzip -q", "-d") if archive.suffix.lower() == ".zip" else ("tar xf", "-C")
    return f"{command} {quoted(archive)} {into} {quoted(archive.parent)}"


def unpack_class_tars(folder: Path) -> str:
    """A line that makes a class folder of each CLASS.tar in a folder."""
    return (
        f'(cd {quoted(folder)} && for tar in *.tar; do mkdir -p "${{tar%.tar}}" && '
        'tar xf "$tar" -C "${tar%.tar}"; done)'
    )


def sort_flat_val(val: Path, solution: Path | None) -> list[str]:
    """Lines that sort ImageNet's flat val/ into class folders.

    Args:
        solution: Kaggle's LOC_val_solution.csv, lines of ``image,WordNet id and boxes``, if it is
            there; else the usual list of 50,000 moves is fetched.
    """
    if solution is None:
        return [
            "# the usual script, 50,000 lines of mv, run in the folder itself:",
            f"(cd {quoted(val)} && curl -fL {VALPREP} | bash)",
        ]
    folder = quoted(val)
    return [
        f"tail -n +2 {quoted(solution)} | tr -d '\\r' | "
        f"while IFS=', ' read -r image class rest; do mkdir -p {folder}/\"$class\" && "
        f'mv {folder}/"$image".JPEG {folder}/"$class"/; done'
    ]


def _export(name: str, root: Path) -> str:
    return f"python -m datasets.export --name {name} --root {quoted(root)} --download"


def _generate(root: Path) -> str:
    return f"python -m generated --root {quoted(root)}"
