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


def three(**tensors: Tensor) -> dict[str, Tensor]:
    """Three tensors, so that a model that lacks one still has most of them."""
    return {name: torch.ones(2) for name in "abc"} | tensors


def without(name: str, **tensors: Tensor) -> dict[str, Tensor]:
    return {other: tensor for other, tensor in three(**tensors).items() if other != name}


def test_a_tensor_that_some_experts_lack_is_merged_over_the_others(tmp_path: Path) -> None:
    base, math = opened(tmp_path / "base", three()), opened(tmp_path / "math", three())
    code, chat = opened(tmp_path / "code", without("a")), opened(tmp_path / "chat", without("a"))

    one, two = plan(base, [math, code]), plan(base, [code, math, chat])

    assert one.merged == {"a": (0,), "b": (0, 1), "c": (0, 1)}
    assert one.fates["a"] == "merged without code, which lacks it"
    assert two.merged["a"] == (1,)
    assert two.fates["a"] == "merged without code and chat, which lack it"


def test_a_tensor_that_every_expert_lacks_is_the_bases(tmp_path: Path) -> None:
    base, math = opened(tmp_path / "base", three()), opened(tmp_path / "math", without("a"))
    code = opened(tmp_path / "code", without("a"))

    work = plan(base, [math, code])

    assert "a" not in work.merged
    assert work.fates["a"] == "copied from the base: every expert lacks it"
    assert plan(base, [math]).fates["a"] == "copied from the base: math lacks it"
    assert {entry.name for entry in work.written} == {"a", "b", "c"}


def test_a_tensor_that_only_experts_have_is_left_out_with_their_names(tmp_path: Path) -> None:
    base, math = opened(tmp_path / "base", three()), opened(tmp_path / "math", three(x=torch.ones(5)))
    code = opened(tmp_path / "code", three(x=torch.ones(4)))

    work = plan(base, [math, code])

    assert work.fates["x"] == "left out: only math and code have it, the base does not"
    assert work.kept == {}


def test_a_tensor_that_only_experts_have_is_kept_when_asked_for(tmp_path: Path) -> None:
    base, math = opened(tmp_path / "base", three()), opened(tmp_path / "math", three())
    code = opened(tmp_path / "code", three(x=torch.ones(4).half(), ids=torch.arange(2)))
    chat = opened(tmp_path / "chat", three(x=torch.ones(7)))

    work = plan(base, [math, code, chat], extra_tensors="keep")

    assert work.kept == {"x": 1, "ids": 1}
    assert work.fates["x"] == "copied from code: the base does not have it"
    assert {entry.name: (entry.dtype, entry.shape) for entry in work.written}["x"] == ("F16", (4,))
    assert work.bytes == 3 * 8 + 8 + 16


def test_every_name_has_one_fate_and_what_is_written_is_what_is_not_left_out(tmp_path: Path) -> None:
    base = opened(tmp_path / "base", three(ids=torch.arange(2), empty=torch.ones(0)))
    math = opened(tmp_path / "math", without("a", x=torch.ones(1), y=torch.ones(1)))
    code = opened(tmp_path / "code", without("a", z=torch.ones(1), b=torch.ones(2).half()))

    for keep in ("drop", "keep"):
        work = plan(base, [math, code], extra_tensors=keep)

        parts = [set(work.merged), set(work.copied), set(work.kept), set(work.dropped)]
        assert sum(len(part) for part in parts) == len(set().union(*parts))
        assert set().union(*parts) == {*base.entries, *math.entries, *code.entries} == set(work.fates)
        assert {entry.name for entry in work.written} == set(work.fates) - set(work.dropped)


def layered(folder: Path, layers: int, extra: int = 0, **config: object) -> Checkpoint:
    names = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(layers)]
    names += [f"vision.layers.{layer}.fc.weight" for layer in range(extra)]
    return opened(folder, {name: torch.ones(2, 2) for name in names}, {"model_type": "llama", **config})


@pytest.mark.parametrize("layers", [3, 5])
def test_models_of_different_depths_are_refused(layers: int, tmp_path: Path) -> None:
    base, expert = layered(tmp_path / "base", 4), layered(tmp_path / "expert", layers)

    assert misfit(base, expert) == (
        f"It has {layers} layers and the base model 4; layers can be matched only where there are as many."
    )


def test_an_expert_without_a_tower_of_the_base_fits(tmp_path: Path) -> None:
    base, expert = layered(tmp_path / "base", 4, extra=2), layered(tmp_path / "expert", 4)

    work = plan(base, [expert])

    assert work.fates["vision.layers.1.fc.weight"] == "copied from the base: expert lacks it"


def test_a_fused_layout_is_told_as_such(tmp_path: Path) -> None:
    split = {f"model.layers.0.self_attn.{side}_proj.weight": torch.ones(2, 2) for side in "qkv"}
    base = opened(tmp_path / "base", split)
    expert = opened(tmp_path / "expert", {"model.layers.0.self_attn.qkv_proj.weight": torch.ones(6, 2)})

    assert misfit(base, expert).startswith("It has query, key and value in one tensor, the base model apart")


def test_towers_are_counted_apart(tmp_path: Path) -> None:
    base, expert = layered(tmp_path / "base", 4, extra=2), layered(tmp_path / "expert", 4, extra=3)

    assert misfit(base, expert).startswith("It has 3 layers in its vision and the base model 2;")


def test_architectures_are_named_where_the_configs_differ(tmp_path: Path) -> None:
    base = layered(tmp_path / "base", 2, architectures=["LlamaForCausalLM"])
    expert = opened(tmp_path / "gpt", {"h.0.w": torch.ones(1)}, {"architectures": ["GPT2LMHeadModel"]})

    assert misfit(base, expert) == (
        "It lacks 2 of the base model's 2 tensors, `model.layers.0.mlp.up_proj.weight` among them, "
        "so it is of another architecture (GPT2LMHeadModel, not LlamaForCausalLM)."
    )


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


def test_a_head_that_is_an_experts_embedding_is_merged_with_the_bases_head(tmp_path: Path) -> None:
    embedding, head = torch.arange(6.0).reshape(3, 2), torch.ones(3, 2)
    base = opened(tmp_path / "base", {EMBED: embedding, HEAD: head}, {"tie_word_embeddings": False})
    tied = opened(tmp_path / "tied", {EMBED: embedding + 1}, TIED)

    work = plan(base, [tied])

    assert work.merged == {EMBED: (0,), HEAD: (0,)}
    assert torch.equal(work.experts[0].tensor(HEAD), embedding + 1)
    assert work.warnings == ("tied: Its head is its embedding; in base they are two, and so in the result.",)


def test_an_expert_that_only_lacks_its_head_has_none(tmp_path: Path) -> None:
    embedding = torch.arange(6.0).reshape(3, 2)
    base = opened(tmp_path / "base", {EMBED: embedding, HEAD: embedding + 1})
    headless = opened(tmp_path / "headless", {EMBED: embedding})

    assert plan(base, [headless]).fates[HEAD] == "copied from the base: headless lacks it"
