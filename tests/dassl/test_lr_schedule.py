"""Learning rates against the public code's, against formulas, and across a save."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.optim.lr_scheduler import ConstantWarmupScheduler, LinearWarmupScheduler
from dassl.optim.optimizer import OPTIMIZERS
from dassl.utils import InputError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/lr_schedules.json").read_text())


def optim_cfg(**keys):
    cfg = get_cfg_default().OPTIM
    for name, value in {"NAME": "sgd", **keys}.items():
        cfg[name] = value
    return cfg


def build(cfg):
    model = nn.Linear(1, 1)
    optim = build_optimizer(model, cfg)
    return optim, build_lr_scheduler(optim, cfg)


def rates(cfg, epochs):
    """The rate used in each epoch, and the one set after the last."""
    optim, sched = build(cfg)
    used = []
    for _ in range(epochs):
        used.append(optim.param_groups[0]["lr"])
        optim.step()
        sched.step()
    return used, optim.param_groups[0]["lr"]


@pytest.mark.parametrize("name", GOLDEN["lr_schedules"])
def test_rates_equal_the_public_code(name):
    case = GOLDEN["lr_schedules"][name]
    used, after = rates(optim_cfg(**case["optim"]), len(case["lr_of_epoch"]))
    assert used == case["lr_of_epoch"]
    assert after == case["lr_after_last"]


def test_published_schedule_is_the_shifted_cosine():
    case = GOLDEN["lr_schedules"]["locoop_vit_b16_ep50"]
    used, _ = rates(optim_cfg(**case["optim"]), 50)
    formula = [0.002 * (1 + math.cos(math.pi * (e - 1) / 50)) / 2 for e in range(1, 50)]
    assert used[0] == 1e-5
    assert used[1:] == pytest.approx(formula, rel=1e-9)


SCHEDULES = st.fixed_dictionaries(
    {
        "MAX_EPOCH": st.integers(1, 12),
        "LR": st.floats(1e-4, 1.0),
        "LR_SCHEDULER": st.sampled_from(["single_step", "multi_step", "cosine"]),
        "GAMMA": st.sampled_from([0.1, 0.5]),
        "STEPSIZE": st.lists(st.integers(1, 6), min_size=1, max_size=3).map(
            lambda steps: tuple(sorted(set(steps)))
        ),
        "WARMUP_EPOCH": st.integers(-1, 4),
        "WARMUP_TYPE": st.sampled_from(["constant", "linear"]),
        "WARMUP_CONS_LR": st.sampled_from([1e-5, 3e-5]),
        "WARMUP_MIN_LR": st.sampled_from([1e-5, 2e-5]),
    }
)


def formula(keys, epoch):
    """The schedule with WARMUP_RECOUNT, from its description."""
    warmup = max(keys["WARMUP_EPOCH"], 0)
    if epoch < warmup:
        if keys["WARMUP_TYPE"] == "constant":
            return keys["WARMUP_CONS_LR"]
        if epoch == 0:
            return keys["WARMUP_MIN_LR"]
        return keys["LR"] * epoch / warmup
    e = epoch - warmup
    if keys["LR_SCHEDULER"] == "cosine":
        return keys["LR"] * (1 + math.cos(math.pi * e / keys["MAX_EPOCH"])) / 2
    if keys["LR_SCHEDULER"] == "single_step":
        return keys["LR"] * keys["GAMMA"] ** (e // keys["STEPSIZE"][-1])
    return keys["LR"] * keys["GAMMA"] ** sum(step <= e for step in keys["STEPSIZE"])


@settings(max_examples=60, deadline=None)
@given(keys=SCHEDULES)
def test_rates_follow_the_formula(keys):
    used, _ = rates(optim_cfg(**keys), keys["MAX_EPOCH"])
    expected = [formula(keys, epoch) for epoch in range(keys["MAX_EPOCH"])]
    assert used == pytest.approx(expected, rel=1e-6, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(keys=SCHEDULES, stop=st.integers(0, 12))
def test_saved_schedule_goes_on_where_it_stopped(keys, stop, tmp_path_factory):
    cfg = optim_cfg(**keys)
    optim, sched = build(cfg)
    for _ in range(stop):
        optim.step()
        sched.step()
    path = tmp_path_factory.mktemp("sched") / "state"
    torch.save({"sched": sched.state_dict(), "optim": optim.state_dict()}, path)
    state = torch.load(path, weights_only=True)
    optim2, sched2 = build(cfg)
    sched2.load_state_dict(state["sched"])
    optim2.load_state_dict(state["optim"])
    for _ in range(5):
        assert optim.param_groups[0]["lr"] == optim2.param_groups[0]["lr"]
        assert sched.get_last_lr() == sched2.get_last_lr()
        for o, s in ((optim, sched), (optim2, sched2)):
            o.step()
            s.step()


@pytest.mark.parametrize(
    "scheduler, first", [(ConstantWarmupScheduler, "cons_lr"), (LinearWarmupScheduler, "min_lr")]
)
def test_warm_ups_have_upstreams_signatures(scheduler, first):
    def rate(*args, **kwargs):
        optim = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        successor = torch.optim.lr_scheduler.StepLR(optim, 5)
        scheduler(optim, successor, *args, **kwargs)
        return optim.param_groups[0]["lr"]

    assert rate(2, 0.01, -1, False) == rate(warmup_epoch=2, **{first: 0.01}, verbose=True) == 0.01


@pytest.mark.parametrize("kind, expected", [("constant", [3e-5, 3e-5]), ("linear", [2e-5, 2e-5])])
def test_a_warm_up_is_that_of_every_group(kind, expected):
    cfg = optim_cfg(
        WARMUP_EPOCH=1, WARMUP_TYPE=kind, WARMUP_CONS_LR=3e-5, WARMUP_MIN_LR=2e-5, MAX_EPOCH=4
    )
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (0.1, 0.2)]
    optim = build_optimizer([], cfg, groups)
    sched = build_lr_scheduler(optim, cfg)
    assert [group["lr"] for group in optim.param_groups] == expected
    optim.step()
    sched.step()
    assert [group["lr"] for group in optim.param_groups] == [0.1, 0.2]


@pytest.mark.parametrize(
    "name, keys, expected",
    [
        (
            "sgd",
            {"MOMENTUM": 0.8, "SGD_DAMPNING": 0.3, "WEIGHT_DECAY": 0.02},
            {"momentum": 0.8, "dampening": 0.3, "nesterov": False, "weight_decay": 0.02},
        ),
        ("sgd", {"SGD_NESTEROV": True}, {"nesterov": True, "momentum": 0.9, "dampening": 0}),
        ("adamw", {"ADAM_BETA1": 0.7, "ADAM_BETA2": 0.9}, {"betas": (0.7, 0.9)}),
    ],
)
def test_an_optimiser_has_the_settings_asked_for(name, keys, expected):
    (group,) = build_optimizer(nn.Linear(1, 1), optim_cfg(NAME=name, **keys)).param_groups
    assert {key: group[key] for key in expected} == expected


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_steps_and_saves_plainly(name, tmp_path):
    model = nn.Linear(2, 1)
    optim = build_optimizer(model, optim_cfg(NAME=name, LR=0.1))
    before = model.weight.detach().clone()
    model(torch.ones(1, 2)).sum().backward()
    optim.step()
    assert not torch.equal(model.weight, before)
    torch.save(optim.state_dict(), tmp_path / "state")
    torch.load(tmp_path / "state", weights_only=True)


def test_parameter_lists_and_groups():
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    assert len(build_optimizer(model.parameters(), optim_cfg()).param_groups[0]["params"]) == 4
    groups = [{"params": list(model.parameters()), "lr": 0.5}]
    assert build_optimizer(model, optim_cfg(), param_groups=groups).param_groups[0]["lr"] == 0.5


def test_frozen_parameters_keep_their_number_and_value():
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    model[0].requires_grad_(False)
    optim = build_optimizer(model, optim_cfg(LR=0.1))
    before = model[0].weight.clone()
    model(torch.ones(1, 1)).sum().backward()
    optim.step()
    assert torch.equal(model[0].weight, before)
    assert optim.state_dict()["param_groups"][0]["params"] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"NAME": "sdg"}, "Did you mean 'sgd'"),
        ({"LR_SCHEDULER": "cosin"}, "Did you mean 'cosine'"),
        ({"WARMUP_EPOCH": 1, "WARMUP_TYPE": "const"}, "Did you mean 'constant'"),
        ({"LR_SCHEDULER": "multi_step", "STEPSIZE": 3}, "needs a list"),
        ({"STEPSIZE": (1.5,)}, "whole epochs"),
    ],
)
def test_wrong_settings_are_sentences(keys, message):
    with pytest.raises(InputError, match=message):
        build(optim_cfg(**keys))
