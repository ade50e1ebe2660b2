"""Language models in memory, ready to be run: by the classes of transformers alone, never by code that came with them.

A model is on disk, or it is a merge that is in memory already.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging.checkpoint import Checkpoint
from merging.companions import SETTINGS
from merging.errors import MergeError, MergeStopped
from merging.growth import check_growth
from merging.header import INDEX, only_headers, size_on_the_hub
from merging.lazy import torch
from merging.tokens import FILE, OLDER

if TYPE_CHECKING:
    from merging.unwritten import Unwritten


MOST = {"experts": 1 << 14, "head_dim": 1 << 14}  # that configs may say, by a part of the key


@dataclass
class Loaded:
    """A model in memory, and its tokenizer."""

    model: Any
    tokenizer: Any
    bytes: int


def memory_of(model: Checkpoint | Unwritten) -> int:
    """Bytes it takes in memory: float32 while that is small, which processors are quicker with, else its own dtype."""
    whole = model.parameters * 4
    return whole if whole <= 2 << 30 else model.bytes


def load(checkpoint: Checkpoint, base: Checkpoint, size: int) -> Loaded:
    """A model in memory, in float32 where `size` is what that takes, else as it is stored.

    The base gives config and tokenizer where it has none of its own.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    own = checkpoint if checkpoint.config and not checkpoint.adapter else base
    if not own.config:
        words = "" if checkpoint.path == base.path else ", and neither has the base"
        raise MergeError(f"{checkpoint.name} has no config.json{words}. Choose a model folder.")
    for file in {entry.file for entry in checkpoint.entries.values()}:
        if size_on_the_hub(file):
            raise only_headers(file.parent)
    dtype = torch.float32 if size == checkpoint.parameters * 4 else "auto"
    with told_of(checkpoint.name):
        _modest(own.config, len(checkpoint.entries))
        config = _plain(AutoConfig.from_pretrained(own.folder, local_files_only=True, trust_remote_code=False))
        _filled(config, checkpoint.parameters)
        if checkpoint.config and not checkpoint.adapter and _usual(checkpoint):
            found: Any = AutoModelForCausalLM.from_pretrained(
                checkpoint.folder,
                config=config,
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
            model = _whole(*found)
        else:
            model = _of_tensors(config, {name: checkpoint.tensor(name) for name in checkpoint.entries}, dtype)
    home = checkpoint if (checkpoint.folder / SETTINGS).is_file() else base
    return Loaded(model.eval(), _tokenizer(home.folder, checkpoint.name), size)


def load_unwritten(merge: Unwritten, size: int) -> Loaded:
    """A merge that is in memory as a model, with config and tokenizer as its folder would have them; likewise."""
    from transformers import CONFIG_MAPPING, GenerationConfig

    if not merge.config:
        raise MergeError(f"The base {merge.work.base.name} has no config.json. Choose a model folder as the base.")
    kind: Any = merge.config.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise MergeError(f"{merge.name} could not be loaded: transformers has no classes for its model type, {kind!r}.")
    dtype = torch.float32 if size == merge.parameters * 4 else "auto"
    vocabulary = merge.work.vocabulary
    with told_of(merge.name):
        _modest(merge.config, len(merge.tensors))
        config = _plain(CONFIG_MAPPING[kind].from_dict(merge.config))
        _filled(config, merge.parameters)
        model = _of_tensors(config, dict(merge.tensors), dtype)
        if merge.generation is not None:
            model.generation_config = GenerationConfig.from_dict(merge.generation)
    tokenizer = _tokenizer(vocabulary.home or merge.work.base.folder, merge.name)
    _extend(tokenizer, vocabulary.added)
    if merge.chat_template:
        tokenizer.chat_template = merge.chat_template
    return Loaded(model.eval(), tokenizer, size)


def _modest(config: Any, tensors: int, inside: str = "") -> None:
    """MergeError where a config asks for far more than so many tensors can fill, which only building it would tell."""
    known = (("layer", max(256, tensors)), *MOST.items())
    for key, value in config.items() if isinstance(config, dict) else ():
        most = next((most for part, most in known if part in key), None)
        if most is not None and type(value) is int and value > most:
            words = f"`{inside}{key}` is {value:,} in its config.json, and it holds {tensors:,} tensors"
            raise MergeError(f"{words}. Put the config.json there that belongs to them.")
        _modest(value, tensors, f"{inside}{key}.")


def _filled(config: Any, parameters: int) -> None:
    """ValueError where a model of that config is far larger than so many parameters, as where a config says little.

    It is built without memory. Where a head is tied to its embedding, that may count twice.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    if (asked := sum(one.numel() for one in model.parameters())) > 2 * parameters:
        raise ValueError(f"its config asks for {asked:,} parameters, and it holds {parameters:,}.")


def _plain(config: Any) -> Any:
    """The config without what it says of code that is to compute attention and experts, which may be on the Hub."""
    config._attn_implementation = None
    config._experts_implementation = None
    return config


def _of_tensors(config: Any, tensors: dict[str, Any], dtype: Any) -> Any:
    """The model of a config with these tensors."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return _whole(*kind.from_pretrained(None, config=config, state_dict=tensors, dtype=dtype, output_loading_info=True))


def _whole(model: Any, told: dict[str, Any]) -> Any:
    """The model; ValueError where some of its tensors are missing, which transformers would draw at random."""
    if missing := sorted(told["missing_keys"]):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"its config asks for `{missing[0]}`{more}, which it does not hold.")
    return model


def _tokenizer(folder: Path, name: str) -> Any:
    """The tokenizer of a folder, for the model of that name."""
    from transformers import AutoTokenizer

    if (folder / FILE).is_file():
        check_growth(folder / FILE)
    try:
        with told_of(f"The tokenizer in {folder}"):
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except MergeError as error:
        if any((folder / file).is_file() for file in (FILE, *OLDER)):
            raise MergeError(f"{str(error).rstrip('.: ')}. Check its files, or download them again.") from error
        words = f"{name} cannot be asked: there is no tokenizer in {folder}"
        raise MergeError(f"{words}. Put the files of its tokenizer there.") from error


def _extend(tokenizer: Any, added: tuple[dict[str, Any], ...]) -> None:
    """Add a union's new tokens, in the order of their rows."""
    from tokenizers import AddedToken

    for token in added:
        told = {key: value for key, value in token.items() if key != "id"}
        tokenizer.add_tokens([AddedToken(**told)], special_tokens=bool(token["special"]))
        assert tokenizer.convert_tokens_to_ids(token["content"]) == token["id"], "the preflight has tried it"


@contextmanager
def told_of(name: str, failed: str = "could not be loaded") -> Iterator[None]:
    """MergeError with the name where a library has something against what came with a model, whatever it raises."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        yield
    except (MergeError, MergeStopped, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # tokenizers, which are Rust, do not only raise Exceptions
        if "mismatched_sizes" in str(error):
            words = f"The weights of {name} have other shapes than its config.json says"
            raise MergeError(f"{words}. Put the config.json there that belongs to them.") from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MergeError(f"{name} {failed}: {reason}") from error


def _usual(checkpoint: Checkpoint) -> bool:
    """Whether its files have the names under which transformers looks for them."""
    return any((checkpoint.folder / name).is_file() for name in ("model.safetensors", INDEX))
