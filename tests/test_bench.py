"""The benchmark runs, on the smallest family: what it writes is complete, and what it tells is of this run."""

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from merging import METHODS
from merging.adapter import open_base, open_expert
from merging.plan import plan

ROOT = Path(__file__).parents[1]


def bench(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "bench" / script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families") / "nano"
    assert bench("family.py", folder, "--size", "nano", "--experts", "2").returncode == 0
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_family_can_be_merged(nano: Path) -> None:
    base = open_base(nano / "base")

    work = plan(base, [open_expert(nano / f"expert-{number}", base) for number in (1, 2)])

    assert len(work.merged) == len(base.entries) == 20
    assert base.dtypes == ["bfloat16"]
    for expert in work.experts:
        moved = (expert.tensor("model.embed_tokens.weight") != base.tensor("model.embed_tokens.weight")).any(1)
        assert 0.2 < moved.float().mean() < 0.6


def test_the_same_arguments_give_the_same_family_however_it_grew(nano: Path, tmp_path: Path) -> None:
    for experts in (1, 2):
        assert bench("family.py", tmp_path / "grown", "--size", "nano", "--experts", experts).returncode == 0

    assert bytes_of(tmp_path / "grown") == bytes_of(nano)


def test_another_family_is_not_taken_for_the_one_that_was_asked_for(nano: Path, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "base").mkdir()

    assert "holds a family of another size: nano" in bench("family.py", nano, "--size", "tiny").stderr
    assert "holds a family of another seed: 0" in bench("family.py", nano, "--size", "nano", "--seed", 1).stderr
    assert "no finished family" in bench("family.py", tmp_path / "half", "--size", "nano").stderr


def test_the_floor_reads_less_where_the_base_is_not_read_and_leaves_nothing(nano: Path) -> None:
    before = bytes_of(nano)

    done = bench("floor.py", nano, "--experts", 2, "--repeat", 1)

    assert [line[:13].strip() for line in done.stdout.splitlines()] == ["with the base", "without it"]
    assert bytes_of(nano) == before


def test_scaling_and_the_table_refuse_a_method_that_is_not_there(nano: Path) -> None:
    for script, family in (("engine.py", ["--family", nano]), ("scaling.py", [nano.parent])):
        done = bench(script, *family, "--methods", "tie")

        assert done.returncode == 1
        assert "There is no method tie. Known are linear, " in done.stderr


def test_the_live_figures_tell_from_how_much_they_were_estimated() -> None:
    done = bench("live.py", "--layers", 1, "--repeat", 2, "--methods", "from", "ties")

    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if "|" in line]
    assert (rows[2][0], rows[2][-1]) == ("FroM", "exact")
    assert rows[3][0] == "TIES-Merging"
    assert 0 < float(rows[3][-1].rstrip("%")) <= 100


def test_the_page_is_measured_by_what_slides_first_of_each_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    spec = spec_from_file_location("bench_of_the_page", ROOT / "bench" / "ui.py")
    assert spec
    assert spec.loader
    page = module_from_spec(spec)
    spec.loader.exec_module(page)

    sliders = {name: found and found[0] for name in page.KNOWN for found in [page.slider_of(METHODS[name])]}

    assert sliders["from"] == "#from-k input[type=range]"
    assert sliders["task_arithmetic"] == "#task_arithmetic-lambda input[type=range]"
    assert sliders["karcher"] == "#karcher-max_iter input[type=range]"
    assert sliders["nuslerp"] == ".weights input[type=range]"
    assert [name for name, slider in sliders.items() if not slider] == ["model_stock", "arcee_fusion"]
    assert set(page.DEFAULT) <= set(page.KNOWN)
    assert (page.told([1.0] * 3), page.told([])) == ("median 1 ms, p95 1 ms", "the same picture")


def test_whole_numbers_are_drawn_where_a_parameter_counts() -> None:
    done = bench("live.py", "--layers", 1, "--repeat", 2, "--methods", "karcher")

    assert "| Karcher mean" in done.stdout


def test_models_of_any_size_are_looked_at_by_few_requests() -> None:
    done = bench("preflight.py", "--size", "70b", "--wait", 0)

    assert done.returncode == 0, done.stderr
    _, _, line, *_ = done.stdout.splitlines()
    _, _, _, download, requests, kept, _, _ = (cell.strip() for cell in line.split("|"))
    assert download == "417.0"
    assert int(requests) <= 130
    assert float(kept) < 1
