"""Reading what strangers wrote: a recipe's text from where it stands, and its YAML without being fooled by it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from merging.errors import MergeError
from merging.header import check_file, metadata

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, where PyYAML was built with it
RECIPE = "mergescope.yaml"  # in every merged folder
TEXT_LIMIT = 4 << 20  # characters; the weights of every tensor of 30 experts are less
NODE_LIMIT = 200_000  # values, where each alias counts as all that it stands for
DEPTH_LIMIT = 40
LONGEST_NUMBER = 100  # characters of a number or a date; Python takes hours for some of the very long ones
TEXT = "tag:yaml.org,2002:str"


def found(source: str | Path) -> tuple[str, Path]:
    """The text of a recipe, and the folder that its paths start at.

    The source is a YAML file, a merged folder or safetensors file that holds its recipe, or the text itself.
    """
    told = str(source)
    if isinstance(source, str) and "\n" in source:
        return source, Path()
    if os.path.isdir(told):
        return _read(Path(told) / RECIPE), Path(told)
    if told.endswith(".safetensors") and os.path.isfile(told):
        return _metadata(Path(told)), Path(told).parent
    if isinstance(source, Path) or told.endswith((".yaml", ".yml")):
        return _read(Path(told)), Path(told).parent
    return told, Path()


def _read(file: Path) -> str:
    try:
        check_file(file)
        with file.open(encoding="utf-8") as stream:
            return stream.read(TEXT_LIMIT + 1)
    except FileNotFoundError as error:
        if file.name == RECIPE and file.parent.is_dir():
            words = f"{file.parent} has no {RECIPE}, so it is no merge of ours. Choose a recipe, or a merged model."
            raise MergeError(words) from error
        raise MergeError(f"There is no recipe {file}. Check the path.") from error
    except UnicodeDecodeError as error:
        raise MergeError(f"The recipe {file} is no text. Choose a YAML file, or a merged model.") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise MergeError(f"The recipe {file} could not be read ({reason}). Check the path.") from error


def _metadata(file: Path) -> str:
    """The recipe in the header of a merged safetensors file."""
    recipe = metadata(file).get("recipe")
    if recipe is None:
        raise MergeError(f"{file} holds no recipe, so it is no merge of ours. Choose a recipe, or a merged model.")
    return recipe


def parsed(text: str) -> Any:
    """The content of a YAML text; MergeError when it is none, or made to exhaust whoever reads it."""
    if len(text) > TEXT_LIMIT:
        raise MergeError(f"The recipe is longer than {TEXT_LIMIT >> 20} million characters. Shorten it.")
    try:
        _bounded(yaml.parse(text, Loader=LOADER))
        loader = LOADER(text)
        node = loader.get_single_node()
        _plain(node)
        return None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise MergeError(f"The recipe is not valid YAML ({error.problem}{where}). Correct it there.") from error
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise MergeError(f"The recipe is not valid YAML ({reason}). Correct it there.") from error
    except (KeyError, IndexError, AttributeError, TypeError) as error:  # PyYAML, of `!!bool 3` and its like
        reason = "a value is not what its tag says"
        raise MergeError(f"The recipe is not valid YAML ({reason}). Correct it there.") from error


def _bounded(events: Iterator[Any]) -> None:
    """Refuse several documents, deep nesting, and aliases that stand for more and more of each other."""
    documents, sizes, open_nodes = 0, dict[str, int](), list[list[Any]]()  # each the anchor and its size so far
    for event in events:
        documents += isinstance(event, yaml.DocumentStartEvent)
        if documents > 1:
            raise MergeError("The recipe holds several documents, parted by `---`. Keep one of them.")
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append([event.anchor, 1])
        elif isinstance(event, yaml.ScalarEvent | yaml.AliasEvent | yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop() if isinstance(event, yaml.CollectionEndEvent) else (event.anchor, 1)
            if isinstance(event, yaml.AliasEvent):
                endless = anchor in [opened for opened, _ in open_nodes]  # it stands for what it is in
                size = NODE_LIMIT if endless else sizes.get(str(anchor), 1)
            elif anchor:
                sizes[anchor] = size
            if open_nodes:
                open_nodes[-1][1] += size
                size = max(size, open_nodes[-1][1])  # before its end, which may be far
            if size >= NODE_LIMIT:
                raise MergeError(f"The recipe stands for more than {NODE_LIMIT} values. Write fewer, without aliases.")
        if len(open_nodes) > DEPTH_LIMIT:
            raise MergeError(f"The recipe is not valid YAML (nested more than {DEPTH_LIMIT} deep). Correct it there.")


def _plain(root: Any) -> None:
    """Refuse numbers without end, and a key that stands in its mapping twice: YAML would take the last silently."""
    seen, ahead = set[int](), [root]
    while ahead:
        node = ahead.pop()
        if isinstance(node, yaml.ScalarNode) and node.tag != TEXT and len(node.value) > LONGEST_NUMBER:
            line = node.start_mark.line + 1
            raise MergeError(f"The recipe has a number or date in line {line} that is too long. Shorten it.")
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            ahead += node.value
            continue
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if keys and (twice := max(keys, key=lambda key: keys[key])) and keys[twice] > 1:
            line = node.start_mark.line + 1
            raise MergeError(f"`{twice}` stands twice in what begins in line {line} of the recipe. Keep one.")
        ahead += [part for pair in node.value for part in pair]
