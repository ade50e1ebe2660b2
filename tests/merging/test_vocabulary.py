"""Rows of embeddings matched by the text of their tokens, whatever the tokenizer files look like."""

import json
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from merging import tokens as tokens_module
from merging.checkpoint import Checkpoint, open_checkpoint
from merging.errors import MergeError
from merging.plan import plan
from merging.rows import Gathered, Source
from merging.tokens import read_tokens, shown
from merging.vocabulary import rows_of, sized, vocab_size, worded
from tests.conftest import write_model

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def write_tokens(folder: Path, words: list[str], added: tuple[str, ...] = (), special: bool = True) -> None:
    """A tokenizer.json with these words, and these tokens added after them."""
    told = [
        {"id": row, "content": token, "special": special, "lstrip": False, "rstrip": False, "normalized": False}
        | {"single_word": False}
        for row, token in enumerate(added, len(words))
    ]
    model = {"type": "WordLevel", "vocab": {word: row for row, word in enumerate(words)}, "unk_token": words[0]}
    content = {"version": "1.0", "added_tokens": told, "model": model, "pre_tokenizer": {"type": "Whitespace"}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


def speaker(folder: Path, words: list[str], rows: Tensor, added: tuple[str, ...] = (), **more: Tensor) -> Checkpoint:
    """A model with these rows in its embedding, and a tokenizer with these words."""
    size = {"model_type": "llama", "vocab_size": len(rows)}
    write_model(folder, {EMBED: rows, "model.norm.weight": torch.ones(2), **more}, size)
    write_tokens(folder, words, added)
    return open_checkpoint(folder)


def numbered(rows: int, start: float) -> Tensor:
    """Rows of two equal numbers that tell where they come from."""
    return (torch.arange(float(rows)) + start)[:, None].repeat(1, 2)


def firsts(model: Checkpoint, name: str = EMBED) -> list[float]:
    return [float(value) for value in model.tensor(name)[:, 0]]


# What tokenizer files say.


@pytest.mark.parametrize(
    ("files", "rows"),
    [
        ({"tokenizer.json": {"model": {"vocab": {"a": 0, "b": 1}}}}, {"a": 0, "b": 1}),
        (
            {"tokenizer.json": {"model": {"vocab": {"a": 0}}, "added_tokens": [{"content": "x", "id": 5}]}},
            {"a": 0, "x": 5},
        ),
        ({"tokenizer.json": {"model": {"type": "Unigram", "vocab": [["a", -1.5], ["b", 0]]}}}, {"a": 0, "b": 1}),
        ({"vocab.json": {"a": 0, "b": 1}, "added_tokens.json": {"x": 2}}, {"a": 0, "b": 1, "x": 2}),
        ({"vocab.txt": "a\nb\n"}, {"a": 0, "b": 1}),
        ({"vocab.txt": "a\r\n\r\nb"}, {"a": 0, "": 1, "b": 2}),
        ({"tokenizer.json": {"version": "1.0"}, "vocab.txt": "a\n"}, {"a": 0}),
        ({"tokenizer.json": {"version": "1.0"}}, None),
        ({}, None),
    ],
)
def test_tokens_are_read_from_the_files_there_are(
    files: dict[str, Any], rows: dict[str, int] | None, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes((content if isinstance(content, str) else json.dumps(content)).encode())

    tokens = read_tokens(tmp_path)

    assert (tokens.rows if tokens else None) == rows


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("tokenizer.json", "[]", "{file} is not a JSON object. Download it again."),
        ("tokenizer.json", '{"model": {"vocab": 3}}', "does not give every token a row"),
        ("tokenizer.json", '{"model": {"vocab": {"a": -1}}}', "does not give every token a row"),
        ("tokenizer.json", '{"model": {"vocab": {"a": 0.5}}}', "does not give every token a row"),
        ("tokenizer.json", '{"model": {"vocab": {"a": true}}}', "does not give every token a row"),
        ("tokenizer.json", '{"model": {"vocab": {"a": 99999999999}}}', "does not give every token a row"),
        ("tokenizer.json", '{"model": {"vocab": [["a", 0], 7]}}', "does not give every token a row"),
        ("tokenizer.json", '{"model": {"vocab": {}}, "added_tokens": [3]}', "does not give every token a row"),
        ("tokenizer.json", '{"model": {"vocab": {}}, "added_tokens": [{"id": 1}]}', "does not give every token a row"),
        ("tokenizer.json", '{"model": {"vocab": {}}, "added_tokens": {}, "a":', "could not be read as JSON"),
        ("tokenizer.json", "[" * 100_000, "could not be read as JSON"),
        ("vocab.json", '{"a": "b"}', "does not give every token a row"),
        ("vocab.txt", b"\xff\xfe", "could not be read"),
        ("tokenizer.model", b"no model", "has only tokenizer.model, which could not be read"),
    ],
)
def test_a_damaged_tokenizer_is_one_sentence(name: str, content: str | bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(MergeError) as caught:
        read_tokens(tmp_path)

    assert sentence.format(file=tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tokens(tmp_path, ["a"])
    monkeypatch.setattr(tokens_module, "LIMIT", 10)

    with pytest.raises(MergeError, match="too large for a tokenizer"):
        read_tokens(tmp_path)


def test_a_tokenizer_that_changes_is_read_again(tmp_path: Path) -> None:
    write_tokens(tmp_path, ["a"])
    read_tokens(tmp_path)
    write_tokens(tmp_path, ["a", "bb"])

    tokens = read_tokens(tmp_path)

    assert tokens
    assert tokens.rows == {"a": 0, "bb": 1}


def test_tokens_are_shown_on_one_line() -> None:
    assert shown("a\nb") == "`a\\nb`"
    assert shown("Ġhi") == "`Ġhi`"
    assert len(shown("x" * 100)) < 50


# Which tensors have rows for tokens, and how many there are.


def test_rows_of_tokens_are_told_by_names_and_shapes(tmp_path: Path) -> None:
    tensors = {
        EMBED: torch.ones(6, 2),
        HEAD: torch.ones(6, 2),
        "lm_head.bias": torch.ones(6),
        "model.norm.weight": torch.ones(6),  # as many as there are tokens, by chance
        "model.layers.0.mlp.up_proj.weight": torch.ones(6, 2),
        "vision.embed_tokens.weight": torch.ones(3, 2),
    }
    model = open_checkpoint(write_model(tmp_path, tensors, {"vocab_size": 6}))

    assert rows_of(model) == 6
    assert worded(model) == {EMBED, HEAD, "lm_head.bias"}


@pytest.mark.parametrize(
    "name",
    [
        "transformer.wte.weight",
        "shared.weight",
        "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.weight",
        "gpt_neox.embed_in.weight",
        "embed_out.weight",
        "decoder.embed_tokens.weight",
    ],
)
def test_the_names_of_other_architectures_are_known(name: str, tmp_path: Path) -> None:
    assert rows_of(open_checkpoint(write_model(tmp_path, {name: torch.ones(5, 2), "w": torch.ones(3, 2)}))) == 5


def test_a_model_without_an_embedding_has_no_rows(tmp_path: Path) -> None:
    assert rows_of(open_checkpoint(write_model(tmp_path, {"w": torch.ones(3, 2)}, {"vocab_size": 3}))) == 0


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"vocab_size": 3, "a": 1}, {"vocab_size": 7, "a": 1}),
        ({"text_config": {"vocab_size": 3, "b": 2}}, {"text_config": {"vocab_size": 7, "b": 2}}),
        ({"vocab_size": 3, "decoder": {"vocab_size": 3}}, {"vocab_size": 7, "decoder": {"vocab_size": 7}}),
        ({"vocab_size": 3, "decoder": {"vocab_size": 9}}, {"vocab_size": 7, "decoder": {"vocab_size": 9}}),
        ({"a": 1}, {"a": 1, "vocab_size": 7}),
        ({}, {}),
    ],
)
def test_a_config_states_the_rows_where_it_stated_them(config: dict[str, Any], expected: dict[str, Any]) -> None:
    assert sized(config, 7) == expected
    assert vocab_size(expected) in (7, None)


