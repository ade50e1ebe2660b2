"""Which files of a folder hold its model: one, those in an index, or shards complete by their names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from merging.errors import MergeError
from merging.formats import foreign
from merging.indices import Listing, indexed

PICKLES = (".bin", ".pt", ".pth")
# For each kind of weights its endings, and the names that libraries give a model's file; safetensors come first.
KINDS = [
    ((".safetensors",), ("model", "adapter_model")),
    (PICKLES, ("pytorch_model", "adapter_model")),
]
ADAPTER = "adapter_config.json"
NUMBERED = re.compile(r"(?P<stem>.+?)[-_.](?P<number>\d{1,6})[-_]of[-_](?P<total>\d{1,6})")
# What a trainer leaves beside the weights, and what `collect` does.
LEFT = re.compile(
    r"(training_args|optimizer|scheduler|scaler|rng_state|random_states|tokenizer|vocab)[^/]*|.+[.]statistics"
)


@dataclass(frozen=True)
class _Candidate:
    """What may be a model: one file, or the shards that name themselves parts of one."""

    stem: str
    files: list[Path]
    missing: str = ""  # the first shard that is not there

    @property
    def complete(self) -> bool:
        return not self.missing


def source_of(path: Path) -> Listing:
    """The files that hold the model of this folder, or this file alone."""
    if path.is_file():
        return Listing([_lone(path)])
    weights = _weights(path)
    for endings, usual in KINDS:
        files = [file for file in weights if file.suffix in endings]
        found = _found(path, files, endings, usual)
        if found:
            left = [file.name for file in weights if file not in found.files]
            return Listing(found.files, found.promised, (*found.notes, *_left(left)))
    raise MergeError(_nothing(path))


def _lone(path: Path) -> Path:
    if what := foreign(path):
        raise MergeError(f"{path.name} {what}")
    if path.suffix not in (".safetensors", *PICKLES):
        known = "a .safetensors file or PyTorch's .bin, .pt or .pth"
        raise MergeError(f"{path.name} is not {known}. Only these can be opened.")
    name = NUMBERED.fullmatch(path.stem)
    if name and int(name["total"]) > 1:
        raise MergeError(f"{path.name} is one shard of {int(name['total'])}. Choose the folder that holds them all.")
    return path


def _weights(path: Path) -> list[Path]:
    try:
        files = sorted(path.iterdir())
    except OSError as error:
        raise MergeError(f"{path} could not be read ({error.strerror}). Check the folder.") from error
    endings = (".safetensors", *PICKLES)
    return [file for file in files if file.suffix in endings and not LEFT.fullmatch(file.stem) and not file.is_dir()]


def _left(names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - 1} more stand" if len(names) > 1 else " stands"
    return [f"{names[0]}{more} beside the model and {'are' if len(names) > 1 else 'is'} not read."]


def _nothing(path: Path) -> str:
    """Why a folder without weights cannot be opened."""
    for file in sorted(path.iterdir()):
        if what := foreign(file):
            return f"{file} {what}"
    for endings, _ in KINDS:
        if below := sorted(file.parent.name for ending in endings for file in path.glob(f"*/*{ending}")):
            return f"{path} has no weights of its own, only its folder `{below[0]}` has. Choose that folder."
    return f"{path} has no .safetensors file. Save the model as safetensors and choose that folder."


def _found(path: Path, files: list[Path], endings: tuple[str, ...], usual: tuple[str, ...]) -> Listing | None:
    first = [*reversed(usual)] if (path / ADAPTER).is_file() else usual[:1]
    for stem in first:  # before an index, as transformers does
        if (alone := path / f"{stem}{endings[0]}").is_file():
            return Listing([alone])
    candidates = _candidates(files)
    if index := _index(path, endings, usual):
        whole = [candidate.files for candidate in candidates if candidate.complete and len(candidate.files) > 1]
        return indexed(path, index, whole)
    if not candidates:
        return None
    chosen = _chosen(path, candidates, usual)
    if chosen.missing:
        raise MergeError(f"Shard {chosen.missing} of {path} is missing. Download it and try again.")
    return Listing(chosen.files)


def _index(path: Path, endings: tuple[str, ...], usual: tuple[str, ...]) -> Path | None:
    """The index of the folder: the one of the usual name, or the only one there is."""
    found = [file for ending in endings for file in sorted(path.glob(f"*{ending}.index.json"))]
    named = [file for file in found if file.name == f"{usual[0]}{endings[0]}.index.json"]
    return next(iter(named or found), None) if named or len(found) == 1 else None


def _candidates(files: list[Path]) -> list[_Candidate]:
    sets: dict[tuple[str, str, str], dict[int, Path]] = {}
    alone = []
    for file in files:
        if name := NUMBERED.fullmatch(file.stem):
            sets.setdefault((name["stem"], name["total"], file.suffix), {})[int(name["number"])] = file
        else:
            alone.append(_Candidate(file.stem, [file]))
    return [_shards(stem, int(total), numbers) for (stem, total, _), numbers in sets.items()] + alone


def _shards(stem: str, total: int, numbers: dict[int, Path]) -> _Candidate:
    first = 0 if 0 in numbers else 1
    wanted = range(first, first + total)
    there = [number for number in wanted if number in numbers and numbers[number].is_file()]
    gaps = (number for number in wanted if number not in there)
    missing = next((_numbered(next(iter(numbers.values())), number) for number in gaps), "")
    return _Candidate(stem, [numbers[number] for number in there], missing)


def _numbered(like: Path, number: int) -> str:
    """The name of that shard, written as another one's is."""
    name = NUMBERED.fullmatch(like.stem)
    assert name
    start, end = name.span("number")
    return f"{like.stem[:start]}{number:0{end - start}}{like.stem[end:]}{like.suffix}"


def _chosen(path: Path, candidates: list[_Candidate], usual: tuple[str, ...]) -> _Candidate:
    """The model among what may be one: that of the usual name, and never the copy that Mistral's own code reads."""
    named = [candidate for candidate in candidates if candidate.stem in usual[:1]]
    other = [candidate for candidate in candidates if not candidate.stem.startswith("consolidated")]
    left = named or other or candidates
    whole = [candidate for candidate in left if candidate.complete]
    if len(left) == 1 or (named and len(whole) == 1):
        return left[0] if len(left) == 1 else whole[0]
    names = ", ".join(file.name for candidate in left[:4] for file in candidate.files[:1])
    raise MergeError(f"{path} has several models ({names}). Choose one of these files.")
