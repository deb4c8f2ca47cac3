"""What the Dockerfile, compose.yaml and the Kubernetes manifest start is started here, as processes."""

import json
import os
import re
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.forked import DEVNULL, Kvstream
from tests.ports import free_port
from tests.waiting import DEADLINE

ROOT = Path(__file__).parent.parent
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
MANIFEST = re.search(r"^```yaml\n(.*?)^```$", (ROOT / "docs" / "deployment.md").read_text(), re.M | re.S)[1]


class Here:
    """The hosts, ports and folders of a container, as they are on this machine."""

    def __init__(self, state="/state"):
        self.state = str(state)
        self.ports = {port: free_port() for port in ("5557", "5558", "9109")}

    def __call__(self, argument):
        argument = re.sub(r"/data/", f"{ROOT}/examples/data/", argument)
        argument = re.sub(r"^/state$", self.state, argument)
        argument = re.sub(r"0\.0\.0\.0|engine(?=:)|vllm-headless", "127.0.0.1", argument)
        return re.sub(r":(\d{4})\b", lambda found: f":{self.ports[found[1]]}", argument)


@contextmanager
def running(command, environment=()):
    with Kvstream(
        command, env={**os.environ, **dict(environment)}, stdout=DEVNULL, stderr=DEVNULL
    ) as process:
        yield process
        process.terminate()
        process.wait(DEADLINE)


def answer(url, token, wanted=""):
    """What a server answers, once it holds what is wanted."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE) as reply:
                text = reply.read().decode()
        except urllib.error.URLError:
            text = None
        if text is not None and re.search(wanted, text):
            return text
        time.sleep(0.05)
    raise AssertionError(f"{url} does not answer {wanted!r}: {text}")


def test_what_compose_starts_follows_the_recording():
    here, services = Here(), COMPOSE["services"]
    engine = [here(argument) for argument in services["engine"]["command"]]
    kvstream = services["kvstream"]
    token = kvstream["environment"]["KVSTREAM_TOKEN"]
    with (
        running(engine),
        running([here(argument) for argument in kvstream["command"]], kvstream["environment"]),
    ):
        url = f"http://127.0.0.1:{here.ports['9109']}"
        answer(f"{url}/metrics", token, r"kvstream_allocations_total\{[^}]*vllm-1[^}]*\} [1-9]")


def test_prometheus_scrapes_with_the_token_of_compose():
    (job,) = yaml.safe_load((ROOT / "examples/prometheus/compose.yml").read_text())["scrape_configs"]
    kvstream = COMPOSE["services"]["kvstream"]
    assert job["authorization"]["credentials"] == kvstream["environment"]["KVSTREAM_TOKEN"]
    (target,) = job["static_configs"][0]["targets"]
    assert target == "kvstream:9109"
    assert "0.0.0.0:9109" in kvstream["command"]


def test_the_image_s_own_command_is_healthy_by_its_own_check(tmp_path):
    here = Here()
    command = json.loads(re.search(r"^CMD (\[.*\])$", DOCKERFILE, re.M)[1])
    program, *arguments = json.loads(re.search(r"^  CMD (\[.*\])$", DOCKERFILE, re.M)[1])
    assert program == "python"
    (volume,) = re.findall(r"^VOLUME (.*)$", DOCKERFILE, re.M)
    assert f"unix:{volume}/kvstream.sock" in command  # all else may be read-only
    command = [here(argument).replace(volume, str(tmp_path)) for argument in command]
    with running(command, {"KVSTREAM_TOKEN": "secret"}.items()):
        answer(f"http://127.0.0.1:{here.ports['9109']}/healthz", "secret")
        done = subprocess.run([sys.executable, *map(here, arguments)], timeout=DEADLINE)
        assert done.returncode == 0
    done = subprocess.run([sys.executable, *map(here, arguments)], capture_output=True, timeout=DEADLINE)
    assert done.returncode != 0


def test_the_manifest_starts_and_answers_its_probes(tmp_path):
    here = Here(state=tmp_path)
    deployment, service = yaml.safe_load_all(MANIFEST)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (port,) = container["ports"]
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    (volume,) = deployment["spec"]["template"]["spec"]["volumes"]
    assert mounted[volume["name"]] in container["args"]
    names = [variable["name"] for variable in container["env"]]
    with running(map(here, container["args"]), dict.fromkeys(names, "secret").items()):
        url = f"http://127.0.0.1:{here.ports[str(port['containerPort'])]}"
        for probe in ("readinessProbe", "livenessProbe"):
            answer(url + container[probe]["httpGet"]["path"], "secret")
    assert any(path.suffix == ".kvstate" for path in tmp_path.iterdir())


EXTRAS = re.search(r"install --no-cache-dir '\.\[(.*)\]'", DOCKERFILE)[1].split(",")


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_image_installs_extras_that_there_are(extra):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extra in project["optional-dependencies"]
