"""Whole files: there or not, never half, never in place of another unasked."""

import os
import stat

import pytest

from kvstream.errors import ConfigError
from kvstream.sinks.output_file import refuse_inputs, whole_file


def write(path, text, force=False):
    with whole_file(path, force) as name, open(name, "w") as file:
        file.write(text)


def test_a_file_that_exists_is_kept_unless_forced(tmp_path):
    path = tmp_path / "out.md"
    write(path, "first")
    with pytest.raises(ConfigError, match="--force"):
        write(path, "second")
    assert path.read_text() == "first"
    path.chmod(0o640)
    write(path, "second", force=True)
    assert path.read_text() == "second"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["out.md"]


def test_an_error_leaves_nothing_and_takes_nothing(tmp_path):
    path = tmp_path / "out.md"
    for before in ([], ["out.md"]):
        with pytest.raises(RuntimeError):
            with whole_file(path, force=True) as name:
                with open(name, "w") as file:
                    file.write("half")
                raise RuntimeError
        assert os.listdir(tmp_path) == before
        path.write_text("whole")
        assert path.read_text() == "whole"


def test_a_file_that_comes_meanwhile_is_kept(tmp_path):
    path = tmp_path / "out.md"
    with pytest.raises(ConfigError, match="exists"):
        with whole_file(path, force=False) as name:
            path.write_text("theirs")
            with open(name, "w") as file:
                file.write("ours")
    assert path.read_text() == "theirs"
    assert os.listdir(tmp_path) == ["out.md"]


def test_a_link_stays_a_link(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write(link, "new", force=True)
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_pipes_and_devices_are_written_to_as_they_are(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, "/dev/null", "/dev/stdout"):
        with whole_file(path, force=False) as name:
            assert name == str(path)


@pytest.mark.parametrize("way", ["itself", "symbolic", "hard", "descriptor"])
def test_an_output_that_is_an_input_is_refused_by_any_name(tmp_path, way):
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_text("events")
    descriptor = os.open(path, os.O_RDONLY)
    if way == "symbolic":
        other.symlink_to(path)
    elif way == "hard":
        other.hardlink_to(path)
    else:
        other = path if way == "itself" else descriptor
    with pytest.raises(ConfigError, match="is the input"):
        refuse_inputs(other, ["zmq://a:1", "-", str(path)])
    os.close(descriptor)
    refuse_inputs(tmp_path / "new", [str(path)])
    refuse_inputs("/dev/null", ["/dev/null"])


def test_a_working_directory_that_is_gone_is_an_error_with_the_name(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError) as failed, whole_file("x.jsonl", force=False):
        pass
    monkeypatch.chdir(tmp_path)
    assert failed.value.filename == "x.jsonl"
