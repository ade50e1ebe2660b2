"""How the page looks: the theme, and where its style sheet is."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

CSS = [Path(__file__).parent / name for name in ("style.css", "lessons.css")]


def theme() -> gr.themes.Base:
    """One accent colour, calm greys, and fonts that Gradio itself ships."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=["Plex", "ui-sans-serif", "system-ui", "sans-serif"],
        font_mono=["Plex Mono", "ui-monospace", "monospace"],
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_700",
        block_title_text_weight="600",
        block_border_width="0px",
        block_padding="6px 0",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        form_gap_width="0px",
        layout_gap="10px",
        block_shadow="none",
        block_label_background_fill="transparent",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        slider_color="*primary_600",
    )
