"""The program that test_distributed.py runs in each of two processes, and in a single one.

Usage: two_ranks.py OUT. Each rank writes OUT/rank<r>.pt.
"""

import io
import random
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import ToTensor

from clip import ClipModel
from clip.building import build_model
from clip.facts import OPENAI_TRANSFORM
from clip.precision import Precision
from clip.prompted import PromptedCLIP
from dassl import distributed
from dassl.config import get_cfg_default
from dassl.data.samplers import RankBatches
from dassl.engine import SimpleTrainer
from dassl.evaluation.evaluator import Classification
from dassl.utils import InputError, set_random_seed
from datasets.captions import build_pairs_loader
from tests.golden.weights import make_state_dict
from trainers.clipn import clipn_losses
from trainers.gallop import GalLoP
from trainers.locoop import ood_regularisation
from trainers.prompt_learner import PromptLearner
from trainers.prompt_trainer import LearnedPrompts
from trainers.step import StepTrainer

GOLDEN = Path(__file__).parents[1] / "golden"
FEATURES = ("img", "yes", "no")
ROWS = 6
# Class-specific contexts or not, position of the class name, tokens encoded at once. 21 names of 1
# to 5 tokens make an odd number of rows, and more texts in the last of them.
PROMPTS = [(False, "end", 10**6), (False, "end", 40), (False, "middle", 10**6), (True, "front", 70)]
NAMES = [" ".join(["cat"] * (1 + i % 5)) for i in range(21)]


def main(out: str) -> None:
    distributed.init_from_env()
    results = {
        "world": (distributed.rank(), distributed.world_size()),
        "gather": gather(),
        "step": step(),
        "step_without_mean": step(mean=False),
        "mean": mean(),
        "no_grad_on_one": gradient_on_one_rank(),
        "objects": (
            distributed.from_all(distributed.rank()),
            distributed.from_main(lambda: 7),
            sum(distributed.from_all(distributed.rank() + 1)),
        ),
        "batches": batches(),
        "broadcast": broadcast(),
        "overflow": overflow(),
        "test": shared_test(),
        "best": best_of(0.25 + distributed.rank()),
        "seeds": seeds(),
        "share": refused(),
        "pairs": pairs(),
        "clipn": clipn(),
        "accuracy": accuracy(),
        "kept": {count: kept(count) for count in (8, 9, 21)},
        "prompts": {
            f"{csc} {position} {chunk}": prompts(csc, position, chunk)
            for csc, position, chunk in PROMPTS
        },
        "first": distributed.first_to_fail(),
    }
    distributed.barrier()
    torch.save(results, Path(out, f"rank{distributed.rank()}.pt"))
    distributed.shutdown()


def mine(values):
    return distributed.rank_slice(values, distributed.rank(), distributed.world_size())


def global_rows() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, 5, generator=generator, dtype=torch.float64)


def gather():
    """Return the gathered rows, and the gradient of a loss over all pairs by this rank's rows."""
    rows = mine(global_rows()).clone().requires_grad_()
    every = distributed.gather_with_grad(rows)
    loss = torch.logsumexp(every @ every.T, dim=1).mean()
    (loss / distributed.world_size()).backward()
    return every.detach(), rows.grad


def step(mean=True):
    """Take an SGD step on a loss like CLIPN's over all pairs; return loss and new parameters."""
    set_random_seed(3)
    towers = nn.ModuleList(nn.Linear(5, 4, dtype=torch.float64) for _ in range(3))
    towers[0].requires_grad_(False)  # images: frozen
    unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
    learned = [*towers.parameters(), unused]
    optimiser = torch.optim.SGD([p for p in learned if p.requires_grad], lr=0.1, weight_decay=0.1)
    rows = mine(global_rows())
    f, t, g = (distributed.gather_with_grad(F.normalize(tower(rows), dim=-1)) for tower in towers)
    yes, no = 10 * f @ t.T, 10 * f @ g.T
    matched = torch.eye(len(f), dtype=torch.bool)
    loss = -F.logsigmoid(yes - no)[matched].mean() - F.logsigmoid(no - yes)[~matched].mean()
    loss = loss + (2 - (2 - 2 * (t * g).sum(-1) + 1e-4).sqrt()).mean()
    loss.backward()
    if mean:
        distributed.mean_gradients(learned)
    optimiser.step()
    return loss.detach(), [p.detach().clone() for p in learned]


