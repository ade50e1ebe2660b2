"""Fuzzes what reads strangers' files, headers of weights and recipes: `python -m tests.attacks.fuzz 100000`.

Inputs are valid ones that were changed in their structure and in their bytes, and bytes without any. Each is read, or
refused with a sentence, in bounded memory and time; whatever else happens ends the run, and the input is printed.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from math import prod
from pathlib import Path
from random import Random
from typing import Any

import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from merging.checkpoint import open_checkpoint
from merging.document import found
from merging.errors import MergeError
from merging.header import metadata, read_header
from merging.method import ADAPTERS, METHODS
from merging.recipe import load_recipe

MEMORY = 512 << 20  # bytes that reading may take beside the program
PATIENCE = 20  # seconds for one input; the slowest takes less than one
SEED = 20261123

NUMBERS = [None, True, -1, 0, 2**31, 2**53, 2**63, 2**64, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")]
WORDS = ["", "F32", "__metadata__", "a\0b", "\ud800", "é" * 50, "../../x", "a" * 2000, "9" * 30, "=", "~", "*", "<<"]
OTHERS = [[], {}, [[]], [0, 8], [8, 0], [-8, 0], [0, 2**62], [2**32] * 2, {"a": {}}, {"filter": "a", "value": 1}]
LETTERS = "aw.0_-/ :\"'{}[]\n\té\u202e\U0001f600"
DTYPES = [("F32", 4), ("BF16", 2), ("F64", 8), ("U8", 1), ("F8_E4M3", 1)]
MARKS = [b'"', b"{", b"}", b"[", b",", b":", b"NaN", b"\xff", b'"w":{},', b" " * 9, b"1e999", b"\\ud800"]
ALL = METHODS | ADAPTERS
PIECES = ["&a ", "*a", "<<: *a", "!!int ", "!!timestamp x", "!!python/object:x ", "? ", "- ", "\t", "\n", "---\n", "{"]
PIECES += [
    "[",
    ": ",
    "#",
    "|\n",
    ">\n",
    "%YAML 9\n",
    "\x07",
    "\ud800",
    "0x" + "f" * 60,
    "1:" * 40 + "1",
    ".nan",
    "'",
    "`",
]
BESIDE = ["seed", "dtype", "out_dtype", "tokenizer_source", "tokenizer", "chat_template", "result", "rank", "slices"]
BESIDE += ["extra_tensors", "modules"]
DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def text(random: Random) -> str:
    return "".join(random.choices(LETTERS, k=random.randrange(8)))


def anything(random: Random) -> Any:
    return random.choice([*NUMBERS, *WORDS, *OTHERS, text(random)])


def changed(random: Random, content: Any) -> Any:
    """The content with something else in some place of it."""
    if not random.randrange(8) or not isinstance(content, dict | list) or not content:
        return anything(random)
    if isinstance(content, list):
        at = random.randrange(len(content))
        return [*content[:at], changed(random, content[at]), *content[at + 1 :]]
    key, what = random.choice(list(content)), random.randrange(6)
    if what == 0:
        return {other: value for other, value in content.items() if other != key}
    return {**content, (text(random) if what == 1 else key): changed(random, content[key])}


def scratched(random: Random, content: Any, pieces: list[Any]) -> Any:
    """A text, or bytes, of which something was taken, or repeated, or into which something was put."""
    for _ in range(random.randint(1, 3)):
        start = random.randint(0, len(content))
        stop = min(len(content), start + random.randint(0, 12))
        middle = random.choice([content[start:stop] * 2, content[:0], *pieces])
        content = content[:start] + middle + content[stop:]
    return content


def weights(random: Random) -> bytes:
    """A file of weights, or what calls itself one."""
    if not random.randrange(8):
        return random.randbytes(random.randrange(200))
    told: Any = {"__metadata__": {"format": "pt"}} if random.randrange(2) else {}
    end = 0
    for _ in range(random.randrange(5)):
        dtype, size = random.choice(DTYPES)
        shape = [random.randrange(5) for _ in range(random.randrange(4))]
        start, end = end, end + size * prod(shape)
        told[text(random)] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    for _ in range(random.choice([0, 0, 1, 1, 2])):
        told = changed(random, told)
    header = json.dumps(told, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")
    if not random.randrange(3):
        header = scratched(random, header, MARKS)
    length = len(header) + random.choice([0] * 9 + [1, -1, 8, 2**31, 2**63 - len(header)])
    return max(0, length).to_bytes(8, "little") + header + bytes(random.choice([end, end, end, 0, 8, end + 8]))


def params(random: Random, method: str) -> dict[str, Any]:
    """Parameters of a method: their defaults, or numbers, switches, gradients and filters."""
    told: dict[str, Any] = {}
    for param in random.sample(list(ALL[method].params.values()), k=min(len(ALL[method].params), random.randrange(3))):
        value: Any = random.choice([param.default, param.low, 0.5, 1, -2, True, [0.0, 1.0], "tensor", None])
        filters = [{"filter": text(random), "value": value}, {"value": param.default}]
        told[param.key] = value if random.randrange(4) else filters
    return told


def recipe(random: Random) -> str:
    """A recipe, of ours or of mergekit's, or what calls itself one."""
    if not random.randrange(8):
        return "".join(random.choices([*LETTERS, *PIECES], k=random.randrange(60)))

    method = random.choice(list(ALL))
    told: Any = {"mergescope": 1} if random.randrange(4) else {}
    told |= {"merge_method": method, "base_model": "base", "parameters": params(random, method)}
    if method in ADAPTERS:
        told["result"] = "adapter"
    models = [{"model": f"expert-{index}"} for index in range(random.choice([0, 1, 1, 2, 2, 3]))]
    told["models"] = [
        model | ({} if random.randrange(4) else {"parameters": params(random, method)}) for model in models
    ]
    if not random.randrange(4):
        told[random.choice(BESIDE)] = anything(random)
    for _ in range(random.choice([0, 0, 1, 2])):
        told = changed(random, told)
    flow, letters = random.random() < 0.5, random.random() < 0.5
    try:
        written = str(yaml.dump(told, Dumper=DUMPER, allow_unicode=letters, default_flow_style=flow))
    except UnicodeEncodeError:  # half a letter, which JSON, that is YAML, can write
        written = json.dumps(told)
    return str(scratched(random, written, PIECES)) if not random.randrange(3) else written


