"""Mistakes at the command line: each answer names what was typed, where, and what to write instead."""

import json
import socket

import pytest

from kvstream.cli.command import lines_of

EVENTS = "".join(
    json.dumps({"type": "alloc", "block": i, "ts": 1767225600000000000 + i}) + "\n" for i in range(20)
)
FILES = {
    "e.jsonl": EVENTS,
    "type.toml": 'capacity = 8\nwindow_seconds = "1s"\n',
    "key.toml": "windw_seconds = 3.0\n",
    "torn.toml": "capacity = 8\n[metrics\n",
    "section.toml": "[metrcs]\ncapacity = 8\n",
    "option.toml": '[alerts]\nmin_severty = "warning"\n\n[run]\nspeed = "fast"\nstrict = 1\n',
    "options.toml": '[alerts]\nmin_severity = "critcal"\n\n[rules.hit_ratio_drp]\nthreshold = 0.1\n',
    "rule.toml": "[hit_ratio_drp]\nthreshold = 0.1\n",
    "model.json": '{"num_hidden_layers": 2}',
    "text.json": "not JSON",
    "empty": "",
    "deep.toml": "a = " + "[" * 5000 + "]" * 5000,
    "notes.txt": "not an event\n" * 30,
}

# Arguments, the exit code, what the answer has, and what it has not.
CASES = [
    # What is read.
    ("run tcp://127.0.0.1:5557", 1, "kvstream serve --listen tcp://127.0.0.1:5557", "No such file"),
    ("run unix:/run/kvstream.sock", 1, "kvstream serve --listen unix:/run/kvstream.sock", "No such file"),
    ("run zmp://vllm-0:5557", 1, "unknown scheme zmp; did you mean zmq?", "No such file"),
    ("run ftp://vllm-0/day", 1, "unknown scheme ftp; engines are zmq:// or http://", "No such file"),
    ("run vllm-0:5557", 1, "an engine is zmq://vllm-0:5557", "No such file"),
    ("run zmq://vllm-0", 1, "zmq://HOST:PORT", "Errno"),
    ("run zmq://vllm-0:5557?rply=tcp://x:1", 1, "rply", "Errno"),
    ("run e.jsonk", 1, "e.jsonk: No such file or directory; did you mean e.jsonl?", "Errno"),
    ("run notes.txt", 1, "notes.txt", '"position":25'),
    ("run e.jsonl/day", 1, "e.jsonl/day: Not a directory", "Errno"),
    (f"run {'x' * 300}", 1, "File name too long", "Errno"),
    ("analyze e.json", 1, "did you mean e.jsonl?", "Errno"),
    ("analyze zmq://127.0.0.1:5557", 1, "record what is live first", "Errno"),
    ("convert zmq://127.0.0.1:5557 day.kvlog", 1, "record it with kvstream record", "Errno"),
    ("top e.jsonl", 1, "kvstream run", "Errno"),
    # Settings.
    (
        "run e.jsonl --config type.toml",
        1,
        "type.toml:2: window_seconds must be a number, not '1s'; write 1",
        "`",
    ),
    (
        "run e.jsonl --config key.toml",
        1,
        "key.toml:1: unknown setting windw_seconds; did you mean window_seconds?",
        "Object",
    ),
    ("run e.jsonl --config nope.toml", 1, "nope.toml: No such file", "[Errno"),
    ("run e.jsonl --config torn.toml", 1, "torn.toml:2: no valid TOML", "(at line"),
    (
        "run e.jsonl --config section.toml",
        1,
        "section.toml:1: unknown section metrcs; did you mean metrics?",
        "Object",
    ),
    (
        "run e.jsonl --config option.toml",
        1,
        "option.toml:2: unknown option min_severty; did you mean min_severity?",
        "`",
    ),
    ("run e.jsonl --config option.toml", 1, "option.toml:5: speed: 'fast' is not a number", "`"),
    ("run e.jsonl --config option.toml", 1, "option.toml:6: strict: must be true or false, not 1", "`"),
    (
        "run e.jsonl --config options.toml",
        1,
        "options.toml:2: min_severity: 'critcal' is not info",
        "Value error",
    ),
    (
        "run e.jsonl --config options.toml",
        1,
        "options.toml:4: rule hit_ratio_drp: there is no such rule",
        "Object",
    ),
    (
        "run e.jsonl --rules rule.toml",
        1,
        "rule.toml:1: rule hit_ratio_drp: there is no such rule; did you mean hit_ratio_drop?",
        "Object",
    ),
    ("rules check rule.toml", 1, "did you mean hit_ratio_drop?", "Object missing"),
    ("rules check nope.toml", 1, "nope.toml: No such file", "[Errno"),
    ("run e.jsonl --model-config model.json", 1, "no block size in this model configuration", "Traceback"),
    ("run e.jsonl --model-config text.json", 1, "text.json", "Traceback"),
    ("run e.jsonl --model-config nope.json", 1, "nope.json: No such file", "[Errno"),
    ("run e.jsonl --model-config model.json --block-bytes 2MiB", 1, "give one", "Traceback"),
    # Values.
    (
        "run e.jsonl --capacity ten",
        2,
        "--capacity: 'ten' is not a whole number such as 4096, 10k or 16Ki",
        "parse",
    ),
    ("run e.jsonl --capacity 0", 2, "--capacity: '0' is below 1", "Input should"),
    ("run e.jsonl --capacity", 2, "--capacity needs a value: --capacity BLOCKS", "requires"),
    (
        "run e.jsonl --block-bytes 2MX",
        2,
        "--block-bytes: '2MX' is not a size such as 4096, 100MB or 100MiB",
        "parse",
    ),
    ("run e.jsonl --block-tokens 1.5", 2, "--block-tokens: '1.5' is not a whole number", "parse"),
    (
        "run e.jsonl --summary-every soon",
        2,
        "--summary-every: 'soon' is not a duration such as 90s, 5m",
        "parse",
    ),
    ("run e.jsonl --speed -1", 2, "--speed: '-1' is not a number", "parse"),
    ("run e.jsonl --time-unit min", 2, "--time-unit: 'min' is not s, ms, us or ns", "Input"),
    ("run e.jsonl --engine vlm", 2, "--engine: 'vlm' is not lru or vllm; did you mean vllm?", "Input"),
    ("run e.jsonl --prefill-rate fast", 2, "--prefill-rate: 'fast' is not a number", "parse"),
    (
        "run e.jsonl --min-severity warnin",
        2,
        "--min-severity: 'warnin' is not info, warning or critical; did you mean warn",
        "Value error",
    ),
    ("run e.jsonl --fail-on bad", 2, "--fail-on: 'bad' is not info, warning or critical", "Value error"),
    ("run e.jsonl --output yaml", 2, "--output: 'yaml' is not text or json", "Value error"),
    ("run e.jsonl --output text --json", 1, "--json is short for --output json", "Traceback"),
    ("--color", 2, "--color needs a value: --color auto|always|never", "requires"),
    ("--quiet=1", 2, "Option '--quiet' does not take a value.", "Traceback"),
    ("fleet --help=all", 2, "Option '--help' does not take a value.", "Traceback"),
    ("run e.jsonl --color blue", 2, "--color: 'blue' is not auto, always or never", "Value error"),
    ("generate chess", 2, "WORKLOAD: 'chess' is not chat, scan, mixed or incidents", "Value error"),
    ("generate chat --events many", 2, "--events: 'many' is not a whole number", "parse"),
    ("generate chat --format xml", 2, "--format: 'xml' is not", "Value error"),
    ("record e.jsonl -o x.kvlog --rotate-mb big", 2, "--rotate-mb: 'big' is not a number", "parse"),
    ("record e.jsonl -o x.kvlog --keep 3", 1, "--rotate-mb or --rotate-minutes", "Traceback"),
    ("record e.jsonl -o x.kvlog --max-size 10XB", 2, "--max-size: '10XB' is not a size", "parse"),
    ("replay e.jsonl --to unix:s --wait long", 2, "--wait: 'long' is not a duration", "parse"),
    ("silence add --until yesterday", 2, "--until: 'yesterday' is no time such as 2027-01-01", "RFC"),
    ("silence add --until 2027-01-01T06:00:00", 2, "is no time such as 2027-01-01T06:00:00Z", "RFC"),
    ("mark deploy --at noon", 2, "--at: 'noon' is no time such as 2027-01-01T06:00:00Z", "RFC"),
    ("silence add --for long", 2, "--for: 'long' is not a duration such as 90s, 5m, 2h or 1d", "parse"),
    (
        "serve --listen unix:s --max-frame-bytes 1GiB",
        2,
        "--max-frame-bytes: '1GiB' is above 67,108,864",
        "Input",
    ),
    (
        "serve --listen unix:s --max-connections no",
        2,
        "--max-connections: 'no' is not a whole number",
        "parse",
    ),
    # Names of options and commands.
    ("run e.jsonl --min-level warn", 2, "did you mean --min-severity info|warning|critical?", "Possible"),
    ("run e.jsonl --capcity 8", 2, "no such option --capcity; did you mean --capacity BLOCKS?", "Possible"),
    ("run e.jsonl -x", 2, "no such option -x", "Traceback"),
    ("serve --port 9109", 2, "did you mean --http [HOST]:PORT?", "Possible"),
    ("serve --token secret", 2, "use --token-file FILE or $KVSTREAM_TOKEN", "Possible"),
    ("replay e.jsonl", 2, "--to is missing", "Missing"),
    ("generate", 2, "WORKLOAD is missing", "Missing"),
    ("convert e.jsonl out.kvlog more", 2, "unexpected: more", "Got unexpected"),
    ("rn e.jsonl", 2, "no such command rn; did you mean run?", "No such"),
    ("e.jsonl", 2, "no such command e.jsonl; did you mean kvstream run e.jsonl?", "No such"),
    ("silence ad", 2, "no such command ad; did you mean add?", "No such"),
    # Where results and alerts go.
    (
        "report e.jsonl -o day.pdf",
        1,
        "day.pdf: a report is .html, .md or .json, not .pdf",
        "characters about",
    ),
    ("report e.jsonl -o no/day.html", 1, "no/day.html: No such file", "Errno"),
    ("report", 2, "FILE: name a recording, or two with --compare A B", "Missing"),
    ("report --compare e.jsonl", 2, "--compare needs a value: --compare A B", "requires"),
    ("report --compare e.jsonl e.jsonk", 1, "did you mean e.jsonl?", "Errno"),
    ("report e.jsonl --compare 1m..2m 9..5", 1, "'9..5' ends before it begins", "Traceback"),
    ("report e.jsonl --compare noon..1 2..3", 1, "'noon..1' is no span: write START..END", "Traceback"),
    ("report e.jsonl --compare 1m..2m 5m..6m", 1, "nothing happened in this span", "Traceback"),
    ("report e.jsonl -o r.html --evictions e.txt", 1, ".parquet", "Traceback"),
    ("generate chat -o x.bin", 1, "--format", "Traceback"),
    ("run e.jsonl --alertmanager 127.0.0.1:9093", 1, "127.0.0.1:9093", "api/v2"),
    ("run e.jsonl --webhook example.com", 1, "example.com", "Traceback"),
    ("run e.jsonl --webhook https://me:pw@example.com/", 1, "this URL holds a secret", "Traceback"),
    ("run e.jsonl --slack https://hooks.slack.com/services/T0/B0/x", 1, "give --slack @FILE", "Traceback"),
    ("run e.jsonl --slack @nope", 1, "nope: No such file", "Errno"),
    ("run e.jsonl --webhook-secret-file empty", 1, "empty", "Traceback"),
    ("run e.jsonl --webhook http://h/ --webhook-secret-file e.jsonl", 1, "openssl rand -base64 32", "alloc"),
    ("run e.jsonl --apprise json://127.0.0.1/T0P", 1, "give --apprise @FILE", "T0P"),
    ("run e.jsonl --apprise @e.jsonl", 1, "https://appriseit.com/services", "alloc"),
    ("run e.jsonl --on-alert ./missing-pager.sh", 1, "missing-pager.sh", "Traceback"),
    ("run e.jsonl --alert-log no/alerts.jsonl", 1, "no/alerts.jsonl: No such file", "Errno"),
    ("run e.jsonl --webhook @", 1, "--webhook: no file is named after @", "directory"),
    ("run e.jsonl --webhook @empty", 1, "--webhook: empty is empty; write the URL to it", "scheme"),
    ("run e.jsonl --heartbeat", 1, "--alertmanager URL", "Traceback"),
    ("run e.jsonl --otlp collector", 1, "collector", "Traceback"),
    # Servers.
    ("serve", 1, "--from", "Traceback"),
    ("serve --listen unix:no/such/folder/s.sock", 1, "no/such/folder", '"summary"'),
    (
        "serve --listen zmq://127.0.0.1:1",
        1,
        "write unix:PATH, tcp://HOST:PORT or tls://HOST:PORT",
        '"summary"',
    ),
    ("serve --listen unix:s --http localhost", 1, "write HOST:PORT", '"summary"'),
    ("serve --listen unix:s --http 0.0.0.0:0", 1, "token", '"summary"'),
    ("serve --listen tls://127.0.0.1:0", 1, "certificate", '"summary"'),
    ("serve --listen tls://127.0.0.1:0 --tls-cert e.jsonl --tls-key e.jsonl", 1, "is not PEM", "_ssl"),
    ("serve --listen tls://127.0.0.1:0 --tls-cert nope --tls-key nope", 1, "nope: No such file", "_ssl"),
    ("serve --listen unix:e.jsonl", 1, "unix:e.jsonl: what is there is no socket", "in use"),
    ("serve --listen unix:s --state e.jsonl", 1, "e.jsonl: Not a directory", "exists"),
    ("serve --from zmq://vllm-0:65536", 1, "65536 is no port", '"summary"'),
    ("serve --from zmq://me:pw@vllm-0:5557", 1, "a name and password cannot be given", "pw"),
    ("serve --listen tcp://me:pw@127.0.0.1:0", 1, "is no endpoint", "pw"),
    ("serve --listen unix:s --http me:pw@127.0.0.1:0", 1, "no address to serve at", "pw"),
    ("serve --listen unix:s --engine-metrics a=http://[::1/metrics", 1, "a=http://[::1/metrics", '"summary"'),
    ("serve --listen unix:s --engine-metrics a=http://me:pw@h/metrics", 1, "a name and password", "pw"),
    ("serve --listen unix:s --engine-metrics a=http://h:0/metrics", 1, "0 is no port", '"summary"'),
    ("run ftp://me:pw@vllm-0/day", 1, "unknown scheme ftp", "pw"),
    ("run e.jsonl --otlp http://me:pw@collector:4318", 1, "a name and password cannot be given", "pw"),
    ("run e.jsonl --alertmanager http://me:pw@am:9093", 1, "give --alertmanager @FILE", "pw"),
    ("replay e.jsonl --to zmq://*:65536", 1, "65536 is no port", "addr="),
    ("replay e.jsonl --to zmq+ipc:///no/such/folder --wait 1", 1, "cannot bind: No such file", "addr="),
    ("replay e.jsonl --to zmq://nobody.invalid:1 --wait 0.1", 1, "nobody has subscribed", "Traceback"),
    ("bench --compare nope.json", 1, "nope.json: No such file", "Errno"),
    ("rules check deep.toml", 1, "deep.toml: no TOML that can be read", "recursion"),
    ("serve --from tcp://127.0.0.1:5557", 1, "tcp://127.0.0.1:5557", '"summary"'),
    ("serve --listen unix:s --engine-metrics vllm-0", 1, "SOURCE=http://HOST:PORT/metrics", '"summary"'),
    ("serve --listen unix:s --targets nope.json", 1, "nope.json", "Errno"),
    ("serve --listen unix:s --token-file nope", 1, "nope: No such file", "Errno"),
    ("replay e.jsonl --to 127.0.0.1:5560", 1, "127.0.0.1:5560", "+-----"),
    ("silence list --server :", 1, "write http://HOST:PORT", "refused"),
    ("silence list --server kv-1", 1, "write http://HOST:PORT", "Traceback"),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("line", "code", "has", "has_not"), CASES, ids=[case[0] for case in CASES])
