"""Step 5, Publish: a merge goes onto the Hub, with a card that is shown and can be changed before."""

from __future__ import annotations

import base64
import html
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from merging import space
from merging.errors import MergeError, MergeStopped
from merging.hub.card import card_of
from merging.hub.models import licence_of
from merging.hub.moved import moved
from merging.hub.names import hub_name
from merging.hub.picture import picture
from merging.hub.upload import Upload, account, free, publish
from ui.errors import notice, worded
from ui.jobs import Job, stoppable
from ui.pace import Pace, bar

NOBODY = "Nobody can sign in here: the README of this Space lacks `hf_oauth: true`. Download the merge instead."
WHERE = "As owner/name. It must be free: nothing on the Hub is ever overwritten."


@dataclass(frozen=True)
class Publishing:
    """The components."""

    who: gr.HTML  # is signed in to a Space
    name: gr.Textbox
    private: gr.Checkbox
    prepare: gr.Button
    card: gr.Textbox
    shown: gr.HTML
    run: gr.Button
    stop: gr.Button
    said: gr.HTML
    prepared: gr.State  # `Prepared`, or nothing


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a card was written for: the merge's folder, its name on the Hub, and its picture."""

    folder: Path
    name: str
    picture: bytes | None
    published: bool = False


def publish_panel() -> Publishing:
    with gr.Accordion("Publish it on the Hub", open=False, elem_id="publish"):
        who = gr.HTML(notice(NOBODY if space.here() else "", "info"), visible=space.here(), padding=False)
        with gr.Column(visible=space.signs_in() or not space.here()):
            return _form(who)


def _form(who: gr.HTML) -> Publishing:
    with gr.Row():
        name = gr.Textbox(
            label="Name on the Hub", info=WHERE, placeholder="owner/name", max_lines=1, min_width=260,
            elem_id="publish-name",
        )  # fmt: skip
        private = gr.Checkbox(
            True, label="Private", info="You can open it for everyone on the Hub later.", min_width=200,
            elem_id="publish-private",
        )  # fmt: skip
    prepare = gr.Button("Write its card", elem_id="publish-prepare")
    card = gr.Textbox(
        label="Model card", lines=14, max_lines=24, visible=False, elem_id="publish-card",
        info="What the Hub shows of it. Change what you like: it goes as it stands here.",
    )  # fmt: skip
    shown = gr.HTML(elem_id="publish-picture", padding=False)
    with gr.Row():
        run = gr.Button("Publish", variant="primary", interactive=False, elem_id="publish-run")
        stop = gr.Button("Stop", interactive=False, elem_id="publish-stop")
    said = gr.HTML(elem_id="publish-said", padding=False)
    return Publishing(who, name, private, prepare, card, shown, run, stop, said, gr.State(None))


def signed_in(name: str) -> str:
    """As whom a Space's visitor would publish, or what to do before."""
    if name:
        return notice(f"You are signed in as {name}, and publish under that name.", "info")
    words = "Sign in at the top to publish. Do so before you merge: the page begins anew with it, without these merges."
    return notice(words, "info")


def prepare(
    folder: Path | None, name: str, visitor: str, token: str | None = None
) -> Iterator[tuple[str, str, str | None, Prepared | None]]:
    """What to say, the name, the card, and what it was written for; the last two when they are there."""
    if folder is None:
        yield notice("Choose a merge above."), name, None, None
        return
    try:
        name = name.strip() or f"{account(token)}/{_suggested(folder)}"
        free(name, token)
        yield bar(0, "Measuring how far each layer moved", ""), name, None, None
        with stoppable(visitor, "publish") as stop:
            job = Job(lambda tell: moved(folder, lambda done, total: tell((done, total)), stop))
            pace = Pace(time.monotonic())
            for done, total in job:
                yield pace.told(done, total), name, None, None
            image = picture(job.result())
        card = card_of(folder, name, licence_of, bool(image))
    except MergeStopped:
        yield notice("Stopped.", "info"), name, None, None
    except (MergeError, OSError) as error:
        yield notice(worded(error)), name, None, None
    else:
        words = f"{name} is free. Read the card, then publish."
        yield notice(words, "good"), name, card, Prepared(folder, name, image)


def run_publish(
    prepared: Prepared | None, name: str, card: str, private: bool, visitor: str, token: str | None = None
) -> Iterator[tuple[str, Prepared | None]]:
    """How far it is, and at last where the model is, with what is published by then."""
    if not prepared:
        yield notice("Write its card first."), None
        return
    if prepared.name != name.strip():
        yield (
            notice(
                f"The card was written for `{prepared.name}`. Write it anew for another name, or put that one back."
            ),
            None,
        )
        return
    yield bar(0, "Asking the Hub", ""), None
    with stoppable(visitor, "publish") as stop:
        upload = Upload(prepared.folder, prepared.name, card, prepared.picture, private, token)
        job, pace = Job(_work(upload, stop.is_set)), Pace(time.monotonic())
        for done, total in job:
            yield pace.told(done, total), None
        try:
            address = html.escape(job.result(), quote=True)
        except MergeStopped as stopped:
            yield notice(str(stopped), "info"), None
        except (MergeError, OSError) as error:
            yield notice(worded(error)), None
        else:
            link = f'<a href="{address}" target="_blank" rel="noopener">{html.escape(prepared.name)}</a>'
            whose = "private" if private else "open for everyone"
            words = f'<p class="notice good" role="status">It is on the Hub, {whose}: {link}.</p>'
            yield words, replace(prepared, published=True)


def _work(upload: Upload, stopped: Callable[[], bool]) -> Callable[[Callable[[Any], None]], str]:
    def work(tell: Callable[[Any], None]) -> str:
        account(upload.token)
        return publish(upload, lambda done, total: tell((done, total)), stopped)

    return work


def pictured(prepared: Prepared | None) -> str:
    """The picture of the card."""
    if not prepared or not prepared.picture:
        return ""
    content = base64.b64encode(prepared.picture).decode()
    return f'<img alt="How far each matrix moved from the base" src="data:image/png;base64,{content}">'


def _suggested(folder: Path) -> str:
    return folder.name if hub_name(f"x/{folder.name}") else "merged"
