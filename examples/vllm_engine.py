"""A real vLLM engine streams every block event into kvstream, and both count the same.

Needs a machine with vLLM (its CPU build does) in the environment that kvstream is installed in:

    python examples/vllm_engine.py                    # engine core in this process
    python examples/vllm_engine.py --own-process      # engine core in a process of its own

A tiny Llama with random weights serves a chat workload over shared prompts. At the end, vLLM's own
histograms, at sample rate 1.0, are compared with kvstream's.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "vocab_size": 4096,
    "max_position_embeddings": 2048,
    "torch_dtype": "float32",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
BLOCKS = 256


def main() -> int:
    options = argparse.ArgumentParser()
    options.add_argument("--own-process", action="store_true")
    options.add_argument("--events", type=int, default=60_000)
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        endpoint = f"unix:{folder}/kv.sock"
        serve = [
            sys.executable,
            "-m",
            "kvstream",
            "serve",
            "--listen",
            endpoint,
            "--json",
            "--summary-every",
            "0",
        ]
        with subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
            print(server.stderr.readline().strip(), file=sys.stderr)
            os.environ |= {
                "KVSTREAM_ENDPOINT": endpoint,
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_ENABLE_V1_MULTIPROCESSING": str(int(asked.own_process)),
            }
            try:
                theirs, accesses = run_engine(Path(folder), asked.events)
                time.sleep(1.0)  # what was recorded last is sent within a twentieth of that
            finally:
                server.terminate()
            out, _ = server.communicate()
    summary = json.loads(out.splitlines()[-1])
    return compare(theirs, accesses, summary)


def run_engine(folder: Path, events: int) -> tuple[dict[str, tuple[int, float]], int]:
    """VLLM's own (count, sum) of each histogram, and its prefix-cache hits in blocks."""
    (folder / "config.json").write_text(json.dumps(MODEL))
    from prometheus_client import REGISTRY
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=str(folder),
        load_format="dummy",
        skip_tokenizer_init=True,
        block_size=32,
        enforce_eager=True,
        num_gpu_blocks_override=BLOCKS,
        max_model_len=2048,
        max_num_seqs=4,  # so that none is preempted: vLLM counts the hits of those apart
        enable_prefix_caching=True,
        disable_log_stats=False,
        kv_cache_metrics=True,
        kv_cache_metrics_sample=1.0,
    )
    rng = random.Random(1)
    words = range(10, 4000)
    prompts = [rng.choices(words, k=32 * rng.randint(4, 12)) for _ in range(12)]
    chats = [list(prompts[rng.randrange(12)]) for _ in range(24)]
    sampling = SamplingParams(max_tokens=2, ignore_eos=True, detokenize=False)
    hits, seen = 0.0, 0.0
    while seen < events:
        batch = []
        for _ in range(16):
            place = rng.randrange(len(chats))
            chats[place] += rng.choices(words, k=rng.randint(32, 128))
            if len(chats[place]) > 1500:
                chats[place] = list(prompts[rng.randrange(12)])
            batch.append({"prompt_token_ids": list(chats[place])})
        engine.generate(batch, sampling, use_tqdm=False)
        hits = value(REGISTRY, "vllm:prefix_cache_hits_total") / 32
        evicted = value(REGISTRY, "vllm:kv_block_lifetime_seconds_count")
        seen = hits + 2 * evicted
    names = ("lifetime", "idle_before_evict", "reuse_gap")
    theirs = {
        name: (
            int(value(REGISTRY, f"vllm:kv_block_{name}_seconds_count")),
            value(REGISTRY, f"vllm:kv_block_{name}_seconds_sum"),
        )
        for name in names
    }
    return theirs, int(hits)


def value(registry, name: str) -> float:
    """Return the sum of one metric's samples over all labels."""
    return sum(
        sample.value for metric in registry.collect() for sample in metric.samples if sample.name == name
    )


def compare(theirs: dict[str, tuple[int, float]], accesses: int, summary: dict) -> int:
    """Print both sides; 1 if they differ."""
    lifetime, idle = summary["lifetime"], summary["idle"]
    rows = [
        ("accesses", accesses, summary["accesses"], None, None),
        ("lifetime", theirs["lifetime"][0], lifetime["count"], theirs["lifetime"][1], total(lifetime)),
        ("idle", theirs["idle_before_evict"][0], idle["count"], theirs["idle_before_evict"][1], total(idle)),
    ]
    print(f"{summary['accounts']['processed']:,} events streamed")
    differ = False
    for name, count, our_count, seconds, our_seconds in rows:
        line = f"{name:10} vLLM {count:>8,} kvstream {our_count:>8,}"
        differ |= count != our_count
        if seconds is not None:
            line += f"   sum {seconds:.3f} s and {our_seconds:.3f} s ({our_seconds / seconds - 1:+.3%})"
            differ |= abs(our_seconds / seconds - 1) > 0.01
        print(line)
    gaps = summary["reuse_gap"]
    print(f"reuse gaps vLLM {theirs['reuse_gap'][0]:>8,} kvstream {gaps['count']:>8,} (vLLM: three a block)")
    print("lost frames", summary["accounts"]["lost_frames"], "dropped", summary["accounts"]["dropped"])
    return int(differ)


def total(stats: dict) -> float:
    """Seconds in a distribution."""
    return stats["mean"] * stats["count"]


if __name__ == "__main__":
    sys.exit(main())
