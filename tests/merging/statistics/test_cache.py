"""Statistics are kept by what they follow from, and nothing that is not whole is ever believed."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging import compare
from merging.compare import Comparison
from merging.statistics import cache
from tests.conftest import Family
from tests.merging.test_compare import opened


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("MERGESCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "statistics"


def look(base: Path, experts: list[Path]) -> tuple[Comparison, bool]:
    """The comparison, and whether the weights were read for it."""
    read = list[int]()
    found = compare.compare(*opened(base, experts), lambda *_: read.append(1), cached=True)
    return found, bool(read)


def same(one: Comparison, other: Comparison) -> bool:
    tables = (
        "norms",
        "products",
        "squares",
        "zeros",
        "means",
        "kurtosis",
        "energy",
        "energies",
        "cosines",
    )
    groups = zip((*one.probe.groups, *one.rows.groups), (*other.probe.groups, *other.rows.groups), strict=True)
    return all(
        getattr(one, table).numpy().tobytes() == getattr(other, table).numpy().tobytes() for table in tables
    ) and all(first.bits.tobytes() == second.bits.tobytes() and first.axes == second.axes for first, second in groups)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("probe", [1 << 24, 60])
def test_a_second_visit_reads_no_weights_and_sees_the_same(
    family: Family, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, probe: int
) -> None:
    monkeypatch.setattr(compare, "PROBE", probe)
    folders = family(dtype=dtype)

    (first, read), (second, again) = look(*folders), look(*folders)

    assert (read, again) == (True, False)
    assert same(first, second)
    assert first.trimmed[0.5].conflicts.tolist() == second.trimmed[0.5].conflicts.tolist()
    assert second.warnings() == first.warnings()


def test_models_that_were_moved_are_known_and_called_by_their_new_names(family: Family, tmp_path: Path) -> None:
    base, experts = family()
    look(base, experts)
    shutil.move(experts[0], tmp_path / "elsewhere" / "renamed")

    found, read = look(base, [tmp_path / "elsewhere" / "renamed", experts[1]])

    assert not read
    assert found.experts == ("renamed", "expert-2")


def test_what_changes_a_result_is_noticed(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    base, experts = family()
    look(base, experts)

    assert look(base, experts[::-1])[1]
    assert look(base, experts[:1])[1]
    assert look(experts[0], [base, experts[1]])[1]
    monkeypatch.setattr(compare, "PROBE", 60)
    assert look(base, experts)[1]
    monkeypatch.setattr(cache, "our_code", lambda: "another version")
    assert look(base, experts)[1]
    (base / "config.json").write_text('{"model_type": "llama", "tie_word_embeddings": true}')
    assert look(base, experts)[1]


def test_a_large_file_that_was_changed_anywhere_is_another_one(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "BLOCKS", 2)
    monkeypatch.setattr(cache, "BLOCK", 8)
    base, experts = family()
    look(base, experts)
    file = experts[0] / "model.safetensors"
    told, content = file.stat(), bytearray(file.read_bytes())
    assert not look(base, experts)[1]

    content[-100] ^= 1  # between the blocks that are looked at
    file.write_bytes(content)
    os.utime(file, ns=(told.st_atime_ns, told.st_mtime_ns + 1))

    assert look(base, experts)[1]


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    tensors = load_file(file)
    if how == "cut":
        file.write_bytes(content[:-1])
    elif how == "flipped":
        file.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "foreign":
        save_file({"w": torch.zeros(3)}, file)
    elif how == "shapes":
        save_file({**tensors, "means": tensors["means"][:1].clone()}, file, {"checksum": "?"})
    elif how == "types":
        changed = {**tensors, "means": tensors["means"].float()}
        save_file(changed, file, {"checksum": cache._checksum(changed)})
    elif how == "folder":
        file.unlink()
        file.mkdir()


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "foreign", "shapes", "types", "folder"])
def test_a_file_that_is_damaged_or_not_ours_is_as_if_it_were_not_there(family: Family, kept: Path, how: str) -> None:
    folders = family()
    first, _ = look(*folders)
    [file] = kept.iterdir()
    damage(file, how)

    second, read = look(*folders)

    assert read
    assert same(first, second)
    if how != "folder":  # which is left alone
        assert not look(*folders)[1]


def test_two_who_keep_the_same_at_once_are_not_at_one_file(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []

    def save(tensors: Any, file: Path, *told: Any) -> None:
        written.append(file)
        save_file(tensors, file, *told)
        if len(written) == 1:  # another one keeps the same before this one is done
            compare.compare(*opened(*folders), cached=True)
        assert file.is_file()

    folders = family()
    monkeypatch.setattr("safetensors.torch.save_file", save)
    found, _ = look(*folders)

    assert len({*written}) == 2
    assert all(cache.NAME.fullmatch(file.name) for file in written)
    again, read = look(*folders)
    assert not read
    assert same(found, again)


def test_the_files_that_were_used_longest_ago_make_room(
    family: Family, kept: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base, experts = family()
    look(base, experts)
    [first] = kept.iterdir()
    os.utime(first, (1, 1))
    look(base, experts[:1])
    [second] = set(kept.iterdir()) - {first}
    os.utime(second, (2, 2))
    look(base, experts)  # is used again
    others = [kept / "notes.txt", kept / f".{'0' * 64}.safetensors.1", kept / f".{'1' * 64}.safetensors.1"]
    for other in others:
        other.write_text("of another program, or not finished")
    os.utime(others[1], (1, time.time() - cache.LEFT - 60))
    monkeypatch.setattr(cache, "LIMIT", first.stat().st_size + second.stat().st_size + 100)

    look(base, experts[1:])

    assert first.exists()
    assert not second.exists()
    assert [other.exists() for other in others] == [True, False, True]
    assert len(list(kept.glob("[0-9a-f]*.safetensors"))) == 2


def test_where_nothing_can_be_kept_the_result_is_there_all_the_same(family: Family, kept: Path) -> None:
    kept.parent.mkdir()
    kept.write_text("a file where the folder would be")

    found, read = look(*family())

    assert read
    assert found.norms.isfinite().all()


def test_nothing_is_kept_of_what_was_stopped(family: Family, kept: Path) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("as if stopped")

    with pytest.raises(RuntimeError):
        compare.compare(*opened(*family()), fail, cached=True)

    assert not kept.exists()


def test_the_folder_is_where_this_users_caches_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache.folder() == tmp_path / "cache" / "statistics"
    monkeypatch.delenv("MERGESCOPE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "mergescope" / "statistics"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == tmp_path / ".cache" / "mergescope" / "statistics"


def test_without_being_asked_nothing_is_kept(family: Family, kept: Path) -> None:
    compare.compare(*opened(*family()))

    assert not kept.exists()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft with this transformers
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_adapter_is_told_by_its_own_files(tmp_path: Path) -> None:
    from merging.adapter import open_base, open_expert
    from tests.adapters import written
    from tests.merging.test_factored import ATTENTION

    folder, [path] = written(tmp_path, ATTENTION)

    def key() -> str:
        base = open_base(folder)
        return cache.key([base, open_expert(path, base)], 10)

    before = key()
    assert key() == before
    file = path / "adapter_model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    assert key() != before


def test_nothing_is_kept_of_models_that_change_while_they_are_read(family: Family, kept: Path) -> None:
    base, experts = family()

    def change(*_: object) -> None:
        (experts[0] / "config.json").write_text("{}")

    compare.compare(*opened(base, experts), change, cached=True)

    assert not kept.exists()
