"""Chat templates, which come with models: rendered in a process of its own, with little time and little memory.

transformers keeps them from reaching Python, and nothing there keeps them from running for ever.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from merging.errors import MergeError

SECONDS = 10  # that a template may take, beside what starting the process takes
START = 60
MEMORY = 1 << 30  # bytes that it may take, likewise
LONGEST = 1 << 20  # characters that it may write


@lru_cache(64)
def rendered(template: str, prompt: str, names: tuple[tuple[str, str], ...] = ()) -> str:
    """The prompt as the template writes it; `names` are the special tokens that it may use, by their names there.

    MergeError where the template fails, or takes too much.
    """
    asked = json.dumps({"template": template, "prompt": prompt, "names": dict(names), "seconds": SECONDS})
    command = [sys.executable, "-m", "merging.templating"]
    try:
        done = subprocess.run(
            command,
            input=asked,
            capture_output=True,
            encoding="utf-8",
            timeout=START + SECONDS,
            cwd=Path(__file__).parents[1],
            check=False,
        )
        told: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        told = {"error": f"it takes more than {SECONDS} seconds, or more memory than there is for it"}
    if "error" in told:
        raise MergeError(f"The chat template could not be used ({told['error']}). Sample without it.")
    return told["text"]


def main() -> None:
    """Render what is asked for on the standard input, and print it as JSON, or why it cannot be."""
    from transformers.utils.chat_template_utils import render_jinja_template

    asked = json.load(sys.stdin)
    turns = [{"role": "user", "content": asked["prompt"]}]
    _confine(asked["seconds"])
    try:
        found: Any = render_jinja_template(
            conversations=[turns], chat_template=asked["template"], add_generation_prompt=True, **asked["names"]
        )
        text = found[0][0]
        told = {"text": text} if len(text) <= LONGEST else {"error": f"it writes more than {LONGEST:,} characters"}
    except MemoryError:
        told = {"error": "it takes more memory than there is for it"}
    except Exception as error:  # what comes with a model can raise anything
        told = {"error": (str(error).strip().splitlines() or [type(error).__name__])[0][:200]}
    print(json.dumps(told))  # noqa: T201


def _confine(seconds: int) -> None:
    """Let this process have so many seconds and so much memory from here on, where the system can hold it to that."""
    try:
        import resource
    except ImportError:  # on Windows, where whoever waits loses patience
        return
    used = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
    )
    spent = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2])) + 1
    for kind, most in ((resource.RLIMIT_AS, used + MEMORY), (resource.RLIMIT_CPU, spent + seconds)):
        _, hard = resource.getrlimit(kind)
        try:
            resource.setrlimit(kind, (most, hard))
        except (ValueError, OSError):  # less is allowed already, or the system knows no such limit
            continue


if __name__ == "__main__":
    main()
