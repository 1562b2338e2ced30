"""``cluster``: start the other machines through MLX's launcher, or join those it has started."""

import atexit
import json
import os
import queue
import secrets
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import (
    Client,
    Connection,
    Listener,
    answer_challenge,
    deliver_challenge,
)
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx._distributed_utils.common import Host, Hostfile
from mlx._distributed_utils.launch import RemoteProcess

from .. import __version__
from ..errors import ClusterError
from ..model.parallel import Together
from .code import code
from .leader import Cluster, Member, end_process, forget_group
from .messages import Channel, Message

#: Seconds in which all machines must have come.
START = 60.0
#: Port of rank 0 in MLX's ring, as ``mlx.launch`` chooses it; each next address has the next.
PORT = 32323
_WORKER = "gemma4_mlx.machines.worker"

_current: Cluster | None = None


def cluster(
    where: int | str | Path | None = None,
    *,
    backend: str | None = None,
    python: str | None = None,
    port: int = PORT,
    env: Sequence[str] = (),
    wait: float = START,
) -> Cluster:
    """Start the machines that compute a model together with this one, which is rank 0.

    Args:
        where: a file of hosts as ``mlx.launch --hostfile`` and ``mlx.distributed_config`` have it
            (rank 0, this machine, is the first), started over ssh. Or a number of processes on
            this machine, for trying. None: in a script that ``mlx.launch`` runs on every machine;
            there the call returns on rank 0 alone, the others follow it until it ends.
        backend: ``"ring"`` (TCP) or ``"jaccl"`` (RDMA over Thunderbolt 5); None: what the file
            says, else the ring.
        python: the interpreter on the other machines; by default this one's path.
        port: the first port of the ring on the named addresses. Local processes take free ones.
        env: ``NAME=value`` for the other machines, beside the file's ``envs``.
        wait: seconds in which all must have come.

    Only the addresses that ``where`` names are opened. The traffic is not encrypted: use a network
    that nobody else is on, such as a Thunderbolt cable.

    Raises:
        ClusterError: a file that is none, a machine that does not come, runs another version or
            cannot join, each named; or a cluster that is open already.
    """
    global _current
    if _current is not None and not _current.over:
        raise ClusterError("one cluster at a time: close() the one that is open")
    if where is None:
        _current = _join_launched()
    else:
        hosts, backend = _hosts(where, backend)
        local = isinstance(where, int)
        hosts.envs = [*(_this_package() if local else ()), *hosts.envs, *env]
        _current = _start(hosts, backend, python or sys.executable, None if local else port, wait)
    atexit.register(_current.close)
    return _current


def _hosts(where: int | str | Path, backend: str | None) -> tuple[Hostfile, str]:
    if isinstance(where, int):
        if where < 2:
            raise ClusterError(f"a cluster has 2 machines or more, not {where}")
        hosts = Hostfile.from_list("127.0.0.1", where)
    else:
        try:
            hosts = Hostfile.from_file(where)
        except ValueError as error:
            raise ClusterError(f"{error}; see `mlx.distributed_config`") from None
    backend = backend or hosts.backend or "ring"
    if backend not in ("ring", "jaccl"):
        raise ClusterError(f"backend is {backend!r}; expected 'ring' or 'jaccl'")
    if len(hosts.hosts) < 2:
        raise ClusterError(f"{where} names {len(hosts.hosts)} machine; a cluster has 2 or more")
    for host in hosts.hosts if backend == "ring" else hosts.hosts[:1]:
        if not host.ips:
            raise ClusterError(f"{where}: host {host.ssh_hostname} has no address in 'ips'")
    return hosts, backend


def _this_package() -> list[str]:
    """The environment in which processes on this machine find the package that runs here."""
    places = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return ["PYTHONPATH=" + os.pathsep.join(filter(None, places))]


def _start(hosts: Hostfile, backend: str, python: str, port: int | None, wait: float) -> Cluster:
    ring = _ring_addresses(hosts.hosts, port)
    files, env = _told_by_launcher(hosts, backend, ring)
    key = secrets.token_bytes(32)
    home = hosts.hosts[0].ips[0]
    members = [Member(host.rank, host.ssh_hostname) for host in hosts.hosts[1:]]
    with _listening(home, key, len(members)) as (address, came):
        try:
            for member in members:
                command = ["-u", "-P", "-m", _WORKER, home, str(address[1])]
                member.process = RemoteProcess(
                    member.rank, member.host, python, None, files, env, command
                )
                _read_output(member)
                with suppress(OSError):  # one that has ended already is named below
                    member.process.process.stdin.write(key.hex().encode() + b"\n")
                    member.process.process.stdin.flush()
            _meet(members, came, time.monotonic() + wait)
            together = _join_ring(members, backend, files, env, time.monotonic() + wait)
        except BaseException:
            for member in members:
                if member.channel is not None:
                    member.channel.close()
                end_process(member)
            raise
    return Cluster(together, members, [a for node in ring for a in node])