def test_the_answer_to_a_mistake_names_it_and_what_to_write(kvstream, here, line, code, has, has_not):
    ran = kvstream(*line.split())
    assert ran.code == code
    assert has in ran.err
    assert has_not not in ran.err + ran.out
    assert ("--help' lists what it takes" in ran.err) is (code == 2)
    assert "Traceback" not in ran.err
    assert all(said.startswith(("kvstream: ", "malformed  ")) for said in ran.err.splitlines())


def test_of_errors_that_are_several_none_is_left_out():
    several = "Multiple exceptions: [Errno 111] Connect call failed ('::1', 9), [Errno 101] unreachable"
    assert lines_of(OSError(several)) == [several]


TAKEN = [
    "run e.jsonl --summary-every 99999999999d",
    "run e.jsonl --speed 1e99",
    "run e.jsonl --capacity 10k --block-bytes 2MiB --block-tokens 16",
    "run e.jsonl --min-severity WARN --fail-on crit --summary-every 5m",
    "run -q e.jsonl --output text --color never",
    "-q run e.jsonl --json",
    "generate chat --events 1k --blocks 1Ki --rate 20k -o -",
]


@pytest.mark.parametrize("line", TAKEN)
def test_units_short_words_and_options_of_every_command_are_taken(kvstream, here, line):
    ran = kvstream(*line.split())
    assert (ran.code, ran.err) == (0, "")
    assert ran.out


