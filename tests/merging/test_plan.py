"""The fate of every tensor, and the sentences with which an expert that does not fit is refused."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from merging.checkpoint import Checkpoint, open_checkpoint
from merging.errors import MergeError
from merging.plan import misfit, plan
from tests.conftest import write_model

TIED = {"model_type": "llama", "tie_word_embeddings": True}


def opened(folder: Path, tensors: dict[str, Tensor], config: dict[str, object] | None = None) -> Checkpoint:
    return open_checkpoint(write_model(folder, tensors, config))


def two(**tensors: Tensor) -> dict[str, Tensor]:
    """Two tensors, with others in their place or beside them."""
    return {"a": torch.ones(2, 3), "b": torch.ones(3)} | tensors


def test_an_expert_of_the_same_names_and_shapes_fits(tmp_path: Path) -> None:
    base, expert = opened(tmp_path / "base", two()), opened(tmp_path / "expert", two())

    assert misfit(base, expert) == ""


def test_an_expert_of_another_precision_fits(tmp_path: Path) -> None:
    base, expert = opened(tmp_path / "base", two()), opened(tmp_path / "expert", two(a=torch.ones(2, 3).half()))

    assert misfit(base, expert) == ""
    assert plan(base, [expert]).written[0].dtype == "F32"


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (
            {"c": torch.ones(1)},
            "It lacks 2 of the base model's 2 tensors, `a` among them, so it is of another architecture.",
        ),
        (two(a=torch.ones(3, 2)), "`a` is 3 × 2 in it and 2 × 3 in the base model."),
        (two(a=torch.tensor(1.0)), "`a` is a single number in it and 2 × 3 in the base model."),
        (two(a=torch.ones(3), b=torch.ones(4)), "`a` is 3 in it and 2 × 3 in the base model (and 1 more)."),
        (two(a=torch.ones(2, 3, dtype=torch.int8)), "`a` has dtype I8 in it, so it is quantised."),
    ],
)
def test_an_expert_that_does_not_fit_is_told_why(tensors: dict[str, Tensor], sentence: str, tmp_path: Path) -> None:
    base, expert = opened(tmp_path / "base", two()), opened(tmp_path / "expert", tensors)

    assert misfit(base, expert) == sentence


def test_all_experts_that_do_not_fit_are_named_at_once(tmp_path: Path) -> None:
    base = opened(tmp_path / "base", two())
    good = opened(tmp_path / "good", two())
    wide = opened(tmp_path / "wide", two(b=torch.ones(4)))
    other = opened(tmp_path / "other", {"c": torch.ones(2, 3)})

    with pytest.raises(MergeError) as caught:
        plan(base, [good, wide, other])

    assert str(caught.value) == (
        "wide: `b` is 4 in it and 3 in the base model. Remove this expert.\n"
        "other: It lacks 2 of the base model's 2 tensors, `a` among them, so it is of another architecture. "
        "Remove this expert."
    )


def test_every_tensor_has_a_fate(tmp_path: Path) -> None:
    start = {"w": torch.ones(2), "ids": torch.arange(3), "empty": torch.ones(0, 2), "mask": torch.tensor([True])}
    base = opened(tmp_path / "base", start)
    expert = opened(tmp_path / "math", start | {"extra": torch.ones(1)})

    work = plan(base, [expert])

    assert work.fates == {
        "w": "merged",
        "ids": "copied from the base: it does not hold floating-point numbers",
        "mask": "copied from the base: it does not hold floating-point numbers",
        "empty": "copied from the base: it is empty",
        "extra": "left out: only math has it, the base does not",
    }
    assert {entry.name for entry in work.written} == {"w", "ids", "empty", "mask"}
    assert work.bytes == 2 * 4 + 3 * 8 + 1


def test_what_is_copied_need_not_be_in_the_experts(tmp_path: Path) -> None:
    base = opened(tmp_path / "base", {"w": torch.ones(2), "ids": torch.arange(3)})

    assert misfit(base, opened(tmp_path / "expert", {"w": torch.ones(2)})) == ""


def test_tensors_are_planned_in_the_order_of_the_layers(tmp_path: Path) -> None:
    names = ["model.norm.weight", "model.layers.1.w", "model.embed_tokens.weight", "model.layers.0.w"]
    base = opened(tmp_path / "base", {name: torch.ones(1) for name in names})

    assert list(plan(base, [base]).merged) == [
        "model.embed_tokens.weight",
        "model.layers.0.w",
        "model.layers.1.w",
        "model.norm.weight",
    ]


def test_a_head_stored_beside_its_tied_embedding_is_left_out(tmp_path: Path) -> None:
    stored = {"model.embed_tokens.weight": torch.ones(4, 2), "lm_head.weight": torch.ones(4, 2)}
    base = opened(tmp_path / "base", stored, TIED)
    expert = opened(tmp_path / "expert", {"model.embed_tokens.weight": torch.ones(4, 2)}, TIED)

    work = plan(base, [expert])

    assert work.merged == {"model.embed_tokens.weight": (0,)}
    assert work.dropped == {"lm_head.weight": "left out: the embedding is used in its place, as the config says"}


def test_a_tied_head_that_is_the_only_copy_is_merged(tmp_path: Path) -> None:
    stored = {"lm_head.weight": torch.ones(4, 2), "model.norm.weight": torch.ones(2)}
    base, expert = opened(tmp_path / "base", stored, TIED), opened(tmp_path / "expert", stored, TIED)

    assert set(plan(base, [expert]).merged) == set(stored)


def test_a_head_that_is_not_tied_is_merged(tmp_path: Path) -> None:
    stored = {"model.embed_tokens.weight": torch.ones(4, 2), "lm_head.weight": torch.ones(4, 2)}
    base, expert = opened(tmp_path / "base", stored), opened(tmp_path / "expert", stored)

    assert set(plan(base, [expert]).merged) == set(stored)


def test_an_experts_own_copy_of_the_tied_head_is_left_out(tmp_path: Path) -> None:
    embedding = {"model.embed_tokens.weight": torch.ones(4, 2)}
    base = opened(tmp_path / "base", embedding, TIED)
    expert = opened(tmp_path / "expert", embedding | {"lm_head.weight": torch.ones(4, 2)}, TIED)

    assert plan(base, [expert]).dropped == {"lm_head.weight": "left out: the embedding is used in its place"}


def test_a_base_with_nothing_to_merge_is_refused(tmp_path: Path) -> None:
    base = opened(tmp_path / "base", {"ids": torch.arange(3)})

    with pytest.raises(MergeError) as caught:
        plan(base, [base])

    assert str(caught.value) == "base has no floating-point tensor to merge. Choose another base model."


HEAD, EMBED = "lm_head.weight", "model.embed_tokens.weight"
TIED = {"model_type": "llama", "tie_word_embeddings": True}


def with_head(folder: Path, head: torch.Tensor | None) -> Checkpoint:
    """A model that says it ties its head, and stores this one beside its embedding."""
    embedding = torch.arange(6.0).reshape(3, 2)
    tensors = {EMBED: embedding} | ({} if head is None else {HEAD: head})
    return open_checkpoint(write_model(folder, tensors, TIED))


def test_a_stored_head_that_is_its_embedding_is_left_out(tmp_path: Path) -> None:
    models = [with_head(tmp_path / name, torch.arange(6.0).reshape(3, 2)) for name in ("base", "expert")]

    assert plan(models[0], models[1:]).merged == {EMBED: (0,)}


def test_a_stored_head_that_is_not_its_embedding_is_merged_whatever_the_config_says(tmp_path: Path) -> None:
    models = [with_head(tmp_path / name, torch.ones(3, 2)) for name in ("base", "expert")]

    assert set(plan(models[0], models[1:]).merged) == {EMBED, HEAD}


def test_an_expert_whose_own_head_would_be_lost_does_not_fit(tmp_path: Path) -> None:
    base, expert = with_head(tmp_path / "base", None), with_head(tmp_path / "expert", torch.ones(3, 2))

    assert misfit(base, expert) == (
        "Its `lm_head.weight` is not its embedding, as it is in the base model, so it would be lost."
    )
