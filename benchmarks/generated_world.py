"""Figures of the generated benchmark that no benchmark on a real CLIP can give.

    python benchmarks/generated_world.py output/generated

For every method under the folders, it prints each score on each OOD set: on the whole set, on the
half of its kinds that the small CLIP's training captions named, and on the half they never named.
For the small CLIP it prints numbers on its geometry, to compare with those of a public CLIP.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch.nn.functional import normalize

import clip
from clip.tokenizer import tokenize
from dassl import command
from dassl.utils.tables import text_table
from generated.kinds import ID_OBJECTS, NEVER_NAMED
from ood.metrics import ood_metrics
from results.runs import Run, load_groups

MODEL = "generated-ViT-S/8"
HALVES = ("whole", "named", "never seen")


def halves(images: list[str]) -> dict[str, np.ndarray]:
    """Return bool masks `[n]` of the images in each half; images lie in folders of their kind."""
    kinds = (Path(image).parent.name.replace("_", " ") for image in images)
    unseen = np.array([kind in NEVER_NAMED for kind in kinds])
    return dict(zip(HALVES, (np.ones(len(unseen), bool), ~unseen, unseen), strict=True))


def rows(method: str, runs: list[Run]) -> Iterator[list[str]]:
    """Yield a row for each score and OOD set: mean AUROC and FPR95 of the whole and of halves."""
    for score in runs[0].figures:
        for name in runs[0].ood_sets:
            figures = []
            for run in runs:
                inside, outside = run.images[run.id_set].scores[score], run.images[name]
                for mask in halves(outside.images).values():
                    metrics = ood_metrics(inside, outside.scores[score][mask])
                    figures.append((metrics["auroc"], metrics["fpr95_id_nearest"]))
            means = np.reshape(figures, (len(runs), -1)).mean(axis=0)  # [halves * 2]
            yield [method, score, name, *(f"{100 * value:.2f}" for value in means)]


def gaps(run: Run) -> list[list[str]]:
    """Return rows of the median gap between the largest cosine and log-mean-exp of all.

    MCM at T = 1 is the maximum of a softmax over K classes, so the gap is log(K * MCM).
    """
    classes = run.comparable["num_classes"]
    return [
        [f"gap of the best cosine, {name}", f"{np.median(np.log(classes * s.scores['MCM'])):.3f}"]
        for name, s in run.images.items()
        if "MCM" in s.scores
    ]


@torch.no_grad()
def geometry() -> list[list[str]]:
    """Return rows of the small CLIP's logit scale and the cosines between its class texts."""
    model, _ = clip.load(MODEL)
    texts = model.encode_text(tokenize([f"a photo of a {name}." for name in ID_OBJECTS]))
    cosines = normalize(texts.double(), dim=-1) @ normalize(texts.double(), dim=-1).T
    others = cosines[~torch.eye(len(cosines), dtype=torch.bool)]
    return [
        ["logit scale", f"{model.logit_scale.exp():.1f}"],
        ["cosine of two class texts, mean", f"{others.mean():.3f}"],
        ["cosine of two class texts, largest", f"{others.max():.3f}"],
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folders", nargs="+", help="folders of evaluated runs")
    parser.add_argument("--scores", default="", help="names of scores to show (default: all)")
    args = parser.parse_args(arguments)
    groups, notes = load_groups(args.folders, args.scores)
    header = ["method", "score", "OOD set"]
    header += [f"{metric}, {half}" for half in HALVES for metric in ("AUROC", "FPR95")]
    table = [row for method, runs in groups.items() for row in rows(method, runs)]
    print(text_table(table, header, "<<<>"))
    zero_shot = next((runs[0] for name, runs in groups.items() if "Zeroshot" in name), None)
    print("\n" + text_table(geometry() + (gaps(zero_shot) if zero_shot else []), ["", MODEL], "<>"))
    print(*notes, sep="\n")


if __name__ == "__main__":
    command.run(main)