# Matching, by hand.


def test_an_expert_with_more_tokens_gives_only_those_of_the_base(tmp_path: Path) -> None:
    base = speaker(tmp_path / "base", ["a", "b", "c"], numbered(3, 0))
    expert = speaker(tmp_path / "math", ["a", "b", "c"], numbered(5, 10), added=("<x>", "<y>"))

    work = plan(base, [expert])

    assert firsts(work.experts[0]) == [10, 11, 12]
    assert work.base is base or firsts(work.base) == [0, 1, 2]
    assert work.merged[EMBED] == (0,)
    assert vocab_size(work.base.config) == 3
    assert work.warnings == (
        "math: 3 of the result's 3 tokens were found in it by their text; 2 (such as `<x>`) of its own are left out. "
        "Set `tokenizer_source: union` to keep them.",
    )


def test_rows_of_the_same_number_in_another_order_are_matched(tmp_path: Path) -> None:
    base = speaker(tmp_path / "base", ["a", "b", "c"], numbered(3, 0), lm_head=torch.ones(1))
    expert = speaker(tmp_path / "math", ["c", "a", "b"], numbered(3, 10), lm_head=torch.ones(1))

    assert firsts(plan(base, [expert]).experts[0]) == [11, 12, 10]


def test_heads_and_their_biases_are_matched_as_embeddings_are(tmp_path: Path) -> None:
    more = {HEAD: numbered(2, 50), "lm_head.bias": torch.tensor([1.0, 2.0])}
    base = speaker(tmp_path / "base", ["a", "b"], numbered(2, 0), **more)
    expert = speaker(tmp_path / "math", ["b", "a"], numbered(2, 10), **more)

    moved = plan(base, [expert]).experts[0]

    assert firsts(moved, HEAD) == [51, 50]
    assert moved.tensor("lm_head.bias").tolist() == [2, 1]


