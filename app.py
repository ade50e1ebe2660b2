"""Mergescope: reads the command line, builds the screen, launches it."""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")  # plain HTTP goes on where a connection broke off
IN_A_SPACE = bool(os.environ.get("SPACE_ID"))
if IN_A_SPACE:  # said before anything is imported, which reads it then
    os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"  # a Space's own token opens nothing for its visitors
    os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("CPU_CORES", "2"))  # its machine has more than it


def main() -> None:
    """Open the app on this machine and print its address."""
    parser = argparse.ArgumentParser(description="See what merging fine-tuned models will do, and then do it.")
    parser.add_argument("--port", type=int, help="where to listen; the first free one from 7860 on if not given")
    parser.add_argument("--models", type=Path, help="a folder of models to offer beside the embedded family")
    options = parser.parse_args()
    if options.models and IN_A_SPACE:
        parser.error("a Space offers no folder of models: its visitors name models of the Hub")
    if options.models and not options.models.is_dir():
        parser.error(f"{options.models} is no folder, so it holds no models to offer")

    from starlette.middleware import Middleware

    from ui.build import build
    from ui.guard import Guard
    from ui.plot_view import serve_plotly
    from ui.theme import CSS, theme

    serve_plotly()
    demo = build(options.models).queue(default_concurrency_limit=4, max_size=64)
    _, address, _ = demo.launch(
        quiet=True,
        server_port=options.port,
        theme=theme(),
        css_paths=CSS,
        footer_links=[],
        show_error=True,
        run_history=False,
        app_kwargs={"middleware": [Middleware(Guard)]},
        prevent_thread_lock=True,
        ssr_mode=False,  # the page is tested as the browser builds it, and a Space would have it otherwise
        **(_in_a_space() if IN_A_SPACE else {"server_name": "127.0.0.1"}),
    )
    print(f"Mergescope is at {address} (stop it with Ctrl-C)", flush=True)
    threading.Thread(target=warm, daemon=True).start()
    demo.block_thread()


def _in_a_space() -> dict[str, Any]:
    """What is served to everyone who comes: merges by names that cannot be guessed. Nothing is uploaded."""
    from merging import space
    from ui.merges import tidy

    space.merges().mkdir(exist_ok=True)
    threading.Thread(target=tidy, daemon=True).start()
    return {"server_name": "0.0.0.0", "allowed_paths": [str(space.merges())], "max_file_size": 1}


def warm() -> None:
    """Have ready what sampling and merging need, while the visitor is still looking around."""
    import transformers  # noqa: F401
    from transformers import AutoModelForCausalLM  # noqa: F401

    gc.freeze()  # what is there by now stays: going through it all takes a third of a second, while a slider waits
    # In a process of its own: compiling for the first time takes half a minute, which the screen would stand still.
    warming = [sys.executable, "-m", "merging.warming"]
    quiet = subprocess.DEVNULL  # it may outlive the app by what it is at, and holds nothing of it open
    subprocess.run(warming, cwd=Path(__file__).parent, stdout=quiet, stderr=quiet, check=False)


if __name__ == "__main__":
    main()
