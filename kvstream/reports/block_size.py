"""How many bytes a block of KV cache takes, from what a model's configuration says."""

from pathlib import Path
from typing import Any

import msgspec

from kvstream.errors import ConfigError

_BYTES_OF = {"float32": 4, "float16": 2, "bfloat16": 2, "half": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}


def block_bytes(config: dict[str, Any], block_tokens: int) -> int:
    """Return bytes of one block: tokens × layers × numbers of a token in a layer × bytes of a number.

    Numbers are 2 × KV heads × head size, as keys and values are kept for each KV head. With multi-head latent
    attention (DeepSeek) they are one latent vector of ``kv_lora_rank`` and a key of ``qk_rope_head_dim`` for
    all heads.

    Args:
        config: A model's ``config.json`` as Hugging Face has it.
        block_tokens: Tokens in a block.

    Raises:
        ConfigError: If something is missing in it.
    """
    config = config.get("text_config", config)
    try:
        dtype = str(config.get("torch_dtype") or config.get("dtype") or "bfloat16")
        return block_tokens * int(config["num_hidden_layers"]) * _numbers(config) * _BYTES_OF[dtype]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"no block size in this model configuration: {error}") from error


def _numbers(config: dict[str, Any]) -> int:
    """Return how many numbers are kept of a token in a layer."""
    if config.get("kv_lora_rank"):
        return int(config["kv_lora_rank"]) + int(config["qk_rope_head_dim"])
    heads = int(config["num_attention_heads"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_size = int(config.get("head_dim") or int(config["hidden_size"]) // heads)
    return 2 * kv_heads * head_size


def block_bytes_of_file(path: str | Path, block_tokens: int) -> int:
    """Return ``block_bytes`` of the model configuration in a file.

    Raises:
        ConfigError: If it cannot be read or used.
    """
    try:
        config = msgspec.json.decode(Path(path).read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}: no valid JSON: {error}") from error
    return block_bytes(config, block_tokens)