def test_the_rows_of_the_base_stand_in_for_tokens_that_an_expert_lacks(tmp_path: Path) -> None:
    base = speaker(tmp_path / "base", ["a", "b", "c"], numbered(3, 0))
    expert = speaker(tmp_path / "math", ["c"], numbered(1, 10))

    work = plan(base, [expert])

    assert firsts(work.experts[0]) == [0, 1, 10]
    assert work.warnings == (
        "math: 1 of the result's 3 tokens was found in it by their text; it lacks 2 (such as `a`), "
        "for which base stands in.",
    )


def test_padding_is_matched_by_place_where_both_have_it(tmp_path: Path) -> None:
    base = speaker(tmp_path / "base", ["a", "b"], numbered(5, 0))
    shorter = speaker(tmp_path / "shorter", ["a", "b"], numbered(4, 10))
    longer = speaker(tmp_path / "longer", ["a", "b"], numbered(8, 20))

    work = plan(base, [shorter, longer])

    assert firsts(work.experts[0]) == [10, 11, 12, 13, 4]
    assert firsts(work.experts[1]) == [20, 21, 22, 23, 24]
    assert work.warnings[1].endswith("; 3 rows of it that stand for no token are left out.")


def test_a_tokens_row_is_never_taken_for_padding(tmp_path: Path) -> None:
    base = speaker(tmp_path / "base", ["a", "b"], numbered(4, 0))
    expert = speaker(tmp_path / "math", ["a", "b"], numbered(4, 10), added=("<x>",))

    assert firsts(plan(base, [expert]).experts[0]) == [10, 11, 2, 13]


def test_tokens_beyond_the_rows_of_a_model_are_lacking(tmp_path: Path) -> None:
    base = speaker(tmp_path / "base", ["a", "b", "c"], numbered(3, 0))
    ghostly = speaker(tmp_path / "ghostly", ["a", "b", "c", "d"], numbered(2, 10))

    assert firsts(plan(base, [ghostly]).experts[0]) == [10, 11, 2]


def test_models_of_the_same_vocabulary_are_left_as_they_are(tmp_path: Path) -> None:
    base = speaker(tmp_path / "base", ["a", "b"], numbered(4, 0))
    expert = speaker(tmp_path / "math", ["a", "b"], numbered(4, 10))

    work = plan(base, [expert])

    assert work.experts[0] is expert
    assert work.warnings == ()


def test_a_damaged_tokenizer_is_no_obstacle_where_the_rows_are_as_many(tmp_path: Path) -> None:
    base = speaker(tmp_path / "base", ["a", "b"], numbered(2, 0))
    expert = speaker(tmp_path / "math", ["b", "a"], numbered(2, 10))
    (tmp_path / "math" / "tokenizer.json").write_text("{")

    work = plan(base, [expert])

    assert firsts(work.experts[0]) == [10, 11]
    assert work.warnings[0].startswith(f"math: {tmp_path / 'math' / 'tokenizer.json'} could not be read as JSON")
    assert work.warnings[0].endswith("Its rows are taken to be in the order of the base model's.")


@pytest.mark.parametrize("silent", ["base", "math"])
def test_without_a_tokenizer_rows_of_another_number_are_refused(silent: str, tmp_path: Path) -> None:
    base = speaker(tmp_path / "base", ["a", "b"], numbered(2, 0))
    expert = speaker(tmp_path / "math", ["a", "b"], numbered(3, 10))
    (tmp_path / silent / "tokenizer.json").unlink()
    whose = "the base model" if silent == "base" else "it"

    with pytest.raises(MergeError) as caught:
        plan(base, [expert])

    assert str(caught.value) == (
        f"math: It has 3 rows of tokens and the base model 2, and {whose} has no tokenizer by which they could be "
        f"matched. Put a tokenizer.json into {tmp_path / silent}, or choose a model of the same vocabulary."
    )


def test_embeddings_of_other_widths_are_refused_whatever_their_tokens(tmp_path: Path) -> None:
    base = speaker(tmp_path / "base", ["a", "b"], numbered(2, 0))
    expert = speaker(tmp_path / "math", ["a", "b"], torch.ones(3, 5))

    with pytest.raises(MergeError, match=r"`model.embed_tokens.weight` is 3 × 5 in it and 2 × 2 in the base model"):
        plan(base, [expert])


def test_a_config_that_says_another_number_of_rows_is_put_right(tmp_path: Path) -> None:
    rows = {EMBED: numbered(3, 0), "model.norm.weight": torch.ones(2)}
    base = open_checkpoint(write_model(tmp_path / "base", rows, {"vocab_size": 9}))

    work = plan(base, [base])

    assert work.base.config == {"vocab_size": 3}
    assert work.warnings == (
        "base: Its config says 9 rows of tokens and its embedding has 3. "
        "The config of the result will say 3, as its embedding has.",
    )


# Unions and other donors.


def test_a_union_adds_the_tokens_of_experts_in_their_order(tmp_path: Path) -> None:
    base = speaker(tmp_path / "base", ["a", "b"], numbered(2, 0))
    math = speaker(tmp_path / "math", ["a", "b"], numbered(4, 10), added=("<y>", "<x>"))
    code = speaker(tmp_path / "code", ["a", "b"], numbered(4, 20), added=("<x>", "<z>"))

    work = plan(base, [math, code], tokenizer_source="union")

    assert [token["content"] for token in work.vocabulary.added] == ["<y>", "<x>", "<z>"]
    assert firsts(work.experts[0]) == [10, 11, 12, 13, 23]  # it lacks `<z>`, which only code has
    assert firsts(work.experts[1]) == [20, 21, 12, 22, 23]
    assert firsts(work.base) == [0, 1, 12, (13 + 22) / 2, 23]
    assert work.base.config["vocab_size"] == 5
    assert next(entry.shape for entry in work.written if entry.name == EMBED) == (5, 2)
    assert work.warnings[0] == "The union adds 3 tokens (such as `<y>`) to those of base; the result has 5 rows."
    assert work.warnings[2] == (
        "math: 4 of the result's 5 tokens were found in it by their text; it lacks 1 (`<z>`), "
        "for which the mean of the experts that have it stands in."
    )


