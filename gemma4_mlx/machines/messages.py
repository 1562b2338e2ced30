"""What rank 0 and the other machines of a cluster tell one another beside MLX's sums and joins.

A message has a name, values that JSON can hold, and arrays as raw bytes: nothing is unpickled. It
travels over a connection of Python's own ``multiprocessing.connection``, whose two ends prove to
each other that they know the cluster's key (HMAC); what they say is not encrypted.
"""

import json
import math
import os
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import mlx.core as mx
import numpy as np

from ..errors import ClusterError

#: Longest message: soft tokens of an hour-long film, several times over.
LONGEST = 1 << 30
_TYPES = {str(t).removeprefix("mlx.core."): t for t in (
    mx.bool_, mx.uint8, mx.uint16, mx.uint32, mx.int32, mx.int64, mx.float16, mx.bfloat16,
    mx.float32,
)}  # fmt: skip
_HEAD = 4  # bytes of the header's length


@dataclass(frozen=True)
class Message:
    """``what`` is meant, with JSON ``values`` and evaluated ``arrays`` by name."""

    what: str
    values: Mapping = field(default_factory=dict)
    arrays: Mapping[str, mx.array] = field(default_factory=dict)

    def packed(self) -> bytes:
        """The message as bytes."""
        kinds = [
            (name, str(x.dtype).removeprefix("mlx.core."), x.shape)
            for name, x in self.arrays.items()
        ]
        header = json.dumps([self.what, dict(self.values), kinds]).encode()
        parts = [len(header).to_bytes(_HEAD, "little"), header]
        for x in self.arrays.values():
            bits = x.view(mx.uint16) if x.dtype == mx.bfloat16 else x  # NumPy lacks the type
            parts.append(np.ascontiguousarray(np.array(bits)).tobytes())
        return b"".join(parts)

    @staticmethod
    def is_named(data: bytes, what: str) -> bool:
        """Whether a packed message is ``what``, without making its arrays."""
        return data[_HEAD:].startswith(b'["' + what.encode() + b'"')

    @classmethod
    def unpacked(cls, data: bytes) -> "Message":
        """The message that bytes are. Raises ClusterError for what is none."""
        try:
            end = _HEAD + int.from_bytes(data[:_HEAD], "little")
            what, values, kinds = json.loads(data[_HEAD:end])
            arrays = {}
            for name, kind, shape in kinds:
                dtype, count = _TYPES[kind], math.prod(shape)
                stop = end + count * dtype.size
                bits = np.frombuffer(data[end:stop], np.uint8)
                if len(bits) != count * dtype.size:
                    raise ValueError(name)
                arrays[name] = mx.array(bits).view(dtype).reshape(shape)
                end = stop
            if end != len(data) or not isinstance(what, str) or not isinstance(values, dict):
                raise ValueError(what)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise ClusterError(f"a machine sent what is no message: {error!r:.100}") from None
        return cls(what, values, arrays)


class Channel:
    """One end of a connection between rank 0 and another machine; any thread may send."""

    def __init__(self, connection: Connection):
        self._connection = connection
        self._sending = threading.Lock()
        self._seconds: float | None = None
        # Small messages follow one another without an answer: none waits for the one before.
        with plain_socket(connection.fileno()) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data: bytes, patient: bool = True) -> None:
        """Send a packed message. Raises ClusterError if the other end is gone.

        ``patient`` False: not while another thread sends, then nothing is sent.
        """
        if not self._sending.acquire(blocking=patient):
            return
        try:
            self._connection.send_bytes(data)
        except (OSError, ValueError) as error:
            raise ClusterError(f"the connection is lost: {error}") from None
        finally:
            self._sending.release()

    def deadline(self, seconds: float | None) -> None:
        """Have :meth:`receive` give up after so many seconds."""
        self._seconds = seconds

    def receive(self) -> bytes | None:
        """The next packed message; None once the other end is gone."""
        try:
            if self._seconds is not None and not self._connection.poll(self._seconds):
                return None
            return self._connection.recv_bytes(LONGEST)
        except (OSError, EOFError, ValueError):
            return None

    def close(self) -> None:
        """End the connection, and a wait for messages in another thread."""
        with suppress(OSError):
            with plain_socket(self._connection.fileno()) as plain:
                plain.shutdown(socket.SHUT_RDWR)
            self._connection.close()


def plain_socket(descriptor: int) -> socket.socket:
    """A socket that stands for another descriptor of it; closing the one leaves the other open.

    Raises OSError for what is no socket.
    """
    copy = os.dup(descriptor)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise
