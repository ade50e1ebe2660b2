"""The page as it is wired, for tests that press its buttons."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr
import pytest

from tests.ui.screens import Screen
from ui.build import build
from ui.jobs import leave


@pytest.fixture(scope="session")
def built() -> gr.Blocks:
    return build()


@pytest.fixture
def screen(built: gr.Blocks) -> Screen:
    """The page of a visitor who has done nothing yet."""
    return Screen(built)


@pytest.fixture(autouse=True)
def gone() -> Iterator[None]:
    """When a test is over, its visitor is: nothing that was announced is taken for work by the next one."""
    yield
    leave("someone")
