"""Decoders open no socket and no other file, whatever the bytes say they are."""

import ctypes
import itertools
import os
import platform
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from waiting import PATIENCE

from gemma4_mlx.errors import MediaError
from gemma4_mlx.processing import containers
from gemma4_mlx.processing.audio import load_audio
from gemma4_mlx.processing.video import load_video

SCRIPT = Path(__file__).with_name("fenced.py")
linux = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="sockets and opened files are watched by Linux's seccomp and inotify",
)


class Opened:
    """Names of the files of a folder that anybody opens (inotify)."""

    def __init__(self, folder):
        self.libc = ctypes.CDLL(None)
        self.fd = self.libc.inotify_init1(os.O_NONBLOCK)
        assert self.libc.inotify_add_watch(self.fd, str(folder).encode(), 0x20) >= 0  # IN_OPEN

    def names(self):
        found = []
        try:
            data = os.read(self.fd, 1 << 20)
        except BlockingIOError:
            return found
        while data:
            size = struct.unpack_from("iIII", data)[3]
            found.append(data[16 : 16 + size].rstrip(b"\0").decode())
            data = data[16 + size :]
        return found


def run(folder, how):
    """The exit status of fenced.py and the files it opened outside after it was set up."""
    outside = folder / "outside"
    outside.mkdir()
    soundfile.write(outside / "secret.wav", np.zeros(16_000, np.float32), 16_000)
    opened = Opened(outside)
    command = [sys.executable, str(SCRIPT), str(folder), how]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        opened.names()
        printed = process.communicate("go\n", timeout=PATIENCE)[0]
    return process.returncode, opened.names(), printed


@linux
def test_nothing_is_opened_but_what_was_given(tmp_path):
    status, opened, printed = run(tmp_path, "fenced")
    assert status == 0, printed
    assert opened == []
    assert int(printed.split("refused ")[1]) >= 244


@linux
def test_the_watch_sees_a_socket(tmp_path):
    assert run(tmp_path, "socket")[0] == -31  # SIGSYS


@linux
def test_the_watch_sees_a_file(tmp_path):
    assert "secret.wav" in run(tmp_path, "file")[1]


@pytest.mark.parametrize("kind", ["HTK", "MAT4", "SDS", "VOC", "XI"])
def test_sound_formats_nobody_needs_are_refused(kind, tmp_path):
    path = tmp_path / "sound"
    subtype = "PCM_16" if kind not in ("SDS", "XI") else soundfile.default_subtype(kind)
    soundfile.write(path, np.zeros(16_000), 16_000, format=kind, subtype=subtype)
    with pytest.raises(MediaError, match="not read here"):
        load_audio(path)


def test_raw_samples_say_that_they_are_no_sound_file(tmp_path):
    path = tmp_path / "sound.raw"
    path.write_bytes(bytes(1000))
    with pytest.raises(MediaError, match="no sound"):
        load_audio(path)


def test_a_file_too_large_is_not_opened(tmp_path, monkeypatch):
    path = tmp_path / "film.mp4"
    path.write_bytes(bytes(100))
    monkeypatch.setattr(containers, "MAX_BYTES", 99)
    with pytest.raises(MediaError, match="100 bytes, more than 99"):
        load_video(path)


def test_reading_ends_at_a_deadline(tmp_path, monkeypatch):
    av = pytest.importorskip("av")
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width = stream.height = 64
        for _ in range(24):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert load_video(path).total == 24
    clock = itertools.count(0, 100)
    monkeypatch.setattr(containers.time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(MediaError, match="not read after 600 s"):
        load_video(path)
