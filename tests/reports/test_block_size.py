import json

import pytest

from kvstream.errors import ConfigError
from kvstream.reports.block_size import block_bytes, block_bytes_of_file

LLAMA_3_8B = {
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "torch_dtype": "bfloat16",
}


def test_a_block_of_llama_3_8b():
    assert block_bytes(LLAMA_3_8B, 16) == 2 * 32 * 8 * 128 * 2 * 16 == 2 * 2**20


def test_without_grouped_heads_every_head_has_keys_and_values():
    assert block_bytes({**LLAMA_3_8B, "num_key_value_heads": None}, 16) == 8 * 2**20
    assert block_bytes({**LLAMA_3_8B, "head_dim": 64}, 16) == 2**20
    assert block_bytes({"text_config": LLAMA_3_8B}, 32) == 4 * 2**20


def test_latent_attention_keeps_one_vector_for_all_heads():
    deepseek_v3 = {
        "hidden_size": 7168,
        "kv_lora_rank": 512,
        "num_attention_heads": 128,
        "num_hidden_layers": 61,
        "num_key_value_heads": 128,
        "qk_rope_head_dim": 64,
        "torch_dtype": "bfloat16",
    }
    assert block_bytes(deepseek_v3, 1) == 70_272  # 70 kB a token, as its makers say
    assert block_bytes(deepseek_v3, 64) == 64 * 70_272


def test_what_is_no_configuration(tmp_path):
    with pytest.raises(ConfigError, match="num_hidden_layers"):
        block_bytes({}, 16)
    with pytest.raises(ConfigError, match="int3"):
        block_bytes({**LLAMA_3_8B, "torch_dtype": "int3"}, 16)
    (tmp_path / "config.json").write_text("[]")
    for name in ("config.json", "none.json"):
        with pytest.raises(ConfigError, match=name):
            block_bytes_of_file(tmp_path / name, 16)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_3_8B))
    assert block_bytes_of_file(tmp_path / "config.json", 16) == 2 * 2**20
