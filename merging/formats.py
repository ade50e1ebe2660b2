"""Files of weights in other formats, recognised by their first bytes or their ending, and what to do about each."""

from __future__ import annotations

from pathlib import Path

GGUF = "is a GGUF file, which cannot be merged. Choose the safetensors it was made from, or let transformers convert it"
GGUF += ": `from_pretrained(folder, gguf_file=name)`, then `save_pretrained`."
POINTER = "is only a pointer of Git LFS to the file. Run `git lfs pull` in its folder."

# The first bytes of files that often bear the name of another.
STARTS = {
    b"GGUF": GGUF,
    b"version ": POINTER,
    b"PK\x03\x04": "is a PyTorch file under another name. Give it the ending .bin.",
    b"\x89HDF": "is a Keras file, which cannot be merged. Convert it to safetensors first.",
    b"<!DOCTYP": "is a web page, not a model. Download the file again.",
    b"<html": "is a web page, not a model. Download the file again.",
}

CONVERT = "which cannot be merged. Convert it to safetensors first."
ENDINGS = {
    ".gguf": GGUF,
    ".ggml": f"is a GGML file, {CONVERT}",
    ".h5": f"is a Keras file, {CONVERT}",
    ".keras": f"is a Keras file, {CONVERT}",
    ".msgpack": f"is a Flax file, {CONVERT}",
    ".onnx": f"is an ONNX file, {CONVERT}",
    ".nemo": f"is a NeMo archive, {CONVERT}",
    ".tflite": f"is a TensorFlow Lite file, {CONVERT}",
    ".ot": f"is a rust-bert file, {CONVERT}",
    ".npz": f"is a NumPy archive, {CONVERT}",
    ".pdparams": f"is a Paddle file, {CONVERT}",
    ".mlpackage": f"is a Core ML model, {CONVERT}",
    ".ckpt": f"is a training checkpoint, {CONVERT}",
    ".distcp": f"is part of a distributed training checkpoint, {CONVERT}",
}


def disguise(start: bytes) -> str:
    """What a file with these first bytes is, when that is no format that can be read; to be said after its name."""
    return next((what for magic, what in STARTS.items() if start.startswith(magic)), "")


def foreign(file: Path) -> str:
    """What a file of another format is, and what to do; to be said after its name, and empty for an unknown one."""
    try:
        start = b""
        if file.is_file():  # a pipe would be waited for
            with file.open("rb") as stream:
                start = stream.read(8)
    except OSError:  # a folder, or nothing that may be read
        start = b""
    hidden = "" if start.startswith(b"PK") else disguise(start)
    return hidden or ENDINGS.get(file.suffix.lower(), "")