def mean():
    """Return means, with a gradient, of values of which the ranks hold 4 and 2, and of none."""
    values = torch.arange(6.0)[:4] if distributed.is_main() else torch.arange(6.0)[4:]
    values = torch.arange(6.0) if distributed.world_size() == 1 else values
    weight = torch.tensor(2.0, requires_grad=True)
    result = distributed.mean_over_ranks(weight * values)
    (result / distributed.world_size()).backward()
    grad = torch.tensor(distributed.from_all(weight.grad.item())).sum()
    return result.detach(), grad, distributed.mean_over_ranks(torch.zeros(0))


def gradient_on_one_rank():
    parameter = nn.Parameter(torch.zeros(2))
    if distributed.is_main():
        (parameter * torch.tensor([1.0, 2.0])).sum().backward()
    distributed.mean_gradients([parameter])
    return parameter.grad * distributed.world_size()


def batches():
    """Return the batches of two epochs, from a generator whose state differs between ranks."""
    set_random_seed(5 + distributed.rank())
    sampler = RankBatches(torch.utils.data.RandomSampler(range(11)), 4, drop_last=False)
    return [list(sampler) for _ in range(2)], len(sampler)


def broadcast():
    """Broadcast a module, views included, that starts from different numbers on each rank."""
    torch.manual_seed(distributed.rank())
    module = nn.BatchNorm1d(3)
    nn.init.normal_(module.weight)
    whole = torch.randn(3, 5, 2)
    module.register_buffer("first", whole[:, :1])
    module.register_buffer("last", whole.transpose(0, 2)[1:])
    between = whole[:, 1:, 0].clone()
    distributed.broadcast_state(module)
    kept = torch.equal(whole[:, 1:, 0], between)  # the numbers in the gaps of a view
    return [value.clone() for value in module.state_dict().values()], kept


def overflow():
    """Take steps with a gradient scaler; in the second, the gradient of one rank overflows."""
    parameter = nn.Parameter(torch.ones(2))
    optimiser = torch.optim.SGD([parameter], lr=0.1)
    scaler, states = torch.amp.GradScaler("cpu", init_scale=8.0), []
    for factor in (1.0, 1e38 if distributed.rank() == distributed.world_size() - 1 else 1.0, 1.0):
        optimiser.zero_grad()
        scaler.scale((parameter * factor).sum() * factor).backward()
        distributed.mean_gradients([parameter])
        scaler.step(optimiser)
        scaler.update()
        states.append((parameter.detach().clone(), scaler.get_scale()))
    return states


def shared_test():
    """Test 11 images in batches of 3; return results, labels with predictions, and own batches."""
    cfg = get_cfg_default()
    seen = []

    class Tested(SimpleTrainer):
        def __init__(self):
            self._models, self._writer, self._bad_images, self.cfg = {}, None, set(), cfg
            self.num_classes, self.device = 4, torch.device("cpu")
            rows = [{"img": torch.eye(4)[(i * i) % 4], "label": i % 4} for i in range(11)]
            self.val_loader, self.test_loader = None, DataLoader(rows, batch_size=3)
            self.evaluator = Classification(cfg)

        def model_inference(self, images):
            seen.append(len(images))
            return images

    trainer = Tested()
    accuracy = trainer.test()
    pairs = sorted(zip(trainer.evaluator._y_true, trainer.evaluator._y_pred, strict=True))
    return accuracy, pairs, seen


def best_of(result):
    """Return whether this rank saves a best model; all must decide by the result of rank 0."""
    trainer = SimpleTrainer.__new__(SimpleTrainer)
    trainer.cfg, trainer.epoch, trainer.max_epoch = get_cfg_default(), 0, 2
    trainer.cfg.TEST.FINAL_MODEL, trainer.cfg.TRAIN.CHECKPOINT_FREQ = "best_val", 0
    trainer.best_result, saved = 1.0, []
    trainer.test = lambda split: result
    trainer.save_model = lambda *_, **__: (saved.append(True), distributed.barrier())
    trainer.after_epoch()
    return saved


def seeds():
    """Return draws after seeding, twice from the same state of rank 0."""
    draws = []
    for _ in range(2):
        set_random_seed(1 if distributed.is_main() else random.randrange(99))
        distributed.seed_other_ranks()
        draws.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
    return draws


