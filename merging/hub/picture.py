"""A picture of a merge for its card: how far every matrix moved from the base, layer by layer."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping

from merging.places import module_order, place

CELL, GAP, LEFT, TOP, FOOT = 22, 2, 120, 34, 46  # pixels
ROOM = 220  # pixels that the words below it take
COLOURS = ((0, 32, 77), (64, 77, 107), (124, 123, 120), (188, 174, 108), (255, 234, 70))  # Cividis


def picture(moved: Mapping[str, float]) -> bytes | None:
    """A PNG of relative distances by tensor name; None where no name tells of a layer."""
    from PIL import Image, ImageDraw, ImageFont

    cells = {(at.module, at.row): value for name, value in moved.items() if (at := place(name)).layer is not None}
    if not cells:
        return None
    rows = list(dict.fromkeys(place(name).row for name in moved if place(name).layer is not None))
    modules = sorted(dict.fromkeys(module for module, _ in cells), key=module_order)  # of one rank, as they come
    most = max((value for value in cells.values() if math.isfinite(value)), default=0.0) or 1.0
    font = ImageFont.load_default(12)
    size = LEFT + max(ROOM, len(rows) * (CELL + GAP) + 20), TOP + len(modules) * (CELL + GAP) + FOOT
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for column, row in enumerate(rows):
        left = LEFT + column * (CELL + GAP)
        if column % max(1, len(rows) // 12) == 0:
            draw.text((left + CELL / 2, TOP - 8), row, "#444", font, "ms")
        for line, module in enumerate(modules):
            top = TOP + line * (CELL + GAP)
            value = cells.get((module, row), math.nan)
            fill = colour(value / most) if math.isfinite(value) else (235, 235, 235)
            draw.rectangle((left, top, left + CELL - 1, top + CELL - 1), fill)
    for line, module in enumerate(modules):
        draw.text((LEFT - 8, TOP + line * (CELL + GAP) + CELL / 2), module, "#222", font, "rm")
    draw.text((LEFT, size[1] - FOOT + 22), f"from 0 (dark) to {most:.3g} (bright)", "#444", font, "ls")
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def colour(share: float) -> tuple[int, int, int]:
    """The colour at that place of the scale, from 0 to 1."""
    at = min(max(share, 0.0), 1.0) * (len(COLOURS) - 1)
    low = min(int(at), len(COLOURS) - 2)
    red, green, blue = (
        round(one + (at - low) * (other - one)) for one, other in zip(COLOURS[low], COLOURS[low + 1], strict=True)
    )
    return red, green, blue
