"""A network of two namespaces, by which a worker reaches a broker, and that can be cut.

The broker's ports are on this machine's loopback. In the worker's namespace there are the same ones; what
comes to them goes over the cable between the two, and from there through Unix sockets to the broker.
"""

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack, contextmanager

import pytest

from tests.waiting import DEADLINE

_BROKERS_END, _WORKERS_END = "10.99.0.1", "10.99.0.2"


class Network:
    def __init__(self, name):
        self.near, self.far = f"kvb-{name}", f"kvw-{name}"

    def make(self):
        for space in (self.near, self.far):
            ip("netns", "add", space)
            ip("-n", space, "link", "set", "lo", "up")
        ip(
            "-n",
            self.near,
            "link",
            "add",
            "cable",
            "type",
            "veth",
            "peer",
            "name",
            "cable",
            "netns",
            self.far,
        )
        for space, address in ((self.near, _BROKERS_END), (self.far, _WORKERS_END)):
            ip("-n", space, "address", "add", f"{address}/30", "dev", "cable")
            ip("-n", space, "link", "set", "cable", "up")

    def cut(self):
        ip("-n", self.near, "link", "set", "cable", "down")

    def heal(self):
        ip("-n", self.near, "link", "set", "cable", "up")

    @contextmanager
    def process(self, arguments):
        """A ``kvstream`` on the worker's end."""
        command = ["-m", "kvstream", *map(str, arguments)]
        with running(python(*command, space=self.far)) as process:
            yield process

    def asked(self, url):
        """What a server of the worker's end answers; nothing if there is none."""
        code = f"import urllib.request as r; print(r.urlopen({url!r}, timeout=10).read().decode())"
        command = python("-c", code, space=self.far)
        return subprocess.run(command, check=False, capture_output=True, text=True).stdout

    def remove(self):
        for space in (self.near, self.far):
            subprocess.run(["ip", "netns", "delete", space], check=False, stderr=subprocess.DEVNULL)


@contextmanager
def cut_off_network(broker, folder):
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    network = Network(str(os.getpid()))
    try:
        network.make()
    except subprocess.CalledProcessError as error:
        network.remove()
        pytest.skip(f"no network namespaces here: {error.stderr}")
    ports = [address.rpartition(":")[2] for address in broker.address.split(",")]
    ways = {port: str(folder / f"{port}.sock") for port in ports}
    try:
        with ExitStack() as forwarders:
            for space, pairs in (
                (None, [f"{way}={host}:{port}" for port, way in ways.items() for host in ["127.0.0.1"]]),
                (network.near, [f"{_BROKERS_END}:{port}={way}" for port, way in ways.items()]),
                (network.far, [f"127.0.0.1:{port}={_BROKERS_END}:{port}" for port in ports]),
            ):
                command = python("-m", "tests.fleet.forwarder", *pairs, space=space)
                process = forwarders.enter_context(running(command, stdout=subprocess.PIPE))
                assert process.stdout.readline() == b"ready\n"
            yield network
    finally:
        network.remove()


def python(*arguments, space=None):
    inside = [] if space is None else ["ip", "netns", "exec", space]
    return [*inside, sys.executable, *arguments]


@contextmanager
def running(command, **options):
    process = subprocess.Popen(
        command, stderr=subprocess.DEVNULL, **{"stdout": subprocess.DEVNULL, **options}
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(DEADLINE)
        if process.stdout is not None:
            process.stdout.close()


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
