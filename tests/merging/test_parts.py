"""Parts of a model, by the names that real models give their tensors."""

import pytest

from merging.errors import MergeError
from merging.parts import GROUPS, Part, groups, work

LLAMA = (
    "model.embed_tokens.weight",
    *(
        f"model.layers.{layer}.{module}.weight"
        for layer in range(12)
        for module in ("input_layernorm", "self_attn.q_proj", "self_attn.q_norm", "mlp.up_proj")
    ),
    "model.norm.weight",
    "lm_head.weight",
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.0.self_attn.q_proj.weight", "attention"),
        ("model.layers.0.self_attn.q_proj.bias", "attention"),
        ("model.layers.0.self_attn.q_norm.weight", "norms"),
        ("model.layers.0.linear_attn.in_proj.weight", "attention"),
        ("model.layers.0.mlp.experts.3.up_proj.weight", "mlp"),
        ("model.layers.0.mlp.gate.weight", "mlp"),
        ("model.layers.0.block_sparse_moe.gate.weight", "mlp"),
        ("model.layers.0.feed_forward.w1.weight", "mlp"),
        ("model.layers.0.input_layernorm.weight", "norms"),
        ("model.norm.weight", "norms"),
        ("model.embed_tokens.weight", "embeddings"),
        ("lm_head.weight", "head"),
        # GPT-2 and GPT-NeoX
        ("transformer.wte.weight", "embeddings"),
        ("transformer.wpe.weight", "embeddings"),
        ("transformer.h.3.ln_1.weight", "norms"),
        ("transformer.ln_f.bias", "norms"),
        ("transformer.h.3.attn.c_attn.weight", "attention"),
        ("transformer.h.3.mlp.c_fc.bias", "mlp"),
        ("gpt_neox.layers.3.attention.query_key_value.weight", "attention"),
        ("embed_out.weight", "head"),
        # BERT and OPT
        ("bert.embeddings.word_embeddings.weight", "embeddings"),
        ("bert.embeddings.LayerNorm.weight", "norms"),
        ("bert.encoder.layer.7.attention.output.dense.weight", "attention"),
        ("bert.encoder.layer.7.attention.output.LayerNorm.weight", "norms"),
        ("bert.encoder.layer.7.intermediate.dense.weight", "mlp"),
        ("bert.encoder.layer.7.output.dense.weight", "mlp"),
        ("classifier.weight", "head"),
        ("model.decoder.layers.3.fc1.weight", "mlp"),
        ("model.decoder.layers.3.self_attn_layer_norm.weight", "norms"),
        # T5
        ("shared.weight", "embeddings"),
        ("decoder.block.2.layer.1.EncDecAttention.k.weight", "attention"),
        ("encoder.block.2.layer.1.DenseReluDense.wi_0.weight", "mlp"),
        ("encoder.block.2.layer.1.layer_norm.weight", "norms"),
        # Neither
        ("backbone.layers.0.mixer.in_proj.weight", ""),
        ("weight", ""),
    ],
)
def test_a_name_says_what_its_tensor_is_for(name: str, expected: str) -> None:
    assert work(name) == expected


def test_a_cell_a_row_and_a_column_are_those_of_a_heatmap() -> None:
    assert Part("tensor", "model.norm.weight").of(LLAMA) == ("model.norm.weight",)
    assert Part("tensor", "other.weight").of(LLAMA) == ()
    assert Part("layer", "1").of(LLAMA) == tuple(name for name in LLAMA if ".layers.1." in name)
    assert Part("layer", "").of(LLAMA) == (LLAMA[0], *LLAMA[-2:])
    assert Part("module", "up").of(LLAMA) == tuple(name for name in LLAMA if "up_proj" in name)
    assert Part("module", "final norm").of(LLAMA) == ("model.norm.weight",)
    assert Part().of(LLAMA) == LLAMA


@pytest.mark.parametrize("part", [Part(), Part("group", "norms"), Part("layer", "3"), Part("module", "q")])
def test_a_part_and_the_others_are_the_model(part: Part) -> None:
    rest = Part(part.kind, part.name, others=True)

    assert sorted([*part.of(LLAMA), *rest.of(LLAMA)]) == sorted(LLAMA)
    assert not set(part.of(LLAMA)) & set(rest.of(LLAMA))


@pytest.mark.parametrize(
    ("layers", "first", "middle", "last"),
    [
        (1, [0], [], [0]),
        (2, [0], [], [1]),
        (3, [0], [1], [2]),
        (4, [0], [1, 2], [3]),
        (24, [*range(8)], [*range(8, 16)], [*range(16, 24)]),
    ],
)
def test_thirds_are_of_the_layers(layers: int, first: list[int], middle: list[int], last: list[int]) -> None:
    names = ["embed.weight", *(f"layers.{layer}.mlp.weight" for layer in range(layers))]

    for which, expected in (("first", first), ("middle", middle), ("last", last)):
        assert Part("group", f"{which} third").of(names) == tuple(names[1 + number] for number in expected)


def test_each_tower_has_thirds_of_its_own() -> None:
    names = [f"{tower}.block.{layer}.x.weight" for tower, n in (("encoder", 3), ("decoder", 6)) for layer in range(n)]

    found = Part("group", "last third").of(names)

    assert found == ("encoder.block.2.x.weight", "decoder.block.4.x.weight", "decoder.block.5.x.weight")


def test_groups_are_offered_where_the_model_has_them() -> None:
    assert groups(LLAMA) == GROUPS
    mamba = ["backbone.layers.0.mixer.weight", "backbone.embeddings.weight"]
    assert groups(mamba) == ("embeddings", "first third", "last third")


def test_a_group_that_nobody_knows_is_refused_in_words() -> None:
    with pytest.raises(MergeError, match=r"There is no group `atention` of tensors\. Did you mean `attention`\?"):
        Part("group", "atention").of(LLAMA)