def test_a_unions_new_tokens_take_rows_that_were_padding(tmp_path: Path) -> None:
    base = speaker(tmp_path / "base", ["a", "b"], numbered(4, 0))
    math = speaker(tmp_path / "math", ["a", "b"], numbered(3, 10), added=("<x>",))

    work = plan(base, [math], tokenizer_source="union")

    assert firsts(work.base) == [0, 1, 12, 3]
    assert firsts(work.experts[0]) == [10, 11, 12, 3]
    assert work.base.config["vocab_size"] == 4


def test_a_union_without_new_tokens_is_the_base(tmp_path: Path) -> None:
    base = speaker(tmp_path / "base", ["a", "b"], numbered(2, 0))

    work = plan(base, [base], tokenizer_source="union")

    assert work.base is base
    assert work.vocabulary.added == ()


def test_a_unions_tokens_are_special_where_they_were(tmp_path: Path) -> None:
    base = speaker(tmp_path / "base", ["a"], numbered(1, 0))
    math = speaker(tmp_path / "math", ["a", "new"], numbered(3, 10), added=("<x>",))

    work = plan(base, [math], tokenizer_source="union")

    added = work.vocabulary.added
    assert [(token["content"], token["id"], token["special"]) for token in added] == [
        ("new", 1, False),
        ("<x>", 2, True),
    ]


def test_pieces_of_another_vocabulary_are_told_of(tmp_path: Path) -> None:
    base = speaker(tmp_path / "base", ["a"], numbered(1, 0))
    math = speaker(tmp_path / "math", ["a", "new"], numbered(3, 10), added=("<x>",))

    work = plan(base, [math], tokenizer_source="union")

    assert work.warnings[0] == (
        "The union adds 2 tokens (such as `new`) to those of base; the result has 3 rows. "
        "Of them 1 (`new`) came from another vocabulary and are found only as spelled."
    )


@pytest.mark.parametrize("source", ["math", "models/math", "../models/math"])
def test_another_models_vocabulary_can_be_asked_for(source: str, tmp_path: Path) -> None:
    base = speaker(tmp_path / "base", ["a", "b", "c"], numbered(3, 0))
    math = speaker(tmp_path / "models" / "math", ["b", "x", "a"], numbered(4, 10))
    code = speaker(tmp_path / "models" / "code", ["a", "b", "c"], numbered(3, 20))

    work = plan(base, [math, code], tokenizer_source=source)

    assert work.experts[0] is math
    assert firsts(work.base) == [1, 11, 0, 13]  # nobody else has `x`, nor the row without a token
    assert firsts(work.experts[1]) == [21, 11, 20, 13]
    assert work.base.config["vocab_size"] == 4
    assert "base: 2 of the result's 3 tokens were found in it" in work.warnings[0]
    assert "1 (`c`) of its own is left out" in work.warnings[0]


def test_a_folder_with_only_a_tokenizer_can_be_asked_for(tmp_path: Path) -> None:
    base = speaker(tmp_path / "base", ["a", "b"], numbered(2, 0))
    write_tokens(tmp_path / "tongue", ["b", "a"])

    work = plan(base, [base], tokenizer_source=str(tmp_path / "tongue"))

    assert firsts(work.base) == [1, 0]


def test_a_token_that_no_model_has_is_refused(tmp_path: Path) -> None:
    base = speaker(tmp_path / "base", ["a", "b"], numbered(2, 0))
    write_tokens(tmp_path / "tongue", ["b", "a", "q"])

    with pytest.raises(MergeError) as caught:
        plan(base, [base], tokenizer_source=str(tmp_path / "tongue"))

    assert str(caught.value) == (
        "No model has a row for 1 (`q`) of the tokens of tongue. Choose another `tokenizer_source`."
    )


def test_a_donor_that_is_nowhere_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    base = speaker(tmp_path / "base", ["a", "b"], numbered(2, 0))

    with pytest.raises(MergeError) as caught:
        plan(base, [base], tokenizer_source="unoin")

    assert str(caught.value) == "There is no model `unoin` to take the tokenizer of. Did you mean `union`?"


