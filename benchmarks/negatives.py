"""Time words that are not classes: encoding them packed or padded, and scoring with them.

ViT-B/16 with random weights (nothing is downloaded), WordNet's words in NegLabel's templates,
float32. Both ways of encoding take turns in one process.

    python benchmarks/negatives.py                # all rows: words, scores, candidates
    python benchmarks/negatives.py --rows scores

words: `encode_texts` (the template's beginning shared, words packed) against CLIP's own encoding
of all 77 places; extrapolated to all 69,978 words and 1000 classes.
scores: NegLabel on kept features of 85,640 images with 1000 classes and 10,499 negatives, the peak
of memory above what the process held before.
candidates: how many texts ZOC encodes for these images, counted, not timed: 315 an image, or each
text that a token of CLIP says once.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F

from benchmarks import common
from benchmarks.common import GIB, Rows
from clip.prompted import PromptedCLIP
from clip.texts import encode_texts
from clip.tokenizer import decode, tokenize
from clip.weights import VOCABULARY
from ood.evaluation import Batch, score_batch
from ood.negatives import NEGLABEL
from ood.scoring import get_scores
from ood.words import distinct_words, read_lists
from trainers.zoc import ZOC

CLASSES, NEGATIVES = 1000, 10_499
PADDED = 64  # texts that plain CLIP encodes at once


def words(args: argparse.Namespace) -> Rows:
    """Measure words a second, packed and padded."""
    model, (template,) = common.build_clip(), NEGLABEL.templates
    nouns = [w.text for w in distinct_words(read_lists("wordnet")) if w.kind == "noun"]
    picked = nouns[:: len(nouns) // args.words][: args.words]
    texts = [template.replace("{}", word) for word in picked]
    few = texts[: args.padded]

    @torch.no_grad()
    def padded() -> torch.Tensor:
        parts = tokenize(few, truncate=True).split(PADDED)
        return torch.cat([model.encode_text(part) for part in parts])

    difference = common.largest_difference(encode_texts(model, few), padded())
    ways = {"padded": padded, "packed": lambda: encode_texts(model, texts)}
    found = common.in_turns(ways, args.repeats)
    # A turn of each is of another number of words: seconds for a thousand.
    for clock in found.values():
        clock["padded"] = [1000 * t / len(few) for t in clock["padded"]]
        clock["packed"] = [1000 * t / len(texts) for t in clock["packed"]]
    total = (69_978 + CLASSES) / 1000
    minutes = [f"{total * common.seconds(found, kind) / 60:.1f} min" for kind in ways]
    row = common.compared(
        "1000 words, padded over packed", "1 template", found, "padded", "packed", ">= 5"
    )
    whole = ["all 69,978 words and 1000 classes", "extrapolated", *minutes, "", "", ""]
    return [row, whole], {**found, "difference": difference}


def scores(args: argparse.Namespace) -> Rows:
    """Measure NegLabel on kept features, batch by batch as an evaluation does."""
    text, others = (F.normalize(torch.randn(n, 512), dim=-1) for n in (CLASSES, NEGATIVES))
    model = PromptedCLIP(common.build_clip(), lambda: text)
    classes = {"text": text, "neglabel": text, "neglabel_negatives": others}
    kept, neglabel = F.normalize(torch.randn(args.images, 512), dim=-1), get_scores(["NegLabel"])
    before, start, cpu = common.peak_bytes(), time.perf_counter(), time.process_time()
    with torch.inference_mode():
        for part in kept.split(args.batch):
            score_batch(model, Batch(part, None), classes, neglabel, {})
    taken, more = time.perf_counter() - start, (common.peak_bytes() - before) / GIB
    cpu = time.process_time() - cpu  # of all threads
    where = f"{args.images:,} images, {CLASSES} classes, {NEGATIVES:,} negatives"
    row = ["NegLabel on kept features", where, f"{taken:.1f} s", f"+{more:.2f} GiB"]
    return [[*row, "", "", "< 120 s"]], {"seconds": taken, "cpu": cpu, "gib": more}


def candidates(args: argparse.Namespace) -> Rows:
    """Count the texts of ZOC's candidates: of each image, and distinct ones."""
    own = args.images * ZOC.CONFIG.STEPS * ZOC.CONFIG.TOP
    once = len({decode(token) for token in range(VOCABULARY)})
    row = ["ZOC's candidate texts, of each image over once", f"{args.images:,} images"]
    counts = [f"{own:,}", f"{once:,}", f"{own / once:.0f}"]
    return [[*row, *counts, "", ""]], {"of_each_image": own, "distinct": once}


def main() -> None:
    parser = common.make_parser(__doc__, repeats=3)
    parser.add_argument("--words", type=int, default=2048, help="packed, a turn (%(default)s)")
    parser.add_argument("--padded", type=int, default=128, help="padded, a turn (%(default)s)")
    parser.add_argument(
        "--images", type=int, default=85_640, help="with kept features (%(default)s)"
    )
    parser.add_argument("--batch", type=int, default=100, help="images (%(default)s)")
    rows = {"words": words, "scores": scores, "candidates": candidates}
    common.run_rows("negatives", parser, rows)


if __name__ == "__main__":
    main()
