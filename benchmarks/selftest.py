"""Check this machine: are its results correct, in which precisions, and how fast is it?

    bash scripts/selftest.sh                 # the GPU; the CPU where there is none
    bash scripts/selftest.sh --device cpu --classes 100 1000

ViT-B/16 with random weights; nothing is downloaded. "parity" compares the device in float32 with
the plain implementation (`benchmarks/plain.py`) on the CPU, "precision" mixed precision with
float32 on the device; both report the largest difference over the largest value, and its limit.
"step", "training" (`train.py` on JPEGs of ImageNet's usual size) and "evaluation" are timed. A part
that does not fit into memory is reported, and the others go on. The exit status is 1 if a limit is
exceeded or a part fails; all figures are written to output/selftest.json.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from benchmarks import common, plain
from benchmarks.common import Bench
from clip import resolve_precision
from dassl.utils.tables import markdown_table
from ood.evaluation import Batch, score_batch
from ood.scoring import offered_scores

# Limits of the relative difference: of features and loss, and of the gradient. float32 is exact to
# 1e-7; 12 blocks, and a softmax of logits that are scaled by 100, turn that into 1e-4, and TF32
# would exceed it ten times. float16 is exact to 1e-3, bfloat16 to 1e-2.
LIMITS = {"fp32": (1e-4, 1e-3), "amp": (1e-2, 5e-2), "amp_bf16": (4e-2, 0.2)}
PARTS = ("features", "regions", "text", "loss", "gradient")
GRADIENT_SCALE = 1024.0  # keeps float16's gradients from underflow
SHOTS, EPOCHS = 16, 50  # as in the published ImageNet training
SIZE = (375, 500)  # height and width, ImageNet's usual ones
HEAD = ["part", "measure", "found", "limit", "verdict"]


class Report:
    """The rows of the table, and whether a check has failed."""

    def __init__(self):
        self.rows: list[list[str]] = []
        self.failed = False

    def add(self, part: str, measure: str, value: str, verdict: str = "", limit: str = "") -> None:
        self.rows.append([part, measure, value, limit, verdict])
        print("  ".join(word for word in self.rows[-1] if word), flush=True)

    def check(self, part: str, measure: str, difference: float, limit: float) -> None:
        """Add a difference, which fails the report if it is NaN or exceeds its limit."""
        passed = difference <= limit
        self.failed |= not passed
        self.add(part, measure, f"{difference:.1e}", "ok" if passed else "FAILED", f"{limit:.0e}")

    def attempt(self, part: str, function: Callable, *args: object) -> None:
        """Call `function`; an error that it raises becomes a row, so that other parts go on."""
        try:
            function(self, *args)
        except Exception as error:
            text = (getattr(error, "stderr", None) or str(error) or type(error).__name__).strip()
            full = any(words in text for words in ("out of memory", "allocate memory"))
            self.failed |= not full
            verdict = text.splitlines()[-1][:120]
            self.add(part, "", "does not fit" if full else "FAILED", verdict)
            if not full:
                traceback.print_exc()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def compare(report: Report, part: str, values: dict, expected: dict, precision: str) -> None:
    value_limit, gradient_limit = LIMITS[precision]
    for name, value in values.items():
        limit = gradient_limit if name == "gradient" else value_limit
        report.check(part, name, common.largest_difference(value, expected[name]), limit)


def fast_values(bench: Bench) -> dict[str, Tensor]:
    """Return features, loss and gradient by the trainer, in the precision of the bench."""
    bench.learner.ctx.grad = None
    loss = bench.locoop.summary(bench.batch)["loss"]
    with bench.locoop.autocast(), torch.no_grad():
        features, regions = bench.model.image_features(bench.images, local=True)
        text = bench.model.text_features()
    (GRADIENT_SCALE * loss).backward()
    gradient = bench.learner.ctx.grad / GRADIENT_SCALE
    return dict(zip(PARTS, (features, regions, text, loss, gradient), strict=True))


def plain_values(bench: Bench) -> dict[str, Tensor]:
    """Return the same by the plain implementation; set the labels of the bench."""
    with torch.no_grad():
        features, regions = plain.image_features(bench.clip, bench.images)
        text = plain.text_features(bench.clip, bench.learner)
        # Labels are each image's nearest or farthest class, so that no region is at the edge of
        # the top K, where the last bit of a similarity would decide.
        cosines, half = (regions @ text.T).mean(dim=1), len(features) // 2  # [B, C]
        bench.labels = torch.cat([cosines[:half].argmax(dim=1), cosines[half:].argmin(dim=1)])
    loss = bench.plain_loss()
    (gradient,) = torch.autograd.grad(loss, bench.learner.ctx)
    return dict(zip(PARTS, (features, regions, text, loss, gradient), strict=True))


def fast_scores(bench: Bench, images: Tensor) -> dict[str, Tensor]:
    scores = offered_scores("all", bench.model.provides)
    with torch.inference_mode(), bench.locoop.autocast():
        features = bench.model.image_features(images, local=True)
        batch = Batch(*features, images)
        return score_batch(bench.model, batch, bench.model.class_features(), scores, {}).scores


def parity(report: Report, device: str) -> None:
    """Check the device in float32 against the plain implementation on the CPU."""
    reference, bench = Bench(20, 4), Bench(20, 4, device)
    expected = plain_values(reference)
    bench.labels = reference.labels.to(device)
    compare(report, "parity", fast_values(bench), expected, "fp32")
    expected = plain.scores(reference.clip, reference.learner, reference.images)
    compare(report, "parity", fast_scores(bench, bench.images), expected, "fp32")


def precision(report: Report, device: str, name: str) -> None:
    """Check mixed precision against float32 on the same device."""
    if resolve_precision(name, device).name != name:
        report.add(f"precision {name}", "", "skipped", f"{device} computes it in float32")
        return
    expected, values = (fast_values(Bench(20, 4, device, prec)) for prec in ("fp32", name))
    compare(report, f"precision {name}", values, expected, name)


def step(report: Report, args: argparse.Namespace, classes: int) -> None:
    """Time a LoCoOp step on images that are already on the device."""
    bench, gpu = Bench(classes, args.batch, args.device, args.precision), args.device == "cuda"
    name = f"step, {classes} classes"
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    times = common.in_turns({name: lambda: bench.step("LoCoOp")}, args.turns)
    seconds = common.seconds(times, name)
    peak = torch.cuda.max_memory_allocated() if gpu else common.peak_bytes()
    report.add(name, f"batch {args.batch}, {args.precision}", f"{1000 * seconds:.0f} ms")
    report.add(name, "images a second", f"{args.batch / seconds:.1f}")
    report.add(name, "peak memory", f"{peak / common.GIB:.2f} GiB")
    if gpu:  # a CPU would take minutes
        times = common.in_turns({name: lambda: bench.step("plain")}, 5)
        seconds = common.seconds(times, name)
        report.add(name, "the plain implementation", f"{1000 * seconds:.0f} ms")


def evaluation(report: Report, args: argparse.Namespace) -> None:
    """Time all scores of images in host memory, which is pinned as a loader's."""
    bench = Bench(args.classes[0], 1, args.device, args.precision)
    images = torch.randn(4 * args.batch, 3, 224, 224)
    images = images.pin_memory() if args.device == "cuda" else images
    measure = f"images a second, {args.classes[0]} classes"

    def score() -> Tensor:
        return fast_scores(bench, images.to(args.device, non_blocking=True))["MCM"].cpu()

    seconds = common.seconds(common.in_turns({measure: score}, args.turns), measure)
    report.add("evaluation", measure, f"{len(images) / seconds:.1f}")


