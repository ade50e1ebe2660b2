"""The training loop: mixtures of texts, schedules and optimizers."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from corpora import DOMAINS

CONTEXT = 128
SHARE = 0.03  # of each domain in the base's mixture: its format becomes known, its content does not
OWN = 0.65  # of an expert's own domain in its mixture; the rest is the base's mixture again

Streams = dict[str, np.ndarray]
Loss = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Plan:
    """How long and how fast one model is trained."""

    steps: int
    lr: float
    warmup: int
    batch: int = 32
    muon: bool = False


def mixture(domain: str | None = None) -> dict[str, float]:
    """Shares of the training texts: of the base, or of the expert of a domain."""
    shares = {"general": 1 - SHARE * len(DOMAINS), **dict.fromkeys(DOMAINS, SHARE)}
    if domain:
        shares = {k: v * (1 - OWN) for k, v in shares.items()}
        shares[domain] += OWN
    return shares


def _batch(rng: np.random.Generator, streams: Streams, shares: dict[str, float], n: int) -> torch.Tensor:
    rows = []
    for name in rng.choice(list(shares), size=n, p=list(shares.values())):
        start = rng.integers(0, len(streams[name]) - CONTEXT)
        rows.append(streams[name][start : start + CONTEXT + 1])
    return torch.from_numpy(np.stack(rows).astype(np.int64))


def loss_function(model: torch.nn.Module) -> Loss:
    """Mean loss of a batch, computed in bfloat16 where that is safe."""

    def loss(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=x[:, :-1], use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), x[:, 1:].flatten())

    # Compiled code is about twice as fast on a CPU, but needs a C++ compiler.
    return torch.compile(loss) if shutil.which("g++") else loss


def _optimizers(model: torch.nn.Module, plan: Plan) -> list[torch.optim.Optimizer]:
    """AdamW; with `plan.muon`, Muon for the layers' matrices, which learn much faster with it."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    layers = [p for name, p in named if plan.muon and p.ndim == 2 and ".layers." in name]
    known = {id(p) for p in layers}
    others = [p for _, p in named if id(p) not in known]
    groups = [
        {"params": [p for p in others if p.ndim >= 2], "weight_decay": 0.05},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
    ]
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=plan.lr, betas=(0.9, 0.98), fused=True)]
    if layers:
        # Scaled to AdamW's step length, so that one learning rate serves both.
        found.append(torch.optim.Muon(layers, lr=plan.lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"))
    return found


def _pace(step: int, plan: Plan) -> float:
    """Warm-up, then cosine to a twentieth of the learning rate."""
    cosine = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / plan.steps))
    return min(1, (step + 1) / plan.warmup) * cosine


def train(
    model: torch.nn.Module, loss_of: Loss, streams: Streams, shares: dict[str, float], plan: Plan, name: str
) -> dict[str, int]:
    """Train in place; the result says how long it took."""
    rng, optimizers, start, smooth = np.random.default_rng(1), _optimizers(model, plan), time.time(), None
    params = [p for p in model.parameters() if p.requires_grad]
    model.train()
    for step in range(plan.steps):
        for group in (g for o in optimizers for g in o.param_groups):
            group["lr"] = plan.lr * _pace(step, plan)
        loss = loss_of(_batch(rng, streams, shares, plan.batch))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        if (step + 1) % 50 == 0:
            print(f"{name}: step {step + 1}, loss {smooth:.3f}, {time.time() - start:.0f} s", flush=True)
    model.eval()
    return {"tokens": plan.steps * plan.batch * CONTEXT, "seconds": round(time.time() - start)}
