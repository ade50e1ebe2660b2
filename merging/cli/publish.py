"""`publish`: a merge goes onto the Hub, with a card that tells what it was made of."""

from __future__ import annotations

import argparse
from pathlib import Path

from merging.cli.progress import progress, stoppable
from merging.errors import MergeError, MergeStopped
from merging.progress import Step


def run(options: argparse.Namespace) -> int:
    """Upload the merge, or print the card that it would have."""
    from merging.hub.card import card_of
    from merging.hub.models import licence_of
    from merging.hub.moved import moved
    from merging.hub.picture import picture
    from merging.hub.upload import Upload, account, free, publish

    folder, name = options.folder, options.name
    if not options.card_only:
        account()
        free(name, private=not options.public)
    try:
        with stoppable() as stop, progress(options.quiet) as on_step:

            def tell(stage: str, done: int, total: int) -> None:
                if on_step:
                    on_step(Step(0, 0, "", done, total, stage))

            shown = picture(moved(folder, lambda done, total: tell("Measuring", done, total), stop))
            card = _read(options.card) if "card" in options else card_of(folder, name, licence_of, bool(shown))
            if options.card_only:
                print(card, end="")
                return 0
            upload = Upload(folder, name, card, shown, private=not options.public)
            address = publish(upload, lambda done, total: tell("Uploading", done, total), stop.is_set)
    except MergeStopped as stopped:
        print(stopped)
        return 130
    except KeyboardInterrupt:
        print(f"Stopped at once. `{name}` may be on the Hub by now, empty: publish again to go on in it.")
        return 130
    print(f"It is at {address}, {'for everyone' if options.public else 'private'}.")
    return 0


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MergeError(f"{file} could not be read as a card ({error}). Check it.") from error