def make_data(folder: Path, classes: int) -> None:
    """Write class folders of JPEGs, with two training and one test image a class, and a CLIP."""
    made: list[Path] = []
    for number in range(3 * classes):
        split = "train" if number < 2 * classes else "test"
        image = folder / "jpegs" / split / f"class{number % classes:04d}" / f"{number}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        if len(made) == 64:  # further ones are links to these
            image.hardlink_to(made[number % 64])
            continue
        # Smooth shapes under fine grain compress like photographs: about 100 kB.
        rough = torch.rand(1, 3, 12, 16)
        smooth = F.interpolate(rough, SIZE, mode="bicubic")[0]  # [3, H, W]
        grain = F.avg_pool2d(torch.rand(3, *SIZE), 3, 1, 1) - 0.5
        to_pil_image((smooth + grain).clamp(0, 1)).save(image, quality=90)
        made.append(image)
    weights = {key: value.contiguous() for key, value in common.random_vit().state_dict().items()}
    save_file(weights, folder / "vit_b16.safetensors", {"activation": "quick_gelu"})


def train(folder: Path, args: argparse.Namespace, precision: str, nproc: int = 1) -> Path:
    """Train three epochs on the data in `folder`; return the folder of the run."""
    run = folder / f"{precision}_{nproc}"
    command = f"""bash scripts/train.sh --trainer LoCoOp --id-data {folder}/jpegs --shots 2 --seed 1
        --backbone {folder}/vit_b16.safetensors --output-dir {run} TEST.NO_TEST True
        OPTIM.MAX_EPOCH 3 TRAINER.LOCOOP.PREC {precision} USE_CUDA {args.device == "cuda"}
        DATALOADER.TRAIN_X.BATCH_SIZE {args.batch}"""
    environment = {**os.environ, "PYTHON": sys.executable, "NPROC": str(nproc) * (nproc > 1)}
    subprocess.run(
        command.split(), cwd=REPO, env=environment, check=True, capture_output=True, text=True
    )
    return run


