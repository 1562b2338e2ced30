"""What README.md says of several machines, and the file of hosts that it speaks of."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil

import gemma4_mlx as g4

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def hosts(folder, *names):
    """A file as ``mlx.distributed_config`` writes it, of machines that are all this one."""
    file = folder / "hosts.json"
    file.write_text(json.dumps([{"ssh": name, "ips": ["127.0.0.1"]} for name in names]))
    return file


def test_the_example_runs(tmp_path, free_ports, monkeypatch):
    """With a file that names this machine twice, and the teaching model."""
    monkeypatch.chdir(tmp_path)
    hosts(tmp_path, "127.0.0.1", "127.0.0.1")
    example = re.search(r"<!-- cluster -->\s*```python\n(.*?)```", README, re.S)[1]
    seen = {}

    def load(name, cluster):
        seen[name] = g4.load(cluster=cluster)
        seen["answer"] = g4.Chat(seen[name]).send("Count from 3 to 6.", temperature=0).text
        seen["shown"] = repr(cluster)
        return seen[name]

    def cluster(file):
        return g4.cluster(file, port=free_ports(2))

    names = {"g4": SimpleNamespace(load=load, fit=g4.fit, cluster=cluster)}
    exec(example, names)
    assert seen["answer"] == g4.Chat(g4.load()).send("Count from 3 to 6.", temperature=0).text
    assert "rank 1" in seen["shown"] and names["cluster"].over


def test_other_machines_are_started_over_ssh_and_the_key_is_in_no_command(
    tmp_path, free_ports, monkeypatch
):
    """A program named ssh that runs the command here stands for the way to another machine."""
    said = tmp_path / "said"
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/bash\necho "$@" >> {said}\nexec bash -c "${{@: -1}}"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(ssh.parent), prepend=":")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    file = hosts(tmp_path, "here", "mac-two")
    with g4.cluster(file, port=free_ports(2), env=["OPENBLAS_NUM_THREADS=1"]) as cluster:
        assert g4.load(cluster=cluster)([[5, 6]]).shape == (1, 2, 2048)
        command = " ".join(psutil.Process(cluster.members[0].process.process.pid).cmdline())
        assert "machines.worker 127.0.0.1" in command and not re.search("[0-9a-f]{32}", command)
        assert cluster.members[0].host == "mac-two" and "mac-two" in repr(cluster)
    started, *ended = said.read_text().splitlines()
    assert started.startswith("-tt") and "mac-two" in started and sys.executable in started
    assert not re.search("[0-9a-f]{32}", started)
    assert len(ended) == 1 and "kill" in ended[0]


def test_figures_are_the_planners():
    plan = g4.fit("26b-a4b", bits=4, machines=[24, 24])
    messages, megabytes = re.search(r"takes (\d+) messages, ([\d.]+) MB in all", README).groups()
    assert plan.traffic[0].messages == int(messages)
    assert round(plan.traffic[0].nbytes / 1e6, 1) == float(megabytes)
