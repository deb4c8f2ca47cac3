import json
import re
import signal
import socket
import subprocess
import urllib.request

from tests.cli.conftest import DEADLINE, running


def test_the_demo_shows_two_engines_and_what_went_wrong():
    with running("demo", "--http", "127.0.0.1:0", stderr=subprocess.PIPE) as process:
        line = process.stderr.readline().decode()
        url = re.search(r"dashboard at (http://127\.0\.0\.1:\d+/)", line)[1]
        for each in process.stdout:  # alerts of the minutes before, as it catches up
            result = json.loads(each)
            if (
                result["type"] == "alert"
                and result["rule"] == "hit_ratio_drop"
                and result["state"] == "resolved"
            ):
                break
        assert result["source"] == "vllm-1"
        with urllib.request.urlopen(f"{url}api/state", timeout=DEADLINE) as answer:
            state = json.load(answer)
        assert [cache["source"] for cache in state["caches"]] == ["vllm-0", "vllm-1"]
        usage = {each["value"]: each for each in state["summary"]["labels"]["tenant"]}
        assert usage["nightly-batch"]["hit_share"] < 0.1 < usage["chat"]["hit_share"]
        with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
            assert b"<title>kvstream</title>" in answer.read()
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=DEADLINE)
        assert process.returncode == 130
        assert json.loads(out.splitlines()[-1])["final"]


def test_a_port_that_is_taken_is_said(kvstream):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ran = kvstream("demo", "--http", address)
        assert ran.code == 1
        assert f"cannot listen at http://{address}/" in ran.err
    ran = kvstream("demo", "--http", "nowhere")
    assert "HOST:PORT" in ran.err
