"""A machine that dies, hangs or differs is named here, the others are released, nothing stays."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path

import psutil
import pytest
import tiny
from waiting import PATIENCE, until

import gemma4_mlx as g4
from gemma4_mlx.errors import ClusterError
from gemma4_mlx.machines import leader, starting

ROOT = Path(__file__).parent.parent.parent
ONE_THREAD = ["OPENBLAS_NUM_THREADS=1"]


def processes(cluster):
    return [psutil.Process(member.process.process.pid) for member in cluster.members]


def ended(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def long_work(model):
    for _ in range(100_000):
        model([[5, 6, 7]])


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_machine_is_named_and_the_kernel_goes_on(how, monkeypatch):
    monkeypatch.setattr(leader, "SILENT", 4.0)
    cluster = g4.cluster(2, env=ONE_THREAD)
    model, followers = g4.load(cluster=cluster), processes(cluster)
    threading.Timer(0.5, followers[0].send_signal, [how]).start()
    named = "gone, its process was ended by SIGKILL" if how == signal.SIGKILL else "it hangs"
    with pytest.raises(ClusterError, match=rf"rank 1 \(127.0.0.1\).*{named}"):
        long_work(model)
    began = time.monotonic()
    with pytest.raises(ClusterError, match=named):
        model([[5]])
    assert cluster.over and named in repr(cluster) and time.monotonic() - began < 30
    until(lambda: all(map(ended, followers)), "the end of all others")
    assert g4.load()([[5, 6]]).shape == (1, 2, 2048)  # what is here alone computes as ever
    # In the engine, too, and in a new cluster of the same kernel.
    with g4.cluster(2, env=ONE_THREAD) as cluster:
        model, followers = g4.load(cluster=cluster), processes(cluster)
        threading.Timer(0.5, followers[0].kill).start()
        with pytest.raises(ClusterError, match="rank 1"):
            while True:
                g4.Chat(model).send("Count from 3 to 6.", temperature=0)
    assert g4.Chat(g4.load()).send("Count from 3 to 6.", temperature=0).text


def test_one_of_three_dies_and_the_third_is_released(tmp_path):
    folder = tiny.save(tmp_path / "m", tiny.CONFIG, tiny.weights(tiny.CONFIG))
    with g4.cluster(3, env=ONE_THREAD) as cluster:
        model, followers = g4.load(folder, cluster=cluster), processes(cluster)
        followers[1].kill()
        with pytest.raises(ClusterError, match="rank 2"):
            long_work(model)
        until(lambda: all(map(ended, followers)), "the end of all others")


def test_caches_that_came_apart_are_told():
    """What was put into an entry here alone is not in the others' parts."""
    with g4.cluster(2, env=ONE_THREAD) as cluster:
        model = g4.load(cluster=cluster)
        cache = model.make_cache()
        model([[5, 6, 7]], cache)
        for entry in cache:
            entry.offset -= 1
        with pytest.raises(ClusterError, match=r"rank 1 .* not at rank 0's position"):
            model([[8]], cache)


def test_followers_end_with_the_kernel(tmp_path):
    kernel = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import gemma4_mlx as g4, time\n"
            "cluster = g4.cluster(2)\n"
            "model = g4.load(cluster=cluster)\n"
            "print(*(m.process.process.pid for m in cluster.members), flush=True)\n"
            "while True: model([[5, 6, 7]])\n",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
    )
    followers = [psutil.Process(int(pid)) for pid in kernel.stdout.readline().split()]
    assert len(followers) == 1 and not any(map(ended, followers))
    kernel.kill()
    kernel.wait()
    kernel.stdout.close()
    until(lambda: all(map(ended, followers)), "the end of the kernel's followers")


