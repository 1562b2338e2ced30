"""What every rank but the first runs: it follows rank 0's messages until that ends.

    python -m gemma4_mlx.machines.worker ADDRESS PORT < KEY

is how :func:`gemma4_mlx.cluster` starts it, through MLX's launcher. The key that proves to rank 0
that it is one of its own comes over standard input, which no list of processes shows.
"""

import os
import platform
import queue
import signal
import sys
import threading
import time
from multiprocessing.connection import Client

from .. import __version__
from ..checkpoints.loading import load_part
from ..checkpoints.machine import this_machine
from ..errors import ClusterError
from ..generation.entries import copy_entry, shortened_layer
from ..model.parallel import Together, named_call
from ..model.scores import ScoreChange
from .code import code
from .messages import Channel, Message

import mlx.core as mx  # isort: skip
import numpy as np

#: Seconds without a word from rank 0 after which a machine ends: its network or machine is gone.
DESERTED = 60.0


class Worker:
    """Follows rank 0 over a channel."""

    def __init__(self, channel: Channel):
        self._channel = channel
        self._messages: queue.SimpleQueue = queue.SimpleQueue()
        self._models: dict[int, object] = {}
        self._calls: dict[tuple, object] = {}
        self._entries: dict[int, list] = {}
        self._copies: dict[int, dict] = {}
        self._doing, self._heard = "starting", time.monotonic()
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()

    def hello(self, rank: int) -> None:
        """Say who this is."""
        values = dict(
            rank=rank, version=__version__, mlx=mx.__version__, code=code(), pid=os.getpid(),
            python=platform.python_version(), room=this_machine().usable,
        )  # fmt: skip
        self._channel.send(Message("hello", values).packed())

    def wait_for(self, what: str) -> Message:
        """The next message, which must be ``what``. Raises ClusterError."""
        message = Message.unpacked(self._messages.get())
        if message.what != what:
            raise ClusterError(f"{message.what!r} came, {what!r} was due")
        return message

    def follow(self, together: Together) -> None:
        """Do what rank 0 says until it says that it is over."""
        self._together = together
        together.shown = lambda: self._channel.send(Message("shown").packed())
        commands = {
            name.removeprefix("_do_"): getattr(self, name)
            for name in dir(self)
            if name.startswith("_do_")
        }
        self._doing = "waiting"
        while True:
            message = Message.unpacked(self._messages.get())
            if message.what == "end":
                return
            self._doing = "computing"
            commands[message.what](message)
            self._doing = "waiting"

    def _listen(self) -> None:
        while (data := self._channel.receive()) is not None:
            self._heard = time.monotonic()
            if Message.is_named(data, "status"):
                status = {"memory": mx.get_active_memory(), "doing": self._doing}
                try:
                    self._channel.send(Message("status", status).packed())
                except ClusterError:
                    break
            else:
                self._messages.put(data)
        os._exit(0)  # rank 0 is gone, and what is under way would wait for it without end

    def _watch(self) -> None:
        while time.monotonic() - self._heard < DESERTED:
            time.sleep(1)
        os._exit(1)

    # What rank 0 says

    def _do_load(self, message: Message) -> None:
        self._doing = "loading"
        try:
            values = message.values
            how = values["how"]
            model = load_part(self._together, values["path_or_repo"], values["room"], **how)
            answer = Message("loaded", {"fingerprint": model.fingerprint})
        except Exception as error:
            answer = Message("failed", {"error": str(error)})
        self._channel.send(answer.packed())
        number = self.wait_for("keep").values["model"]
        if number is not None:
            self._models[number] = model

    def _do_cache(self, message: Message) -> None:
        values = message.values
        made = self._models[values["model"]].make_cache(**values["how"])
        self._entries[values["number"]] = made

    def _do_hidden(self, message: Message) -> None:
        self._run(message, "hidden")

    def _do_read(self, message: Message) -> None:
        self._run(message, "read")

    def _run(self, message: Message, name: str) -> None:
        values, given = message.values, dict(message.arrays)
        model, cache = self._models[values["model"]], self._entries.get(values["cache"])
        if [entry.offset for entry in cache or ()] != values["offsets"]:
            raise ClusterError("its part of the cache is not at rank 0's position")
        observers = [self._follower(model, values["changed"])] if values["watched"] else []
        with self._together.running(), model.observe(*observers):
            getattr(model, name)(given.pop("tokens"), cache, **given)
        mx.eval([entry.state for entry in cache or () if not entry.empty()])

    def _follower(self, model, changed: bool):
        """What stands at the taps for rank 0's observers. Where each machine has some layers, these
        are shown to it; where each has a part of all, it has seen them itself."""
        staged = hasattr(model.language_model.model, "stages")

        def follow(name, layer, value, geometry):
            if staged and layer is not None:
                values = {"name": name, "placed": geometry is not None}
                self._channel.send(Message("seen", values, {"value": value}).packed())
            if not changed:
                return None
            told = self.wait_for("tap")
            pairs = zip(told.values["heads"], told.values["amounts"])
            for i, (heads, amount) in enumerate(pairs):
                queries = _positions(told.arrays[f"queries{i}"], geometry.query_start)
                keys = _positions(told.arrays[f"keys{i}"], geometry.key_start)
                geometry.changes.append(ScoreChange(tuple(heads), queries, keys, amount))
            return told.arrays.get("value")

        return follow

    def _do_call(self, message: Message) -> None:
        key = message.values["model"], message.values["name"]
        if key not in self._calls:
            self._calls[key] = named_call(self._models[key[0]], key[1])
        with self._together.running():
            self._calls[key](message.arrays["x"])

    def _entry(self, key: list):
        return self._entries[key[0]][key[1]]

    def _do_rewind(self, message: Message) -> None:
        self._entry(message.values["key"]).rewind(*message.values["arguments"])

    def _do_trim(self, message: Message) -> None:
        self._entry(message.values["key"]).trim(*message.values["arguments"])

    def _do_copy(self, message: Message) -> None:
        copy_entry(self._entry(message.values["key"]), self._entry(*message.values["arguments"]))

    def _do_stretch(self, message: Message) -> None:
        first, last, before, number = message.values["arguments"]
        known = before and shortened_layer(self._copies[before[0]], before[1])
        made = self._entry(message.values["key"]).stretch(first, last, known)
        mx.eval(made["state"])
        self._copies[number] = made

    def _do_restore(self, message: Message) -> None:
        number, offset = message.values["arguments"]
        copy = shortened_layer(self._copies[number], offset)
        self._entry(message.values["key"]).restore(copy)

    def _do_drop(self, message: Message) -> None:
        for kind, key in message.values["dropped"]:
            if kind == "copies":
                self._copies.pop(key, None)
            elif kind == "models":
                self._models.pop(key, None)
                self._calls = {name: call for name, call in self._calls.items() if name[0] != key}
            elif key[0] in self._entries:
                entries = self._entries[key[0]]
                entries[key[1]] = None
                if not any(entry is not None for entry in entries):
                    del self._entries[key[0]]
        mx.clear_cache()


def _positions(chosen: mx.array, first: int):
    known = np.array(chosen)
    return lambda start, stop: known[start - first : stop - first]


def follow(channel: Channel, together: Together, worker: Worker) -> None:
    """Follow rank 0 until the end; tell it what went wrong."""
    try:
        worker.follow(together)
    except BaseException as error:
        told = {"error": f"{type(error).__name__}: {error}", "by_another": "[ring]" in str(error)}
        channel.send(Message("lost", told).packed())
        raise


def main(address: str, port: str) -> None:
    """Connect, be accepted, join the ring and follow."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for rank 0
    key = bytes.fromhex(sys.stdin.readline())
    channel = Channel(Client((address, int(port)), family="AF_INET", authkey=key))
    worker = Worker(channel)
    worker.hello(int(os.environ["MLX_RANK"]))
    backend = worker.wait_for("join").values["backend"]
    together = Together(mx.distributed.init(strict=True, backend=backend))
    for name in ("MLX_HOSTFILE", "MLX_IBV_DEVICES"):  # files of MLX's launcher, which leaves them
        if os.environ.get(name):
            os.unlink(os.environ[name])
    channel.send(Message("joined").packed())
    follow(channel, together, worker)


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)
