"""The page as it is wired, for tests that press its buttons."""

from __future__ import annotations

import gradio as gr
import pytest

from tests.ui.screens import Screen
from ui.build import build


@pytest.fixture(scope="session")
def built() -> gr.Blocks:
    return build()


@pytest.fixture
def screen(built: gr.Blocks) -> Screen:
    """The page of a visitor who has done nothing yet."""
    return Screen(built)