def _ring_addresses(hosts: list[Host], port: int | None) -> list[list[tuple[str, int]]]:
    """Each rank's addresses in the ring: ports in sequence, or where ``port`` is None free ones."""
    addresses, open_ones = [], []
    for host in hosts:
        node = []
        for ip in host.ips:
            if port is None:
                open_ones.append(socket.create_server((ip, 0)))
                node.append((ip, open_ones[-1].getsockname()[1]))
            else:
                node.append((ip, port))
                port += 1
        addresses.append(node)
    for one in open_ones:
        one.close()
    return addresses


def _told_by_launcher(hosts: Hostfile, backend: str, ring: list) -> tuple[dict, list[str]]:
    """The files and the environment through which ``mlx.launch`` tells a backend who is where."""
    if backend == "ring":
        nodes = [[f"{ip}:{port}" for ip, port in node] for node in ring]
        return {"MLX_HOSTFILE": json.dumps(nodes)}, list(hosts.envs)
    devices = [host.rdma for host in hosts.hosts]
    coordinator = ":".join(map(str, ring[0][0]))
    env = [*hosts.envs, f"MLX_JACCL_COORDINATOR={coordinator}"]
    return {"MLX_IBV_DEVICES": json.dumps(devices)}, env


@contextmanager
def _listening(ip: str, key: bytes, number: int) -> Iterator[tuple]:
    """An address and a queue of the channels that come there and know the key.

    Whoever comes proves it in a thread of its own: one that says nothing keeps nobody else out.
    """
    try:
        listener = Listener((ip, 0), family="AF_INET", backlog=2 * number)
    except OSError as error:
        raise ClusterError(
            f"rank 0 cannot listen at {ip}: {error.strerror}; the first host is this machine"
        ) from None
    came: queue.SimpleQueue = queue.SimpleQueue()
    over, strangers = threading.Event(), set()

    def prove(connection: Connection) -> None:
        try:
            deliver_challenge(connection, key)
            answer_challenge(connection, key)
            strangers.discard(connection)
            came.put(Channel(connection))
        except (AuthenticationError, EOFError, OSError):
            connection.close()

    def accept() -> None:
        while not over.is_set():
            with suppress(OSError):
                connection = listener.accept()
                strangers.add(connection)
                threading.Thread(target=prove, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.address, came
    finally:
        over.set()
        with suppress(OSError):  # a last one, so that accept() returns
            socket.create_connection(listener.address, 1).close()
        thread.join(2)
        listener.close()
        for connection in list(strangers):
            with suppress(OSError):  # closed, for it knew another key
                Channel(connection).close()


def _read_output(member: Member) -> None:
    """Keep the last lines that a process prints; its first line is for MLX's launcher."""

    def read(stream, is_stdout: bool) -> None:
        for line in stream:
            text = line.decode(errors="replace")
            if is_stdout:
                text = member.process.preprocess_output(text, True)
            if text.strip():
                member.last_lines.append(text.strip())

    process = member.process.process
    for stream in (process.stdout, process.stderr):
        of = (stream, stream is process.stdout)
        threading.Thread(target=read, args=of, daemon=True).start()


def _meet(members: list[Member], came: queue.SimpleQueue, end: float) -> None:
    """Wait until every machine has come and said that it is of the same version."""
    missing = {member.rank: member for member in members}
    while missing:
        try:
            channel = came.get(timeout=0.2)
        except queue.Empty:
            for member in missing.values():
                if member.process and (code_ := member.process.process.poll()) is not None:
                    time.sleep(0.3)  # its last words are being read
                    raise ClusterError(
                        f"{member} could not be started, it ended with code {code_}: "
                        + (" / ".join(list(member.last_lines)[-3:]) or "without a word")
                    ) from None
            if time.monotonic() > end:
                names = ", ".join(map(str, missing.values()))
                raise ClusterError(
                    f"{names} did not come in time. Does it reach this machine's address, and, if "
                    "started over ssh, does `ssh` reach it without a password?"
                ) from None
            continue
        hello = _received(channel, "hello", end)
        member = missing.pop(hello.get("rank"), None)
        if member is None:
            channel.close()
            continue
        member.channel, member.room = channel, hello["room"]
        _check_version(member, hello)


def _received(channel: Channel, what: str, end: float) -> dict:
    """The values of a machine's next message, which must be ``what``; none if it is not."""
    channel.deadline(max(0.1, end - time.monotonic()))
    data = channel.receive()
    channel.deadline(None)
    if data is None:
        return {}
    message = Message.unpacked(data)
    return dict(message.values) if message.what == what else {}


def _check_version(member: Member, hello: dict) -> None:
    for name, theirs, ours in (
        ("gemma4-mlx", hello["version"], __version__),
        ("MLX", hello["mlx"], mx.__version__),
    ):
        if theirs != ours:
            raise ClusterError(f"{member} has {name} {theirs}, this machine {ours}")
    if hello["code"] != code():
        raise ClusterError(
            f"{member} has gemma4-mlx {__version__} as well, but other files of it: install the "
            "same on all machines"
        )


def _join_ring(
    members: list[Member], backend: str, files: dict, env: list[str], end: float
) -> Together:
    """MLX's group of all machines. Raises ClusterError if it does not come about in time."""
    for member in members:
        member.channel.send(Message("join", {"backend": backend}).packed())
    found: queue.SimpleQueue = queue.SimpleQueue()

    def join() -> None:
        try:
            forget_group()
            with _environment(files, env):
                found.put(mx.distributed.init(strict=True, backend=backend))
        except RuntimeError as error:
            found.put(error)

    threading.Thread(target=join, daemon=True).start()
    while True:
        with suppress(queue.Empty):
            group = found.get(timeout=0.2)
            break
        gone = [str(m) for m in members if m.process and m.process.process.poll() is not None]
        if gone or time.monotonic() > end:
            who = ", ".join(gone) or "some machine"
            raise ClusterError(f"{who} could not join MLX's {backend}: are its ports reachable?")
    if isinstance(group, RuntimeError):
        raise ClusterError(f"this machine could not join MLX's {backend}: {group}")
    for member in members:
        _received(member.channel, "joined", end)
    return Together(group)


@contextmanager
def _environment(files: dict, env: list[str]) -> Iterator[None]:
    """What MLX reads when it makes a group, for rank 0: files by name, and variables."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.write_text(content)
            os.environ[name] = str(path)
        os.environ["MLX_RANK"] = "0"
        for pair in env:
            name, _, value = pair.partition("=")
            os.environ[name] = value
        try:
            yield
        finally:
            for name in os.environ.keys() - before.keys():
                del os.environ[name]
            os.environ.update(before)


def _join_launched() -> Cluster:
    """In a script of ``mlx.launch``: rank 0's cluster; the other ranks do not return."""
    from .worker import Worker, follow

    if "MLX_RANK" not in os.environ:
        raise ClusterError(
            "cluster() joins what `mlx.launch script.py` started; elsewhere say where: a file of "
            "hosts, or a number of local processes"
        )
    together = Together(mx.distributed.init(strict=True))
    if together.size < 2:
        raise ClusterError("mlx.launch started one process; a cluster has 2 or more")
    home, ring = _launched_home()
    key = secrets.token_bytes(32)
    members = [Member(rank, f"rank {rank}") for rank in range(1, together.size)]
    if together.rank == 0:
        with _listening(home, key, len(members)) as (address, came):
            _shared(together, np.frombuffer(key, np.uint8))
            _shared(together, np.array([address[1]], np.uint32))
            _meet(members, came, time.monotonic() + START)
        return Cluster(together, members, ring)
    key = _shared(together, np.zeros(32, np.uint8)).tobytes()
    port = int(_shared(together, np.zeros(1, np.uint32))[0])
    channel = Channel(Client((home, port), family="AF_INET", authkey=key))
    worker = Worker(channel)
    worker.hello(together.rank)
    follow(channel, together, worker)
    os._exit(0)


def _shared(together: Together, x: np.ndarray) -> np.ndarray:
    """Rank 0's array; the others give zeros."""
    return np.array(together.sum(mx.array(x)))


def _launched_home() -> tuple[str, list[tuple[str, int]]]:
    """Rank 0's address, and all of the ring's, as ``mlx.launch`` told them."""
    if file := os.environ.get("MLX_HOSTFILE"):
        nodes = json.loads(Path(file).read_text())
        split = [one.rsplit(":", 1) for node in nodes for one in node]
        return split[0][0], [(ip, int(port)) for ip, port in split]
    return os.environ["MLX_JACCL_COORDINATOR"].rsplit(":", 1)[0], []