class Hang(BaseException):
    """One input took longer than anybody would wait."""


def _hangs(number: int, frame: Any) -> None:
    raise Hang


def read_weights(content: bytes, place: Path) -> str:
    """Read a file of weights; what was wrong with it, or nothing."""
    file = place / "model.safetensors"
    file.write_bytes(content)
    try:
        for entry in read_header(file):
            assert 8 <= entry.offset <= entry.offset + entry.bytes <= len(content)
        open_checkpoint(file)
        metadata(file)
    except MergeError as error:
        return str(error)
    with suppress(MergeError):  # that it holds no recipe
        found(str(file))
    return ""


def read_recipe(content: str, place: Path) -> str:
    """Read a recipe, and what is written of it; what was wrong with it, or nothing."""
    try:
        told = load_recipe(f"{content}\n")
        again = load_recipe(told.to_yaml(Path()) + "\n")
        assert again.settings().fixed.keys() == told.settings().fixed.keys()
    except MergeError as error:
        return str(error)
    return ""


def kind(sentence: str) -> str:
    """The sentence without what it names, so that what is said twice counts once."""
    first = sentence.partition("\n")[0]
    return re.sub(r"`[^`]*`|'[^']*'|\"[^\"]*\"|\(.*\)|/\S*|[\d,.]+|\s+", " ", first)[:60]


def fuzz(name: str, made: Callable[[Random], Any], read: Callable[[Any, Path], str], count: int, place: Path) -> None:
    """Read so many inputs, and print what came of them."""
    outcomes = Counter[str]()

    @seed(SEED)
    @settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=True).map(made))  # which makes inputs ten times as fast as drawing their parts
    def one(content: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        try:
            outcomes[kind(read(content, place))] += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    started = time.monotonic()
    one()
    good, total = outcomes[""], outcomes.total()
    taken = time.monotonic() - started
    print(f"{name}: {total:,} inputs in {taken:.0f} s; {good:,} read, {total - good:,} refused", end="")  # noqa: T201
    print(f" with {len(outcomes) - 1:,} different sentences; none crashed, none hung.")  # noqa: T201


def main(count: int) -> None:
    """Fuzz both readers, with half of the inputs each."""
    signal.signal(signal.SIGALRM, _hangs)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        fuzz("Headers", weights, read_weights, count // 2, Path(folder))
        fuzz("Recipes", recipe, read_recipe, count - count // 2, Path(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"Memory: {peak >> 10:,} MB at most, of which {(peak - before) >> 10:,} MB came with the inputs.")  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]))