def test_a_kernel_that_ends_normally_ends_quietly():
    run = subprocess.run(
        [sys.executable, "-c", "import gemma4_mlx as g4; c = g4.cluster(2); g4.load(cluster=c)"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
    )
    assert (run.returncode, run.stdout) == (0, "") and "terminate" not in run.stderr


def test_another_version_is_named(tmp_path):
    shutil.copytree(ROOT / "gemma4_mlx", tmp_path / "gemma4_mlx")
    file = tmp_path / "gemma4_mlx" / "__init__.py"
    text = file.read_text()
    file.write_text(text.replace(f'__version__ = "{g4.__version__}"', '__version__ = "0.0.9"'))
    with pytest.raises(ClusterError, match=r"rank 1 .* has gemma4-mlx 0.0.9, this machine"):
        g4.cluster(2, env=[f"PYTHONPATH={tmp_path}"])
    file.write_text(text + "# a change\n")
    with pytest.raises(ClusterError, match="other files of it"):
        g4.cluster(2, env=[f"PYTHONPATH={tmp_path}"])


def test_another_checkpoint_is_named(tmp_path, monkeypatch):
    weights = tiny.weights(tiny.CONFIG)
    tiny.save(tmp_path / "here" / "m", tiny.CONFIG, weights)
    name = "language_model.model.norm.weight"
    tiny.save(tmp_path / "there" / "m", tiny.CONFIG, weights | {name: weights[name] + 1})
    (tmp_path / "there" / "n").mkdir()
    tiny.save(tmp_path / "here" / "n", tiny.CONFIG, weights)
    monkeypatch.chdir(tmp_path / "there")  # where the others look for a relative path
    with g4.cluster(2, env=ONE_THREAD) as cluster:
        monkeypatch.chdir(tmp_path / "here")
        with pytest.raises(ClusterError, match=r"rank 1 .* found another checkpoint"):
            g4.load("m", cluster=cluster)
        with pytest.raises(ClusterError, match=r"rank 1 .* could not load the model: .*config"):
            g4.load("n", cluster=cluster)
        assert g4.load(cluster=cluster)([[5]]).shape == (1, 1, 2048)


def test_machines_that_do_not_come_are_named(tmp_path):
    with pytest.raises(ClusterError, match=r"rank 1 .* could not be started.*No such file"):
        g4.cluster(2, python="/nowhere/python")
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexec sleep 1000\n")
    silent.chmod(0o755)
    with pytest.raises(ClusterError, match=r"rank 1 \(127.0.0.1\) did not come in time"):
        g4.cluster(2, python=str(silent), wait=2)
    assert not [
        child for child in psutil.Process().children(recursive=True) if "sleep" in child.name()
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "Failed to parse"),
        ('{"hosts": [{"ssh": "a", "ips": ["127.0.0.1"]}]}', "names 1 machine"),
        ('[{"ssh": "a", "ips": ["127.0.0.1"]}, {"ssh": "b"}]', "host b has no address"),
        ('{"backend": "mpi", "hosts": []}', "expected 'ring' or 'jaccl'"),
        ('[{"ssh": "a", "ips": ["192.0.2.1"]}, {"ssh": "b", "ips": ["192.0.2.2"]}]', "listen at"),
    ],
)
def test_a_bad_file_of_hosts_is_told(content, told, tmp_path):
    file = tmp_path / "hosts.json"
    file.write_text(content)
    with pytest.raises(ClusterError, match=told):
        g4.cluster(file)
    with pytest.raises(ClusterError, match="2 machines or more"):
        g4.cluster(1)
    with pytest.raises(ClusterError, match="doesn't exist"):
        g4.cluster(tmp_path / "none.json")
    with pytest.raises(ClusterError, match=r"mlx\.launch"):
        g4.cluster()


def test_a_stranger_keeps_nobody_out():
    """One that comes first and says nothing, one that knows another key, and then a machine."""
    key = b"a key of this cluster"
    with starting._listening("127.0.0.1", key, 1) as (address, came):
        silent = socket.create_connection(address)
        with pytest.raises(AuthenticationError):
            Client(address, authkey=b"another one")
        member = Client(address, authkey=key)
        channel = came.get(timeout=PATIENCE)
        member.send_bytes(b"here")
        assert channel.receive() == b"here" and came.empty()
    silent.settimeout(PATIENCE)
    while silent.recv(1000):  # the question that it never answered, and then the end
        pass
    channel.close()
