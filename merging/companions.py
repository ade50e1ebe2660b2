"""What stands beside the weights of a result: its config, its tokenizer and templates, and the licence of its base."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path
from typing import Any

from merging.errors import MergeError
from merging.header import read_json
from merging.plan import Plan
from merging.tokens import ADDED, FILE
from merging.vocabulary import Vocabulary

CONFIG, GENERATION, SETTINGS = "config.json", "generation_config.json", "tokenizer_config.json"
TEMPLATE, TEMPLATES = "chat_template.jinja", "additional_chat_templates"
# By name in lower case. Code is never among them: a result loads with the classes of transformers.
OF_TOKENIZER = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "chat_template*",
    "*.jinja",
)
OF_BASE = ("*processor_config.json", "licen[cs]e*", "notice*")
SUFFIXES = ("", ".json", ".model", ".txt", ".jinja", ".tiktoken", ".md")


def carry_over(work: Plan, folder: Path, out_dtype: str = "", chat_template: str = "") -> None:
    """Write what the result needs beside its weights, so that it loads as the base does, with its own vocabulary.

    `chat_template` is Jinja; empty or `auto` leaves the one that the tokenizer comes with.
    """
    base, donor = work.base, work.vocabulary.home
    if not base.config:
        return
    try:
        _copy(base.folder, folder, OF_BASE)
        _copy(donor or base.folder, folder, OF_TOKENIZER)
        _copy((donor or base.folder) / TEMPLATES, folder / TEMPLATES, ("*.jinja",))
        _write_json(folder / CONFIG, base.folder / CONFIG, config_of(work, out_dtype))
        _write_generation(work, folder)
        if work.vocabulary.added:
            _extend(work.vocabulary, folder)
        if chat_template not in ("", "auto"):
            _set_template(folder, chat_template)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(error.errno, error.strerror) from error  # which is no fault of the file
        where = f"{error.filename} could not be copied into the result ({error.strerror})"
        raise MergeError(f"{where}. Check the file and the output folder.") from error


def bytes_beside(work: Plan) -> int:
    """About how many bytes that will be."""
    home = work.vocabulary.home or work.base.folder
    places = [
        (work.base.folder, (*OF_BASE, CONFIG, GENERATION)),
        (home, OF_TOKENIZER),
        (home / TEMPLATES, ("*.jinja",)),
    ]
    return sum(file.stat().st_size for place in places for file in _chosen(*place)) if work.base.config else 0


def _chosen(source: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    for file in sorted(source.iterdir()) if source.is_dir() else ():
        kept = any(fnmatchcase(file.name.lower(), pattern) for pattern in patterns)
        if kept and file.suffix.lower() in SUFFIXES and file.is_file():
            check_own(file)
            yield file


def check_own(file: Path) -> None:
    """MergeError where a file is a link to one elsewhere, which nobody has chosen to pass on with a result.

    The Hub's cache keeps the files of all snapshots of a model beside them.
    """
    folder = file.parent.parent if file.parent.name == TEMPLATES else file.parent
    home = folder.parent.parent if folder.parent.name == "snapshots" else folder
    if not file.resolve().is_relative_to(home.resolve()):
        words = f"{file} is a link to a file elsewhere, which is not copied into a result"
        raise MergeError(f"{words}. Put the file itself there, or take the link away.")


def _copy(source: Path, folder: Path, patterns: tuple[str, ...]) -> None:
    for file in _chosen(source, patterns):
        folder.mkdir(exist_ok=True)
        shutil.copyfile(file, folder / file.name)


def _write_json(file: Path, origin: Path, content: dict[str, Any]) -> None:
    """Write the content, or copy its origin byte for byte where that says the same."""
    check_own(origin)
    if origin.is_file() and read_json(origin) == content:
        shutil.copyfile(origin, file)
    else:
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def config_of(work: Plan, out_dtype: str = "") -> dict[str, Any]:
    """The config of the result: the base's, with its number of rows, its dtype, and its tokenizer's special tokens."""
    config = dict(work.base.config)
    if out_dtype:
        for key in [key for key in ("torch_dtype", "dtype") if key in config] or ["dtype"]:
            config[key] = out_dtype
    return config | _special(work, CONFIG, config)


def generation_of(work: Plan) -> dict[str, Any] | None:
    """The generation config of the result: the base's with the special tokens of its tokenizer; None without one."""
    origin = work.base.folder / GENERATION
    if not work.base.config or not origin.is_file():
        return None
    content = read_json(origin)
    return content | _special(work, GENERATION, content)


def _special(work: Plan, name: str, content: dict[str, Any]) -> dict[str, Any]:
    """The rows of the special tokens as the tokenizer's own model has them, where that is not the base."""
    donor = work.vocabulary.home
    if donor is None or donor == work.base.folder or not (donor / name).is_file():
        return {}
    theirs = read_json(donor / name)
    return {key: theirs[key] for key in content if key.endswith("_token_id") and key in theirs}


def _write_generation(work: Plan, folder: Path) -> None:
    origin, donor = work.base.folder / GENERATION, work.vocabulary.home
    if origin.is_file() and donor in (None, work.base.folder):
        check_own(origin)
        shutil.copyfile(origin, folder / GENERATION)
    elif (content := generation_of(work)) is not None:
        _write_json(folder / GENERATION, origin, content)


def _extend(vocabulary: Vocabulary, folder: Path) -> None:
    """Add a union's new tokens to the tokenizer that was copied there."""
    (folder / FILE).write_text(extended(vocabulary), encoding="utf-8")
    rows = {token["content"]: token["id"] for token in vocabulary.added}
    if (folder / ADDED).is_file():
        _write_json(folder / ADDED, folder / ADDED, read_json(folder / ADDED) | rows)
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    if isinstance(settings.get("added_tokens_decoder"), dict):
        told = {str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in vocabulary.added}
        settings["added_tokens_decoder"] |= told
        _write_json(folder / SETTINGS, folder / SETTINGS, settings)


def extended(vocabulary: Vocabulary) -> str:
    """The tokenizer.json of a union; MergeError when its tokens cannot be added as they were planned."""
    from tokenizers import AddedToken, Tokenizer

    assert vocabulary.home  # a union has one
    file = vocabulary.home / FILE
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more special
        raise MergeError(f"{file} is no tokenizer that can be added to ({error}). Download it again.") from error
    for special, tokens in groupby(vocabulary.added, key=lambda token: token["special"]):
        new = [AddedToken(**{k: v for k, v in token.items() if k != "id"}) for token in tokens]
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(new)
    for token in vocabulary.added:
        if tokenizer.token_to_id(token["content"]) != token["id"]:
            raise MergeError(
                f"The token {token['content']!r} could not be added to {file} as row {token['id']:,}. "
                "Leave `tokenizer_source` empty."
            )
    return str(tokenizer.to_str(pretty=True))


def _set_template(folder: Path, template: str) -> None:
    for file in folder.glob("chat_template*"):
        file.unlink()
    (folder / TEMPLATE).write_text(template, encoding="utf-8")
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    if settings.pop("chat_template", None) is not None:
        _write_json(folder / SETTINGS, folder / SETTINGS, settings)
