"""A publisher answers a replay as [client, "", topic, seq, payload] and ends it with [client, "", "", -1, ""]."""

import json, signal, subprocess, sys, time
import msgpack, zmq

c = zmq.Context()
pub, router = c.socket(zmq.XPUB), c.socket(zmq.ROUTER)
port, back = (s.bind_to_random_port("tcp://127.0.0.1") for s in (pub, router))
kept = []


def publish(live):
    n = len(kept)
    event = {
        "type": "BlockStored",
        "block_hashes": [n],
        "parent_block_hash": None,
        "token_ids": [1],
        "block_size": 1,
        "lora_id": None,
        "medium": "GPU",
    }
    kept.append(msgpack.packb([1767225600.0 + n, [event], 0]))
    if live:
        pub.send_multipart([b"kv-events", n.to_bytes(8, "big"), kept[n]])


def answer(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if router.poll(20):
            client, *_, start = router.recv_multipart()
            for n in range(int.from_bytes(start, "big"), len(kept)):
                router.send_multipart([client, b"", b"kv-events", n.to_bytes(8, "big"), kept[n]])
            router.send_multipart([client, b"", b"", b"\xff" * 8, b""])


for _ in range(8):
    publish(False)
url = f"zmq://127.0.0.1:{port}?replay=tcp://127.0.0.1:{back}"
child = subprocess.Popen([sys.argv[1], "run", url, "--json"], stdout=subprocess.PIPE)
assert pub.poll(120_000), "never subscribed"
answer(0.5)
for _ in range(4):
    publish(True)
    answer(0.05)
answer(3)
child.send_signal(signal.SIGINT)
total = [json.loads(line) for line in child.communicate(timeout=120)[0].splitlines()][-1]
a = total["accounts"]
print(f"live {total['blocks_live']} of 12, lost {a['lost_frames']}, malformed {a['malformed']}")
sys.exit(not (total["blocks_live"] == 12 and a["lost_frames"] == a["malformed"] == 0))
