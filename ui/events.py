"""How the page listens to its components."""

from __future__ import annotations

from typing import Any

import gradio as gr

PRIVATE: dict[str, Any] = {"api_visibility": "private"}
# What is triggered while it still runs is called once more, with what the components say by then.
QUIET: dict[str, Any] = {**PRIVATE, "show_progress": "hidden", "trigger_mode": "always_last"}
# For events that tell something themselves, which several listen to; see `after`.
EACH: dict[str, Any] = {**QUIET, "trigger_mode": "multiple"}

SECONDS = 4  # twice of which an answer may be late; see `collect`
# How often the page has asked, where it has since the last time; a page at rest asks nothing, be the app away or not.
ASKED = """() => {
  if (!window.askings) {
    const known = window.askings = {all: 0, told: 0};
    const joins = (list) => list.filter((one) => /queue.join/.test(one.name));
    new PerformanceObserver((list) => { known.all += joins(list.getEntries()).length; })
      .observe({type: 'resource', buffered: true});
  }
  if (window.askings.all <= window.askings.told) return [];
  window.askings.told = window.askings.all + 1;
  return [String(window.askings.all)];
}"""


def heard(triggers: Any) -> Any:
    """The event after any of the triggers, which only one is to listen to.

    Where one listener of an event had to wait, Gradio sends the event itself again, to all of its listeners. Two that
    are triggered while they run would so trigger each other for ever, and here each has an event of its own instead.
    """
    return gr.on(triggers, None, js="() => []", trigger_mode="multiple", **PRIVATE)


def after(triggers: Any, fn: Any, inputs: Any, outputs: Any, **how: Any) -> Any:
    """Call `fn` quietly after any of the triggers; gives the event after it, for what is to come then."""
    return heard(triggers).then(fn, inputs, outputs, **{**QUIET, **how})


def collect() -> None:
    """Let the page ask the app for nothing, once after all else that it has asked, with which it gets what was left.

    Gradio closes the stream of answers as soon as none is missing. Whoever asks in that moment, counts on a stream that
    is about to be closed, and would be answered with the next question only.
    """
    asked = gr.Textbox(visible="hidden", elem_id="asked")
    gr.Timer(SECONDS).tick(None, None, asked, js=ASKED, trigger_mode="multiple", show_progress="hidden", **PRIVATE)
    asked.change(lambda: None, trigger_mode="multiple", show_progress="hidden", **PRIVATE)


def spare(demo: gr.Blocks, one: gr.Component) -> None:
    """Let Gradio tell of quiet events' progress, which nobody sees, to one component of the page.

    It tells every component that an event reads or writes of each of its steps, and looks it up among all of them.
    """
    for function in demo.fns.values():
        if function.show_progress == "hidden":
            function.show_progress_on = [one]
