"""Time and memory of a CLIPN training step, and of its evaluation, against a plain implementation.

    python benchmarks/clipn_step.py --batch 32 --layers 12

Plain: the step as the equations stand, all towers with graphs and all texts 77 tokens long. Its
evaluation: both branches' classifiers template by template, then CTW and ATD of one batch of
images. Both kinds run in turn in this one process, on random weights of
ViT-B/16's size (or smaller, as the flags say). Memory: the peak of the device's allocator on a GPU;
on a CPU that of the process, which only grows, so each kind runs in a process of its own there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import open_clip
import torch
import torch.nn.functional as F

from benchmarks.common import machine, save
from clip import ClipModel, NoTextEncoder, tokenize
from clip.model import TextTower
from clip.prompted import TwoBranchCLIP
from clip.templates import IMAGENET80
from clip.tokenizer import cut_to_longest
from ood.scoring import compute_scores, get_scores, required_inputs
from trainers.clipn import clipn_losses, normalised

KINDS = ("plain", "ours")
CAPTION = "a small dog runs across the wet grass with a stick in its mouth"  # 15 tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--layers", type=int, default=12, help="of both towers")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--memory-of", nargs=2, help=argparse.SUPPRESS
    )  # what a fresh process is told
    args = parser.parse_args()
    model, encoder = build(args)
    if args.memory_of:
        measure, kind = args.memory_of
        run = MEASURES[measure](args, model, encoder, kind)
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of building the model
        run()
        print(json.dumps(peak_memory(args.device)))
        return
    about = {
        **machine(),
        "threads": torch.get_num_threads(),
        **{key: value for key, value in vars(args).items() if key != "memory_of"},
    }
    raw = {
        measure: {
            "seconds": in_turn({kind: make(args, model, encoder, kind) for kind in KINDS}, args),
            "peak_mib": {kind: memory(args, model, encoder, measure, kind) for kind in KINDS},
        }
        for measure, make in MEASURES.items()
    }
    print("| CLIPN | plain | here | ratio |\n| --- | --- | --- | --- |")
    for measure, figures in raw.items():
        for (name, unit), values in zip(UNITS.items(), figures.values(), strict=True):
            plain, ours = (values[kind] for kind in KINDS)
            print(
                f"| {measure}, {name} | {plain:.2f} {unit} | {ours:.2f} {unit} "
                f"| {plain / ours:.2f} |"
            )
    save("clipn_step", about, raw=raw)


def build(args) -> tuple[ClipModel, NoTextEncoder]:
    """Random weights: only their sizes matter here."""
    torch.manual_seed(0)
    source = open_clip.CLIP(
        512,
        {"image_size": 224, "layers": args.layers, "width": 768, "patch_size": 16},
        {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 512,
            "heads": 8,
            "layers": args.layers,
        },
    )
    model = ClipModel(
        source,
        name="random",
        activation="gelu",
        weights_hash="",
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        interpolation="bicubic",
    ).to(args.device)
    return model, NoTextEncoder(model).to(args.device)


def step(args, model: ClipModel, encoder: NoTextEncoder, kind: str):
    """Forward and backward of a batch; the optimiser's part is the same in both."""
    images = torch.randn(args.batch, 3, 224, 224, device=args.device)
    tokens = tokenize([CAPTION] * args.batch)
    tokens, short = (x.to(args.device) for x in (tokens, cut_to_longest(tokens)))
    choices = torch.arange(args.batch, device=args.device) % encoder.num_choices

    def ours() -> None:
        with torch.no_grad():
            features, text = (
                normalised(model.encode_image(images)),
                normalised(model.encode_text(short)),
            )
        finish(features, text, normalised(encoder(short, choices)))

    def plain() -> None:
        model.requires_grad_(True)
        eot = tokens.argmax(dim=-1)
        prompts = torch.cat([encoder.prompt_no, encoder.prompt_no.mean(dim=0, keepdim=True)])
        no = TextTower.forward(encoder, encoder.token_embedding(tokens) + prompts[choices], eot)
        yes = model.text(model.token_embedding(tokens), eot)
        finish(normalised(model.encode_image(images)), normalised(yes), normalised(no))
        model.requires_grad_(False)

    def finish(features, text, negation) -> None:
        encoder.zero_grad()
        model.zero_grad()
        sum(clipn_losses(features, text, negation, model.scale)).backward()

    return {"ours": ours, "plain": plain}[kind]


def evaluation(args, model: ClipModel, encoder: NoTextEncoder, kind: str):
    """Both branches' classifiers over 80 templates, and CTW and ATD of a batch of images."""
    names, device = [f"thing number {i}" for i in range(args.classes)], torch.device(args.device)
    images = torch.randn(args.batch, 3, 224, 224, device=device)
    scores = get_scores(["CTW", "ATD"])
    two_branches = TwoBranchCLIP(model, encoder, names, [(text, text) for text in IMAGENET80])

    @torch.inference_mode()
    def ours() -> None:
        two_branches.prompts.cache_clear()
        classes = two_branches.class_features()
        features, _ = two_branches.image_features(images, local=False)
        needs = required_inputs(scores)
        compute_scores(scores, two_branches.inputs(features, None, classes, needs))

    @torch.no_grad()
    def plain() -> None:
        features, logits = normalised(model.encode_image(images)), []
        for tower, prompts in ((model.text, 0), (encoder, encoder.prompt_no.mean(dim=0))):
            total = 0
            for template in IMAGENET80:
                tokens = tokenize([template.format(name) for name in names]).to(device)
                embeddings = tower.token_embedding(tokens) + prompts
                total = total + F.normalize(
                    TextTower.forward(tower, embeddings, tokens.argmax(dim=-1)), dim=-1
                )
            logits.append(model.scale * features @ F.normalize(total, dim=-1).T)
        compute_scores(scores, dict(zip(("logits", "no_logits"), logits, strict=True)))

    return {"ours": ours, "plain": plain}[kind]


MEASURES = {"step": step, "evaluation": evaluation}
UNITS = {"time": "s", "peak memory": "MiB"}


def in_turn(runs: dict, args) -> dict[str, float]:
    """Median seconds of each, run alternately after one run to warm up."""
    seconds = {kind: [] for kind in runs}
    for repeat in range(args.repeats + 1):
        for kind, run in runs.items():
            start = time.perf_counter()
            run()
            if args.device == "cuda":
                torch.cuda.synchronize()
            if repeat:
                seconds[kind].append(time.perf_counter() - start)
    return {kind: round(statistics.median(values), 4) for kind, values in seconds.items()}


def memory(args, model: ClipModel, encoder: NoTextEncoder, measure: str, kind: str) -> float:
    """Peak MiB of one step or evaluation, weights included."""
    if args.device == "cuda":
        model.zero_grad()
        encoder.zero_grad()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        MEASURES[measure](args, model, encoder, kind)()
        return peak_memory("cuda")
    command = [sys.executable, __file__, "--memory-of", measure, kind]
    for name in ("batch", "layers", "classes", "device"):
        command += [f"--{name}", str(getattr(args, name))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak_memory(device: str) -> float:
    if device == "cuda":
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    return round(int(line.split()[1]) / 2**10, 1)


if __name__ == "__main__":
    main()