def pairs():
    """Return captions of two epochs over shards of 3, 4, 2 and 4 pairs, in global batches of 4."""
    cfg = get_cfg_default()
    cfg.DATASET.PAIRS.SOURCE, cfg.DATASET.PAIRS.PATH, cfg.SEED = "shards", "{0..3}.tar", -1
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE, cfg.DATALOADER.NUM_WORKERS = 4, 0
    with tempfile.TemporaryDirectory() as cfg.DATASET.ROOT:
        for shard, count in enumerate((3, 4, 2, 4)):
            write_shard(Path(cfg.DATASET.ROOT, f"{shard}.tar"), shard, count)
        loader = build_pairs_loader(cfg, ToTensor())
        epochs = []
        for epoch in range(2):
            loader.set_epoch(epoch)
            epochs.append([batch["caption"] for batch in loader])
    return loader.dataset.count, epochs


def clipn():
    """Return CLIPN's losses, and their gradients by this rank's features, of a golden's."""
    with np.load(GOLDEN / "clipn_loss.npz") as arrays:
        whole = [torch.from_numpy(arrays[f"ddp/N4/{key}"]).double() for key in FEATURES]
    own = [mine(x).requires_grad_() for x in whole]
    losses = clipn_losses(*map(distributed.gather_with_grad, own), torch.tensor(20.0).double())
    (0.5 * sum(losses)).backward()
    return torch.stack(losses).detach(), [x.grad for x in own]


def accuracy():
    """Return the logged accuracy of a batch of 9, of which the first three are recognised."""

    class Recognising(StepTrainer):
        def __init__(self):
            self.device, self.precision = torch.device("cpu"), Precision("fp32")

        def loss(self, images, labels):
            return images, {}

    images, labels = torch.eye(9), torch.arange(9) % 3
    return Recognising()._summary({"img": mine(images), "label": mine(labels)})["acc"]


def kept(count):
    """Return the prompts that GalLoP's dropout keeps for this rank's share of `count` images."""
    trainer = GalLoP.__new__(GalLoP)
    trainer.cfg = get_cfg_default()
    trainer.cfg.TRAINER.GALLOP = GalLoP.CONFIG.clone()
    trainer.cfg.TRAINER.GALLOP.DROPOUT = 0.5
    trainer.epoch, trainer.num_batches, trainer.batch_idx = 1, 5, 2
    trainer.device = torch.device("cpu")
    return trainer.kept_prompts(len(mine(range(count))))


def write_shard(path: Path, shard: int, count: int) -> None:
    image = io.BytesIO()
    Image.new("RGB", (2, 2)).save(image, "PNG")
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            text = f"{shard} {number}".encode()
            for name, content in (("png", image.getvalue()), ("txt", text)):
                info = tarfile.TarInfo(f"{number}.{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def prompts(csc, position, chunk):
    """Take the losses of CoOp and LoCoOp; return encoded rows, loss and gradient of the context."""
    state = {
        name: torch.from_numpy(value) for name, value in make_state_dict(0, "tiny-vit").items()
    }
    model = ClipModel(
        build_model(state, "quick_gelu"),
        name="tiny",
        activation="quick_gelu",
        weights_hash="",
        **OPENAI_TRANSFORM,
    ).to_dtype(torch.float64)
    learner = PromptLearner(
        NAMES,
        model,
        n_ctx=3,
        csc=csc,
        position=position,
        generator=torch.Generator().manual_seed(0),
    )
    encoded = []
    layer = model.text.transformer.resblocks[0].ln_1
    layer.register_forward_hook(lambda *found: encoded.append(found[2].shape[0]))
    text = PromptedCLIP(model, LearnedPrompts(model, learner, chunk)).text_features()
    rows = sum(encoded[1::2])  # the prefix and the rows take turns
    width, draw = text.shape[1], torch.Generator().manual_seed(1)
    features, regions = (
        F.normalize(torch.randn(6, *n, width, generator=draw), dim=-1) for n in ((), (9,))
    )
    labels = torch.randint(len(NAMES), (6,), generator=draw)
    features, regions, labels = map(mine, (features, regions, labels))
    scale = torch.tensor(30.0)
    loss = distributed.mean_over_ranks(
        F.cross_entropy(scale * features @ text.T, labels, reduction="none")
    )
    loss = loss + 0.25 * ood_regularisation(regions, text, labels, scale, k=2)
    loss.backward()
    distributed.mean_gradients([learner.ctx])
    with torch.no_grad():
        alone = LearnedPrompts(model, learner, chunk)() if distributed.is_main() else None
    return {
        "rows": rows,
        "alone": alone,
        "loss": loss.detach(),
        "text": text.detach(),
        "gradient": learner.ctx.grad,
    }


def refused():
    assert distributed.share_of(4) == 4 // distributed.world_size()
    try:
        return distributed.share_of(5)
    except InputError as error:
        return str(error)


if __name__ == "__main__":
    main(sys.argv[1])