@pytest.mark.parametrize(
    ("arguments", "called"),
    [
        (["serve", "--listen", "unix:s", "--state", ""], "--state"),
        (["serve", "--listen", "unix:s", "--http="], "--http"),
        (["serve", "--from", "zmq://h:1", "--from", ""], "--from"),
        (["run", "e.jsonl", ""], "FILE"),
        (["run", "e.jsonl", "--rules", ""], "--rules"),
        (["report", "e.jsonl", "-o", ""], "--output"),
        (["convert", "", "out.kvlog"], "FROM"),
        (["rules", "check", ""], "FILE.toml"),
    ],
)
def test_an_empty_value_is_that_of_a_variable_that_is_not_set(kvstream, here, arguments, called):
    ran = kvstream(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert called in ran.err.splitlines()[0]
    assert "it is empty; is a variable of the shell not set?" in ran.err.splitlines()[0]
    assert len(ran.err.splitlines()) == 2
    assert kvstream("convert", "e.jsonl", "-", "--source", "").code == 0


def test_all_mistakes_are_said_at_once(kvstream, here):
    ran = kvstream("run", "e.jsonl", "--capacity", "x", "--engine", "y", "--nope", "--config", "type.toml")
    assert ran.code == 2
    for wanted in ("--capacity: 'x'", "--engine: 'y'", "--nope", "type.toml:2", "'kvstream run --help'"):
        assert wanted in ran.err
    ran = kvstream("run", "one", "two", "--rules", "rule.toml", env={"KVSTREAM_CAPACITY": "x"})
    assert ran.code == 1
    for wanted in ("one: No such file", "two: No such file", "rule.toml:1", "$KVSTREAM_CAPACITY: 'x'"):
        assert wanted in ran.err


def test_a_misspelt_variable_ends_a_command_and_not_its_help(kvstream, here):
    env = {"KVSTREAM_CAPCITY": "8"}
    ran = kvstream("run", "e.jsonl", env=env)
    assert ran.code == 1
    assert (
        ran.err
        == "kvstream: $KVSTREAM_CAPCITY is no variable of kvstream; did you mean $KVSTREAM_CAPACITY?\n"
    )
    assert kvstream("run", "--help", env=env).code == 0


@pytest.mark.parametrize("option", ["--listen", "--http"])
def test_a_port_in_use_is_said_in_one_line_without_figures(kvstream, here, option):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        scheme = "tcp://" if option == "--listen" else ""
        also = ["--listen", "unix:s"] if option == "--http" else []
        ran = kvstream("serve", option, f"{scheme}127.0.0.1:{port}", *also)
    assert (ran.code, ran.out) == (1, "")
    assert f"127.0.0.1:{port}" in ran.err
    assert ran.err.endswith("already in use; stop what listens there, or name another path or port\n")


def test_secrets_come_from_files_or_the_environment(kvstream, here):
    (here / "url").write_text("http://127.0.0.1:1/hook\n")
    (here / "secret").write_text(f"whsec_{'A' * 32}\n")
    ran = kvstream(
        "run", "e.jsonl", "--webhook", "@url", "--webhook-secret-file", "secret", "--slack", "@url"
    )
    assert ran.code == 0
    for variable in ("KVSTREAM_SLACK_URL", "KVSTREAM_APPRISE_URL"):
        assert kvstream("run", "e.jsonl", env={variable: "nowhere"}).code == 1


def test_text_is_possible_where_it_is_piped(kvstream, here):
    ran = kvstream("run", "e.jsonl", "--output", "text")
    assert "blocks live" in ran.out
    assert "\x1b" not in ran.out
    assert "\x1b" in kvstream("run", "e.jsonl", "--output", "text", "--color", "always").out
    assert "hit ratio" in kvstream("analyze", "e.jsonl", "--output", "text").out


def test_quiet_and_verbose_say_less_and_more(kvstream, here):
    (here / "bad.jsonl").write_text(EVENTS + "oops\n" * 30)
    assert len(kvstream("run", "bad.jsonl").of_type("malformed")) == 20
    assert len(kvstream("run", "bad.jsonl", "-v").of_type("malformed")) == 30
    ran = kvstream("run", "bad.jsonl", "-q")
    assert not ran.of_type("malformed")
    assert ran.results[-1]["accounts"]["malformed"] == 30
    assert not kvstream("report", "e.jsonl", "-o", "r.html", "-q").err
