"""What the files of a fleet start is started here, as processes around a broker."""

import json
import re
import subprocess
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from threading import Thread

import anyio
import pytest
import yaml

from kvstream import connect
from tests.fleet.brokers import mock_cluster
from tests.ports import free_port
from tests.test_deployment import ROOT, answer, running

FILES = ROOT / "examples" / "fleet"
COMPOSE = yaml.safe_load((FILES / "compose.yaml").read_text())["services"]
OBJECTS = list(yaml.safe_load_all((FILES / "kubernetes.yaml").read_text()))
PROMETHEUS = yaml.safe_load((ROOT / "examples/prometheus/fleet.yml").read_text())
RULES = ROOT / "kvstream/exporters/dashboards/kvstream.fleet.rules.yml"

pytestmark = pytest.mark.slow  # as six processes start


class Here:
    """The hosts, ports and folders of a fleet, as they are on this machine; each process has its own ports.

    The bucket is a directory, and of the topics those are made that the mock cluster makes by itself.
    """

    def __init__(self, broker, folder):
        self.fleet = broker.url()
        self.state, self.socket = folder / "state", folder / "sock"
        self.shared = {port: free_port() for port in ("5557", "5558", "9093")}

    def process(self, arguments):
        """The command line here, and the port of its HTTP server."""
        port = free_port()

        def here(argument):
            argument = argument.replace("kafka://kafka:9092/kv", self.fleet)
            argument = re.sub(r"/data/", f"{ROOT}/examples/data/", argument)
            argument = re.sub(r"(?<==)(/state|s3://kvstream/kv)$", str(self.state), argument)
            argument = argument.replace("/run/kvstream/kvstream.sock", str(self.socket))
            argument = re.sub(r"engine(?=:)|alertmanager(-operated)?(?=:)", "127.0.0.1", argument)
            argument = re.sub(r"0\.0\.0\.0:91\d\d", f"127.0.0.1:{port}", argument)
            return re.sub(r":(5557|5558|9093)\b", lambda found: f":{self.shared[found[1]]}", argument)

        return [here(argument) for argument in arguments], port


@pytest.fixture(scope="module")
def broker():
    with mock_cluster() as made:
        yield made


@contextmanager
def alertmanager(port):
    """The alerts that are posted there."""
    posted = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            posted.extend(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield posted
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_compose_starts_judges_the_recording_and_notifies(broker, tmp_path):
    here = Here(broker, tmp_path)
    names = ["agent", "worker", "worker", "notify", "page", "engine"]
    assert COMPOSE["worker"]["deploy"]["replicas"] == names.count("worker")
    ports = {}
    with ExitStack() as fleet:
        posted = fleet.enter_context(alertmanager(here.shared["9093"]))
        for name in names:
            service = COMPOSE[name]
            command, ports[name] = here.process(service["command"])
            fleet.enter_context(running(command, service.get("environment", {})))
        token = COMPOSE["page"]["environment"]["KVSTREAM_TOKEN"]
        answer(f"http://127.0.0.1:{ports['page']}/api/caches", token, r'"source":"vllm-1"')
        answer(f"http://127.0.0.1:{ports['agent']}/metrics", "", r"kvstream_agent_events_written_total [1-9]")
        answer(f"http://127.0.0.1:{ports['notify']}/metrics", "", r"kvstream_notifier_alerts_total [1-9]")
    assert {alert["labels"]["source"] for alert in posted} == {"vllm-1"}


def test_prometheus_scrapes_and_shows_what_compose_starts():
    (job,) = PROMETHEUS["scrape_configs"]
    for found in job["dns_sd_configs"]:
        (name,) = found["names"]
        assert f"--metrics=0.0.0.0:{found['port']}" in COMPOSE[name]["command"]
    assert {name for found in job["dns_sd_configs"] for name in found["names"]} == {
        name
        for name, service in COMPOSE.items()
        if any("--metrics" in each for each in service.get("command", []))
    }
    mounted = {
        there: here for here, there, _ in (each.split(":") for each in COMPOSE["prometheus"]["volumes"])
    }
    for file in map(PurePosixPath, PROMETHEUS["rule_files"]):
        assert (FILES / mounted[str(file.parent)] / file.name).exists()
    (source,) = yaml.safe_load((FILES / "grafana/datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((FILES / "grafana/dashboards/kvstream.yaml").read_text())["providers"]
    mounts = dict(each.split(":")[:2] for each in COMPOSE["grafana"]["volumes"])
    assert mounts["../../kvstream/exporters/dashboards"] == provider["options"]["path"]
    for folder in (*mounts, *(each.split(":")[0] for each in COMPOSE["engine"]["volumes"])):
        assert (FILES / folder).is_dir()


def test_the_manifests_start_and_answer_their_probes(broker, tmp_path):
    here = Here(broker, tmp_path)
    with ExitStack() as fleet:
        fleet.enter_context(alertmanager(here.shared["9093"]))
        probed = []
        for container in containers():
            command, port = here.process(container["args"])
            environment = {variable["name"]: "secret" for variable in container.get("env", ())}
            fleet.enter_context(running(command, environment))
            (named,) = container["ports"]
            assert any(each.endswith(f":{named['containerPort']}") for each in container["args"])
            for probe in ("livenessProbe", "readinessProbe"):
                assert container[probe]["httpGet"]["port"] == named["name"]
                probed.append(f"http://127.0.0.1:{port}{container[probe]['httpGet']['path']}")
        for url in probed:
            answer(url, "secret")
        anyio.run(engine, here.socket)
        page = next(url for url in probed if url.endswith("/readyz")).removesuffix("readyz")
        answer(f"{page}api/caches", "secret", r'"source":"engine-0"')


async def engine(socket):
    async with connect(f"unix:{socket}") as remote:
        await remote.producer("engine-0").allocated(range(1000))
        await remote.flush()


def containers():
    for each in OBJECTS:
        if each["kind"] in ("DaemonSet", "Deployment"):
            (container,) = each["spec"]["template"]["spec"]["containers"]
            yield container


def test_the_manifests_belong_together():
    labels = {}
    for each in OBJECTS:
        if each["kind"] in ("DaemonSet", "Deployment"):
            template = each["spec"]["template"]
            assert each["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
            (container,) = template["spec"]["containers"]
            labels[each["metadata"]["name"]] = template["metadata"]["labels"], container["ports"][0]["name"]
            volumes = {volume["name"] for volume in template["spec"].get("volumes", ())}
            assert {mount["name"] for mount in container.get("volumeMounts", ())} == volumes
    service = next(each for each in OBJECTS if each["kind"] == "Service")
    assert service["spec"]["selector"].items() <= labels["kvstream-page"][0].items()
    monitor = next(each for each in OBJECTS if each["kind"] == "PodMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    scraped = {
        name for name, (has, port) in labels.items() if wanted <= has.items() and port == endpoint["port"]
    }
    assert scraped == {"kvstream-agent", "kvstream-worker", "kvstream-notify"}


def test_the_rules_are_those_of_prometheus_by_the_command_that_is_given():
    header = FILES / "prometheusrule.yaml"
    command = re.search(r"^#   (\(.*\)) \| kubectl apply -f -$", header.read_text(), re.M)[1]
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, check=True)
    made = yaml.safe_load(done.stdout)
    assert made["kind"] == "PrometheusRule"
    assert made["spec"] == yaml.safe_load(RULES.read_text())
