"""Time negative words: encoding them packed or padded, and scoring with them.

ViT-B/16 with random weights (nothing is downloaded), WordNet's words in NegLabel's templates,
float32. Both ways of encoding take turns in one process.

    python benchmarks/negatives.py                # all rows: words, scores, candidates
    python benchmarks/negatives.py --rows scores

words: `encode_texts` (the start of the template is shared, words are packed) against CLIP's own
encoding of all 77 places; extrapolated to all 69,978 words and 1000 classes.
scores: NegLabel on kept features of 85,640 images with 1000 classes and 10,499 negatives; memory is
the growth of the process's peak.
candidates: how many texts ZOC encodes for these images, counted, not timed: 315 an image, or, each
once, the distinct texts of CLIP's tokens.
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
from clip.prefix import encode_texts
from clip.prompted import PromptedCLIP
from clip.tokenizer import decode, tokenize
from clip.weights import VOCABULARY
from ood.evaluation import Batch, score_batch
from ood.negatives import NEGLABEL
from ood.scoring import get_scores
from ood.words import distinct_words, read_lists
from trainers.zoc import ZOC

CLASSES, NEGATIVES = 1000, 10_499
PADDED = 64  # batch size of CLIP's own encoding


def words(args: argparse.Namespace) -> Rows:
    """Measure words a second, packed and padded."""
    model, (template,) = common.build_clip(), NEGLABEL.templates
    nouns = [w.text for w in distinct_words(read_lists("wordnet")) if w.kind == "noun"]
    sample = nouns[:: len(nouns) // args.words][: args.words]
    texts = [template.replace("{}", word) for word in sample]
    few_texts = texts[: args.padded]

    @torch.no_grad()
    def padded() -> torch.Tensor:
        batches = tokenize(few_texts, truncate=True).split(PADDED)
        return torch.cat([model.encode_text(batch) for batch in batches])

    difference = common.largest_difference(encode_texts(model, few_texts), padded())
    ways = {"padded": padded, "packed": lambda: encode_texts(model, texts)}
    times = common.in_turns(ways, args.repeats)
    # Both ways encode different numbers of words: compare seconds for a thousand.
    for clock in times.values():
        clock["padded"] = [1000 * t / len(few_texts) for t in clock["padded"]]
        clock["packed"] = [1000 * t / len(texts) for t in clock["packed"]]
    total = (69_978 + CLASSES) / 1000
    minutes = [f"{total * common.seconds(times, way) / 60:.1f} min" for way in ways]
    row = common.ratio_row(
        "1000 words, padded over packed", "1 template", times, "padded", "packed", ">= 5"
    )
    whole = ["all 69,978 words and 1000 classes", "extrapolated", *minutes, "", "", ""]
    return [row, whole], {**times, "difference": difference}


def scores(args: argparse.Namespace) -> Rows:
    """Measure NegLabel on kept features, batch by batch as an evaluation does."""
    text, negatives = (F.normalize(torch.randn(n, 512), dim=-1) for n in (CLASSES, NEGATIVES))
    model = PromptedCLIP(common.build_clip(), lambda: text)
    classes = {"text": text, "neglabel": text, "neglabel_negatives": negatives}
    kept, neglabel = F.normalize(torch.randn(args.images, 512), dim=-1), get_scores(["NegLabel"])
    before, start, cpu = common.peak_bytes(), time.perf_counter(), time.process_time()
    with torch.inference_mode():
        for features in kept.split(args.batch):
            score_batch(model, Batch(features, None), classes, neglabel, {})
    seconds, growth = time.perf_counter() - start, (common.peak_bytes() - before) / GIB
    cpu = time.process_time() - cpu  # of all threads
    where = f"{args.images:,} images, {CLASSES} classes, {NEGATIVES:,} negatives"
    row = ["NegLabel on kept features", where, f"{seconds:.1f} s", f"+{growth:.2f} GiB"]
    return [[*row, "", "", "< 120 s"]], {"seconds": seconds, "cpu": cpu, "gib": growth}


def candidates(args: argparse.Namespace) -> Rows:
    """Count ZOC's candidate texts: those of every image, and the distinct ones."""
    of_all = args.images * ZOC.CONFIG.STEPS * ZOC.CONFIG.TOP
    distinct = len({decode(token) for token in range(VOCABULARY)})
    row = ["ZOC's candidate texts, of each image over once", f"{args.images:,} images"]
    counts = [f"{of_all:,}", f"{distinct:,}", f"{of_all / distinct:.0f}"]
    return [[*row, *counts, "", ""]], {"of_each_image": of_all, "distinct": distinct}


def main() -> None:
    parser = common.make_parser(__doc__, repeats=3)
    parser.add_argument("--words", type=int, default=2048, help="words to encode packed, a turn")
    parser.add_argument("--padded", type=int, default=128, help="words to encode padded, a turn")
    parser.add_argument("--images", type=int, default=85_640, help="images with kept features")
    parser.add_argument("--batch", type=int, default=100, help="images in a batch")
    rows = {"words": words, "scores": scores, "candidates": candidates}
    common.run_rows("negatives", parser, rows)


if __name__ == "__main__":
    main()
