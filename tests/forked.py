"""Processes of ``kvstream`` without the wait for their start: forked off one that has loaded the package.

Each is a process of its own, with its own standard streams, signals, working directory and exit code, and it
runs all that ``python -m kvstream`` runs; but the half second that Python and the packages take to load is
spent once, by the parent of them all. Tests of the start itself start a fresh Python instead.
"""

import atexit
import contextlib
import functools
import gc
import io
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import anyio

from kvstream.errors import KVStreamError
from tests.waiting import DEADLINE

PIPE, DEVNULL, CLOSED = subprocess.PIPE, subprocess.DEVNULL, "closed"
ROOT = Path(__file__).parent.parent
_WIDTH = 12  # bytes of a number in the pipe of a process, so that two are never read as one


class Kvstream:
    """A running ``kvstream``, with the face of ``subprocess.Popen``; its pipes are unbuffered.

    Args:
        arguments: Those of the command line.
        stdin: ``PIPE``, ``DEVNULL``, ``CLOSED``, a file, or None for this process's own; ``stdout`` and
            ``stderr`` likewise.
        env: Its environment, this process's by default.
        limits: What it may use: ``{resource.RLIMIT_NOFILE: 48}``.
        without: A package that is as if it were not installed; the command line may not load it at its start.
    """

    def __init__(
        self, arguments, *, stdin=None, stdout=None, stderr=None, env=None, limits=None, without=None
    ):
        self.returncode = None
        self._status, status = os.pipe()
        ends = [_ends(number, wanted) for number, wanted in enumerate((stdin, stdout, stderr))]
        self.stdin, self.stdout, self.stderr = (ours for _, ours in ends)
        request = {
            "arguments": [str(argument) for argument in arguments],
            "env": dict(os.environ if env is None else env),
            "cwd": os.getcwd(),
            "limits": list((limits or {}).items()),
            "without": without,
            "closed": [number for number, wanted in enumerate((stdin, stdout, stderr)) if wanted == CLOSED],
        }
        given = [status, *(theirs for theirs, _ in ends)]
        _ask(json.dumps(request).encode(), given)
        for descriptor in given:
            os.close(descriptor)
        self.pid = int(self._said(DEADLINE))

    def _said(self, timeout):
        """The next number that is said of this process: its id, then with what it has ended."""
        if not select.select([self._status], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("kvstream", timeout)
        return os.read(self._status, _WIDTH)

    def poll(self):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout=DEADLINE):
        if self.returncode is None:
            self.returncode = int(self._said(timeout))
            os.close(self._status)
        return self.returncode

    def communicate(self, input=b"", timeout=DEADLINE):  # noqa: A002
        end, read = time.monotonic() + timeout, {}
        readers = [
            threading.Thread(target=lambda pipe=pipe: read.__setitem__(pipe, pipe.read()), daemon=True)
            for pipe in (self.stdout, self.stderr)
            if pipe is not None and not pipe.closed
        ]
        for reader in readers:
            reader.start()
        if self.stdin is not None and not self.stdin.closed:
            with contextlib.suppress(BrokenPipeError), self.stdin, io.BufferedWriter(self.stdin) as stdin:
                stdin.write(input)
        for reader in readers:
            reader.join(max(0.0, end - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired("kvstream", timeout)
        self.wait(max(0.0, end - time.monotonic()))
        return read.get(self.stdout), read.get(self.stderr)

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.kill()
        self.wait()
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _ends(number, wanted):
    """The child's end of a standard stream, and this process's, if there is one."""
    if wanted == PIPE:
        reads, writes = os.pipe()
        if number == 0:
            return reads, open(writes, "wb", buffering=0)
        return writes, open(reads, "rb", buffering=0)
    if wanted in (CLOSED, DEVNULL):
        return os.open(os.devnull, os.O_RDWR), None
    return os.dup(number if wanted is None else wanted if isinstance(wanted, int) else wanted.fileno()), None


_asking = threading.Lock()


def _ask(request, descriptors):
    with _asking:
        requests = _parent()
        socket.send_fds(requests, [len(request).to_bytes(4, "big")], descriptors)
        requests.sendall(request)


@functools.cache
def _parent():
    """The socket of the one that forks, which ends with it."""
    ours, theirs = socket.socketpair()
    code = f"from tests.forked import fork_for; fork_for({theirs.fileno()})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, pass_fds=[theirs.fileno()])
    theirs.close()

    def end():
        ours.close()
        process.wait(DEADLINE)

    atexit.register(end)
    return ours


def fork_for(descriptor):
    """Fork a process for each request that comes at a socket, until it is closed."""
    from kvstream._core.build import warn_if_interpreted
    from kvstream.cli.app import app
    from kvstream.cli.command import UsageError

    commands = ("run", "serve", "analyze", "report", "record", "replay")
    mistakes = ([name, "--no-such-option"] for name in commands)
    for arguments in (["schemas", "check", os.devnull], ["--help"], *mistakes):  # loads what running loads
        with contextlib.suppress(KVStreamError, UsageError), contextlib.redirect_stdout(io.StringIO()):
            app(arguments, standalone_mode=False)
    anyio.run(anyio.sleep, 0)
    warn_if_interpreted()  # once, and here: tests compare what commands say to standard error
    gc.collect()
    gc.freeze()  # so that no child has to copy it all
    with contextlib.suppress(KeyboardInterrupt), socket.socket(fileno=descriptor) as requests:
        while True:
            length, given, _, _ = socket.recv_fds(requests, 4, 4)
            if not length:
                return
            request, size = b"", int.from_bytes(length, "big")
            while len(request) < size:
                request += requests.recv(size - len(request))  # no more: the next one may be there
            if os.fork() == 0:
                requests.close()
                _wait_for_one(json.loads(request), *given)
            for each in given:
                os.close(each)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def _wait_for_one(request, status, *streams):
    """Fork the process itself; tell its id, and with what it has ended."""
    pid = os.fork()
    if pid == 0:
        os.close(status)
        _run(request, streams)
    for stream in streams:
        os.close(stream)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # of a terminal: the process ends by it, and then this one
    os.write(status, b"%*d" % (_WIDTH, pid))
    _, ended = os.waitpid(pid, 0)
    with contextlib.suppress(BrokenPipeError):
        os.write(status, b"%*d" % (_WIDTH, os.waitstatus_to_exitcode(ended)))
    os._exit(0)


def _run(request, streams):
    """Become the process that was asked for."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    # A job in the background ignores the first, and one of nohup the second.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for limit, most in request["limits"]:
        resource.setrlimit(limit, (most, most))
    if request["without"]:
        assert request["without"] not in sys.modules
        sys.modules[request["without"]] = None
    sys.argv = ["kvstream", *request["arguments"]]
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if number in request["closed"]:
            os.close(number)
            setattr(sys, name, None)
        else:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115
    from kvstream.__main__ import main

    try:
        main()
    except SystemExit as ended:
        _end(ended.code)
        raise


def _end(code):
    """End this process as ``multiprocessing`` ends its own; return if that would not be as Python does it.

    To take all that the parent has loaded to pieces takes longer than most commands run.
    """
    threading._shutdown()  # waits for threads
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(code)
    except (OSError, TypeError, ValueError):  # cannot be written, or is no number
        return
