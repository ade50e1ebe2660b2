"""What a merge computes on: this machine's cores, or a device of torch."""

from __future__ import annotations

from merging.lazy import torch
from merging.params import nearest

DEVICES = ("cpu", "cuda", "mps")


def unequipped(workers: int | None, device: str) -> list[str]:
    """What is wrong with the number of workers and with the device, before any work."""
    problems = []
    if workers is not None and workers < 1:
        problems.append(f"There must be at least one worker, but there are {workers}. Leave it out for all cores.")
    kind = str(device).partition(":")[0]
    if kind not in DEVICES:
        problems.append(f"There is no device `{device}`. {nearest(kind, list(DEVICES))}")
    elif not _present(device):
        problems.append(f"This machine has no device `{device}` that torch can use. Choose `cpu`.")
    return problems


def _present(device: str) -> bool:
    kind, _, number = device.partition(":")
    if kind == "cuda":
        return torch.cuda.is_available() and (
            not number or (number.isdecimal() and int(number) < torch.cuda.device_count())
        )
    return not number and (kind == "cpu" or torch.backends.mps.is_available())
