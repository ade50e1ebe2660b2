"""The first part of step 3: which method merges, what it does and when to take it, and its own values."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from merging.kinds import KINDS, kind_of
from merging.method import ADAPTERS, METHODS, Method, find_method
from merging.symbols import shared
from ui.controls import control
from ui.errors import notice
from ui.events import PRIVATE, QUIET, after
from ui.kinds import titles_of
from ui.models_panel import Selection

FIRST = "from"
DETAILS = "The symbols, and what is known of it"
SOMETIMES = ("peft", "knots")  # methods that draw at random with some of their values
MATH: list[dict[str, str | bool]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "$", "right": "$", "display": False},
]


def method_panel(selection: gr.State) -> dict[str, Any]:
    """The form: `method`, and `method.parameter` of all of them, of which the chosen one's are seen."""
    first, everyone = METHODS[FIRST], (METHODS | ADAPTERS).values()
    kind = gr.Radio([*KINDS], value=kind_of(first), label="Kind of method", elem_id="method-kind")
    method = gr.Radio(
        titles_of(kind_of(first)), value=FIRST, label="Merge method", info=KINDS[kind_of(first)], elem_id="method"
    )
    form: dict[str, Any] = {"method": method}
    note = gr.HTML(elem_id="method-note", padding=False)
    words = gr.Markdown(about(first), elem_classes="about", elem_id="method-about", latex_delimiters=MATH)
    with gr.Accordion(DETAILS, open=False, elem_id="method-details"):
        more = gr.Markdown(details(first), latex_delimiters=MATH)
    sections = {one.name: _section(one, form) for one in everyone}

    def on_kind(chosen: str) -> Any:
        titles = titles_of(chosen)
        return gr.Radio(titles, value=titles[0][1], info=KINDS[chosen])

    kind.input(on_kind, kind, method, **QUIET)
    after(method.change, kind_of_name, method, kind)
    after(method.change, lambda name: (about(find_method(name)), details(find_method(name))), method, [words, more])
    # There are so many that the browser turns to another by itself.
    turn = f"(name) => {json.dumps([*sections])}.map((one) => ({{__type__: 'update', visible: one === name}}))"
    method.change(None, method, [*sections.values()], js=turn, trigger_mode="multiple", **PRIVATE)
    after([method.change, selection.change], unfit, [method, selection], note)
    return form


def kind_of_name(name: str) -> str:
    """The kind under which the method of that name is offered."""
    return kind_of(find_method(name))


def chosen(name: str) -> Any:
    """The list of methods, with this one of its kind chosen."""
    return gr.Radio(titles_of(kind_of_name(name)), value=name, info=KINDS[kind_of_name(name)])


def unfit(name: str, selection: Selection) -> str:
    """Why a method of adapters alone has nothing to merge; empty where it has, and for all others."""
    if name not in ADAPTERS or not selection.hurdle:
        return ""
    return notice(f"{find_method(name).title} merges adapters and nothing else. {selection.hurdle}", "warning")


def _section(method: Method, form: dict[str, Any]) -> gr.Group:
    """The method's controls, which are added to the form."""
    with gr.Group(visible=method.name == FIRST, elem_classes="method") as section:
        # What slides first, then what is chosen: rows of one kind are of one height.
        for param in sorted(method.params.values(), key=lambda param: param.kind != "number"):
            if not param.per_expert and not param.settled:
                key = f"{method.name}.{param.key}"
                form[key] = control(param, elem_id=key.replace(".", "-"))
        if method.random or method.name in SOMETIMES:
            words = "All that is drawn follows from it: the same seed gives the same merge."
            form[f"{method.name}.seed"] = gr.Number(
                0, label="Seed", info=words, precision=0, elem_id=f"{method.name}-seed"
            )
    return section


def about(method: Method) -> str:
    """What the method does, where it is from, its formula, and when to take it, by its declaration."""
    where = f"[{method.origin.capitalize()}]({method.paper})"
    return f"{method.summary} {where}\n\n$${method.formula}$$\n\n**Use it** {method.use}"


def details(method: Method) -> str:
    """What the symbols in its formula mean, and where it is not what the authors released."""
    told = ["\n".join(f"- ${symbol.sign}$: {symbol.meaning}" for symbol in shared(method)), method.where]
    told += [f"**Where it differs from the released code.** {method.differs}"] if method.differs else []
    return "\n\n".join(filter(None, told))