def test_a_union_needs_the_tokenizer_of_the_base(tmp_path: Path) -> None:
    base = speaker(tmp_path / "base", ["a", "b"], numbered(2, 0))
    math = speaker(tmp_path / "math", ["a", "b"], numbered(2, 10))
    (tmp_path / "base" / "tokenizer.json").unlink()

    with pytest.raises(MergeError, match="base has no tokenizer to add the experts' tokens to"):
        plan(base, [math], tokenizer_source="union")


# Gathered tensors, run by run.


def gathered(order: list[int], dtype: torch.dtype, folder: Path) -> tuple[Gathered, Tensor]:
    """A tensor gathered in that order from an expert, with the base's where it says -1; and what it should hold."""
    base, expert = torch.randn(len(order), 3).to(dtype), torch.randn(7, 3).to(dtype)
    models = [
        open_checkpoint(write_model(folder / name, {"w": rows})) for name, rows in (("base", base), ("expert", expert))
    ]
    own, rows = torch.tensor(order), torch.arange(len(order))
    made = Gathered((3,), (Source(models[1], "w", own), Source(models[0], "w", rows)), ())
    return made, torch.where((own >= 0)[:, None], expert[own], base)


FOLDERS = count()


@given(order=st.lists(st.integers(-1, 6), min_size=1, max_size=9), data=st.data())
def test_any_run_of_a_gathered_tensor_is_read_as_it_is(
    order: list[int], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made, expected = gathered(order, torch.bfloat16, tmp_path_factory.mktemp(f"rows-{next(FOLDERS)}"))
    start = data.draw(st.integers(0, expected.numel()))
    stop = data.draw(st.integers(start, expected.numel()))

    values = made.read(start, stop)

    assert values.dtype == torch.bfloat16
    assert torch.equal(values, expected.flatten()[start:stop])


class Told:
    """A tensor made as it is read, that tells which runs were."""

    def __init__(self, model: Checkpoint) -> None:
        self.model, self.files, self.runs = model, {model.path}, list[tuple[int, int]]()

    def read(self, start: int, stop: int) -> Tensor:
        self.runs.append((start, stop))
        return self.model.read("w", start, stop)


def test_rows_that_follow_each_other_are_read_at_once(tmp_path: Path) -> None:
    rows = torch.randn(8, 3)
    model = open_checkpoint(write_model(tmp_path, {"w": rows}))
    made = Told(model)
    source = Source(replace(model, made={"w": made}), "w", torch.tensor([3, 4, 5, -1, 0, 1, 6, 6]))

    values = Gathered((3,), (source,), ()).read(0, 24)

    assert torch.equal(values.reshape(8, 3)[[0, 1, 2, 4, 5, 6, 7]], rows[[3, 4, 5, 0, 1, 6, 6]])
    assert made.runs == [(9, 18), (0, 6), (18, 21), (18, 21)]


def test_a_file_that_ends_while_its_rows_are_gathered_is_named(tmp_path: Path) -> None:
    made, _ = gathered([0, 2, 4, 6], torch.float32, tmp_path)
    file = tmp_path / "expert" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])

    with pytest.raises(MergeError, match=r"model\.safetensors ended while `w` was read"):
        made.read(0, 12)


def test_rows_of_several_precisions_are_read_in_full(tmp_path: Path) -> None:
    base = speaker(tmp_path / "base", ["a", "b"], numbered(2, 0.1))
    expert = speaker(tmp_path / "math", ["b"], numbered(1, 10).bfloat16())

    rows = plan(base, [expert]).experts[0].read(EMBED)

    assert rows.dtype == torch.float32
    assert rows.tolist() == [pytest.approx(0.1), pytest.approx(0.1), 10, 10]


def test_the_files_of_gathered_rows_are_part_of_the_stamp(tmp_path: Path) -> None:
    base = speaker(tmp_path / "base", ["a", "b"], numbered(2, 0))
    expert = speaker(tmp_path / "math", ["b"], numbered(1, 10))

    files = {Path(file).parent.name for file, _, _ in plan(base, [expert]).experts[0].stamp}

    assert files == {"base", "math"}
