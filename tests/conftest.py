"""Tiny models in temporary folders, and settings that keep every test off the network."""

import os

# Read by these libraries when they are imported, so before anything else.
os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # on tensors this small more threads only wait for each other

import json
import math
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from safetensors.torch import load_file, save_file
from torch import Tensor

from merging import METHODS

hypothesis_settings.register_profile(
    "mergescope",
    deadline=None,  # the first call into torch is slow
    derandomize=True,  # the same examples for everyone, so that a red run can be repeated
    max_examples=30,
    # A monkeypatched chunk size holds for all examples of a test, and is meant to.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
hypothesis_settings.load_profile("mergescope")

DATA_FREE = [name for name, method in METHODS.items() if not method.collects]  # need nothing beside the models

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def write_model(
    folder: Path, tensors: dict[str, Tensor], config: dict[str, Any] | None = None, shards: int = 1
) -> Path:
    """Write a model folder as Hugging Face does: config, tokenizer, and weights in one file or in several."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    names = list(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder
    placed = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        save_file({name: tensors[name] for name in names[shard::shards]}, folder / file, {"format": "pt"})
        placed |= dict.fromkeys(names[shard::shards], file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return folder


def random_tensors(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Two layers of a model that is none, with an embedding and a norm."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "model.embed_tokens.weight": (8, 4),
        "model.layers.0.mlp.up_proj.weight": (6, 4),
        "model.layers.1.mlp.up_proj.weight": (6, 4),
        "model.norm.weight": (4,),
    }
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def largest(expert: Path, base: Path, density: float, names: Iterable[str]) -> Tensor:
    """The task vector in these tensors, of which that share is left in the whole model, the largest."""
    moved, start = (load_file(path / "model.safetensors") for path in (expert, base))
    tau = {name: (moved[name] - start[name]).double().flatten() for name in moved}
    whole = torch.cat(list(tau.values())).abs()
    least = whole.topk(math.ceil(density * len(whole))).values[-1]
    return torch.cat([torch.where(tau[name].abs() >= least, tau[name], 0.0) for name in names])


@pytest.fixture(scope="session", autouse=True)
def own_cache() -> Iterator[None]:
    """Keeps statistics of models in a folder of these tests', for processes that they start as well."""
    with tempfile.TemporaryDirectory(prefix="mergescope-cache-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MERGESCOPE_CACHE", folder)
        yield


@pytest.fixture(scope="session", autouse=True)
def fsync() -> Iterator[Callable[[Any], None]]:
    """What waits for the disk; merges of tests do without, since it takes longer than all else in one so small."""
    waits = os.fsync
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield waits


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Cuts tensors into chunks of a few tiles of a few entries, as large models are cut."""
    from merging import groups, output, run, stream

    def cut(tile: int, tiles: int = 1) -> None:
        for module in (groups, output, run, stream):
            monkeypatch.setattr(module, "TILE", tile)
        monkeypatch.setattr(stream, "TILES", tiles)

    return cut


@pytest.fixture(params=["numba", "torch"])
def both_paths(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test with the kernels, and with the torch code that defines what they do."""
    from merging import kernels

    monkeypatch.setattr(kernels, "usable", lambda: request.param == "numba")
    return str(request.param)


Family = Callable[..., tuple[Path, list[Path]]]


@pytest.fixture
def family(tmp_path: Path) -> Family:
    """Writes a base model and experts, and gives back their folders."""

    def make(experts: int = 2, dtype: torch.dtype = torch.float32, shards: int = 1) -> tuple[Path, list[Path]]:
        start = random_tensors(0, dtype)
        base = write_model(tmp_path / "base", start, shards=shards)
        folders = []
        for number in range(1, experts + 1):
            moved = {name: start[name] + 0.1 * tensor for name, tensor in random_tensors(number, dtype).items()}
            folders.append(write_model(tmp_path / f"expert-{number}", moved, shards=shards))
        return base, folders

    return make


@pytest.fixture(scope="session")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A real Llama and two experts, as transformers saves them: tied embeddings, a tokenizer and a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    root = tmp_path_factory.mktemp("llamas")
    words = ["<pad>", "<s>", "</s>", *(chr(97 + i) for i in range(26))]
    letters = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    letters.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.chat_template = TEMPLATE
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    folders = []
    for number, name in enumerate(["base", "expert-1", "expert-2"]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        torch.manual_seed(number)
        with torch.no_grad():
            for weight in model.parameters() if number else ():
                weight.add_(0.01 * torch.randn_like(weight))
        model.generation_config = GenerationConfig(max_new_tokens=5, bos_token_id=1, eos_token_id=2)
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
        folders.append(root / name)
    return folders[0], folders[1:]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 256 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("mount")
    if (
        not mounted
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], check=False).returncode
    ):
        pytest.skip("needs the right to mount a small disk")
    yield place
    subprocess.run(["umount", place], check=True)
