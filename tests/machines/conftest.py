"""What tests of several machines share."""

import socket
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "checkpoints"))  # tiny.py


@pytest.fixture(scope="session")
def free_ports():
    """``free_ports(count)``: a port from which so many are free, most likely."""

    def find(count):
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        first = sockets[0].getsockname()[1]
        for one in sockets:
            one.close()
        return first

    return find