def training(report: Report, args: argparse.Namespace, folder: Path, classes: int) -> None:
    """Time the last of three epochs of `train.py`, including decoding and copying."""
    make_data(folder, classes)
    run, steps = train(folder, args, args.precision), 2 * classes // args.batch
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    seconds, waiting = last["epoch_time"] / steps, last["data_share"]
    name = f"training, {classes} classes"
    report.add(name, "a step", f"{1000 * seconds:.0f} ms")
    report.add(name, "waiting for data", f"{waiting:.1%}")
    if classes >= 1000:
        minutes = seconds * (1000 * SHOTS // args.batch) * EPOCHS / 60
        report.add(name, "16-shot ImageNet, 50 epochs, projected", f"{minutes:.0f} min")


def two_ranks(report: Report, args: argparse.Namespace, folder: Path) -> None:
    """Check that training on two GPUs gives the same context as on one."""
    count = torch.cuda.device_count() if args.device == "cuda" else 0
    if count < 2:
        report.add("two ranks", "", "skipped", f"{count} GPUs")
        return
    make_data(folder, args.batch)
    contexts = []
    for nproc in (1, 2):
        (file,) = (train(folder, args, "fp32", nproc) / "prompt_learner").glob("model.pth.tar-3")
        contexts.append(torch.load(file, weights_only=True)["state_dict"]["ctx"])
    report.check("two ranks", "context after training", common.largest_difference(*contexts), 1e-3)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add, device = parser.add_argument, "cuda" if torch.cuda.is_available() else "cpu"
    add(
        "--device",
        default=device,
        choices=("cuda", "cpu"),
        help="device to check (default: a GPU if there is one)",
    )
    add("--classes", type=int, nargs="+", help="class counts (default: 100, on a GPU 100 1000)")
    add("--batch", type=int, help="images a step (default: 4, on a GPU 32)")
    args = parser.parse_args()
    gpu = args.device == "cuda"
    args.batch = args.batch or (32 if gpu else 4)
    args.precision, args.turns = ("amp", 20) if gpu else ("fp32", 2)
    args.training = args.classes or ([100, 1000] if gpu else [16])
    args.classes = args.classes or ([100, 1000] if gpu else [100])
    return args


def main() -> None:
    args, report = parse_args(), Report()
    gpu = args.device == "cuda"
    name, cuda = (torch.cuda.get_device_name(), torch.version.cuda) if gpu else ("cpu", None)
    report.attempt("parity", parity, args.device)
    for prec in ("amp", "amp_bf16"):
        report.attempt(f"precision {prec}", precision, args.device, prec)
    for classes in args.classes:
        report.attempt(f"step, {classes} classes", step, args, classes)
    if max(args.classes) < 1000:
        report.add("step, 1000 classes", "", "skipped", "minutes on a CPU: --classes 1000")
    report.attempt("evaluation", evaluation, args)
    with tempfile.TemporaryDirectory() as folder:
        for classes in args.training:
            data = Path(folder, str(classes))
            report.attempt(f"training, {classes} classes", training, args, data, classes)
        report.attempt("two ranks", two_ranks, args, Path(folder, "ranks"))
    print()
    print(markdown_table(report.rows, HEAD))
    passed = not report.failed
    rows = [dict(zip(HEAD, row, strict=True)) for row in report.rows]
    facts = {**common.machine(), "device": name, "cuda": cuda}
    common.save("selftest", facts, REPO / "output", passed=passed, rows=rows)
    print("passed" if passed else "FAILED")
    sys.exit(not passed)


if __name__ == "__main__":
    main()
