"""Where tensors sit, by the names that real models give them."""

import pytest

from merging.places import Place, in_order, place


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Llama, Qwen, Mistral
        ("model.embed_tokens.weight", Place("", None, "embed")),
        ("model.layers.0.input_layernorm.weight", Place("", 0, "attn norm")),
        ("model.layers.11.self_attn.q_proj.weight", Place("", 11, "q")),
        ("model.layers.11.self_attn.q_proj.bias", Place("", 11, "q bias")),
        ("model.layers.3.mlp.up_proj.weight", Place("", 3, "up")),
        ("model.layers.3.mlp.experts.5.up_proj.weight", Place("", 3, "mlp.experts.5.up_proj")),
        ("model.norm.weight", Place("", None, "final norm")),
        ("lm_head.weight", Place("", None, "head")),
        # GPT-2, with and without its head
        ("wte.weight", Place("", None, "wte")),
        ("h.0.attn.c_attn.weight", Place("", 0, "attn.c_attn")),
        ("transformer.h.11.ln_1.bias", Place("", 11, "ln_1 bias")),
        ("transformer.ln_f.weight", Place("", None, "ln_f")),
        # BERT
        ("bert.embeddings.word_embeddings.weight", Place("", None, "bert.embeddings.word_embeddings")),
        ("bert.encoder.layer.7.output.dense.bias", Place("bert.encoder", 7, "output.dense bias")),
        ("cls.predictions.bias", Place("", None, "cls.predictions bias")),
        # T5
        ("shared.weight", Place("", None, "shared")),
        ("encoder.block.2.layer.0.SelfAttention.q.weight", Place("encoder", 2, "layer.0.SelfAttention.q")),
        ("decoder.block.2.layer.2.DenseReluDense.wo.weight", Place("decoder", 2, "layer.2.DenseReluDense.wo")),
        ("decoder.final_layer_norm.weight", Place("", None, "decoder.final_layer_norm")),
        # Mamba, whose layers have a norm that is not the final one
        ("backbone.layers.0.norm.weight", Place("backbone", 0, "norm")),
        # Names without a dot
        ("weight", Place("", None, "weight")),
        ("A_log", Place("", None, "A_log")),
    ],
)
def test_a_name_says_where_its_tensor_sits(name: str, expected: Place) -> None:
    assert place(name) == expected


def test_the_row_of_a_layer_says_its_tower_only_where_there_are_several() -> None:
    names = ["model.layers.3.mlp.up_proj.weight", "encoder.block.2.layer.0.x.weight", "model.norm.weight"]

    assert [place(name).row for name in names] == ["3", "encoder 2", ""]


def test_a_model_is_read_from_its_embedding_through_its_layers_to_its_head() -> None:
    names = [
        "lm_head.weight",
        "model.layers.10.mlp.up_proj.weight",
        "model.layers.2.mlp.up_proj.weight",
        "model.norm.weight",
        "model.layers.2.mlp.down_proj.weight",
        "model.embed_tokens.weight",
    ]

    assert in_order(names) == [
        "model.embed_tokens.weight",
        "model.layers.2.mlp.up_proj.weight",
        "model.layers.2.mlp.down_proj.weight",
        "model.layers.10.mlp.up_proj.weight",
        "lm_head.weight",
        "model.norm.weight",
    ]


def test_the_modules_of_a_layer_are_read_from_attention_to_the_norms() -> None:
    names = ["input_layernorm.weight", "mlp.gate_proj.weight", "self_attn.rotary.weight", "self_attn.q_proj.weight"]

    found = in_order([f"model.layers.0.{name}" for name in [*names, "self_attn.q_proj.bias"]])

    assert [place(name).module for name in found] == ["q", "q bias", "gate", "self_attn.rotary", "attn norm"]


def test_an_encoder_comes_before_its_decoder() -> None:
    names = [
        "decoder.block.0.layer.0.SelfAttention.q.weight",
        "decoder.final_layer_norm.weight",
        "encoder.block.1.layer.0.SelfAttention.q.weight",
        "encoder.block.0.layer.0.SelfAttention.q.weight",
        "shared.weight",
    ]

    assert in_order(names) == [
        "shared.weight",
        "encoder.block.0.layer.0.SelfAttention.q.weight",
        "encoder.block.1.layer.0.SelfAttention.q.weight",
        "decoder.block.0.layer.0.SelfAttention.q.weight",
        "decoder.final_layer_norm.weight",
    ]
