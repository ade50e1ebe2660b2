"""Large models are read with progress, which can be stopped: what was read stays, and reading them can go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import choose_models, drawn, expect_experts, figure, open_tab

pytestmark = pytest.mark.e2e

# So many that there is time to stop, on a busy machine as well.
NAMES = ["one", "two", "three", "four", "five", "six", "seven"]

# Stop is pressed in the frame in which something is drawn of the last expert: the reading takes a few seconds only.
STOPPED_HALFWAY = r"""() => {
  const traces = document.querySelector('#norms .pv-box').data || [];
  const stop = document.querySelector('#see-stop');
  const partly = stop && traces.some((trace) => trace.name === 'seven' && trace.z.flat().some((cell) => cell > 0))
    && /Reading the weights: [1-8]?\d%/.test(document.querySelector('#see-note').innerText);
  if (partly) stop.click();
  return partly;
}"""


def linked(file: Path, name: str) -> Path:
    """The same file under another name, which costs no disk and is read once more."""
    other = file.with_stem(name)
    other.hardlink_to(file)
    return other


def layers(page: Page) -> list[Any]:
    """What stands in the heatmap of each layer, one expert after the other."""
    return [cell for trace in figure(page, "#norms") for row in trace["z"] for cell in row]


def test_reading_is_stopped_halfway_and_goes_on(visit: Page, large: list[Path]) -> None:
    note, stop, read = (visit.locator(f"#see-{name}") for name in ("note", "stop", "read"))
    again = [linked(large[1 + at % 2], name) for at, name in enumerate(NAMES[2:])]
    expect(stop).to_have_count(0)
    expect(read).to_have_count(0)
    choose_models(visit, large[0], [*large[1:], *again])
    visit.wait_for_function(STOPPED_HALFWAY)

    expect(note).to_contain_text("Stopped: what is drawn is incomplete. Press “Read them”")
    expect(stop).to_have_count(0)
    known = {at: cell for at, cell in enumerate(layers(visit)) if cell}
    assert known
    expect(visit.locator("#forecast-note")).to_contain_text("These models are not read.")
    expect(visit.locator("#weights .pv-box")).to_be_hidden()
    open_tab(visit, "#views", "Depth")
    drawn(visit, "#curves")
    assert sum(y is not None for y in figure(visit, "#curves")[0]["y"]) == len(known) // len(NAMES)
    open_tab(visit, "#views", "Table")
    visit.locator("#statistics-save").click()
    expect(visit.locator("#statistics-unsaved")).to_contain_text("These models are not read to their end.")
    open_tab(visit, "#views", "Layers")

    read.click()
    still = ", ".join(f"{name} 0%" for name in NAMES)
    expect(note).to_contain_text(f"Entries that did not move at all: {still}.", timeout=120_000)
    expect(read).to_have_count(0)
    expect_experts(visit, *NAMES)
    whole = layers(visit)
    assert len(whole) == 80 * len(NAMES)
    assert all(cell > 0 for cell in whole)
    assert {at: whole[at] for at in known} == known
