"""Addresses the user gave: fetched within limits of size, time and scheme."""

import base64
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import pytest
from media_reference import picture
from PIL import Image

from gemma4_mlx.errors import MediaError
from gemma4_mlx.processing.fetch import download, from_data_url
from gemma4_mlx.processing.image import load_image


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/cat.png":
            file = BytesIO()
            Image.fromarray(picture(60, 80)).save(file, "PNG")
            return self.answer(file.getvalue())
        if self.path == "/moved":
            return self.redirect("/cat.png")
        if self.path == "/local":
            return self.redirect("file:///etc/hostname")
        if self.path == "/loop":
            return self.redirect("/loop")
        if self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"x" * 65536)
            except OSError:
                return None
        if self.path == "/slow":
            self.send_response(200)
            self.end_headers()
            try:
                for _ in range(100):
                    self.wfile.write(b"x")
                    self.wfile.flush()
                    time.sleep(0.05)
            except OSError:
                return None
            return None
        self.send_error(404)
        return None

    def answer(self, data):
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def redirect(self, target):
        self.send_response(302)
        self.send_header("Location", target)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_picture_from_an_address(server):
    image = load_image(f"{server}/cat.png")
    assert image.key == load_image(picture(60, 80)).key and image.name == "cat.png"
    assert load_image(f"{server}/moved").key == image.key


def test_limits(server):
    with pytest.raises(MediaError, match="more than 10"):
        download(f"{server}/cat.png", max_bytes=10)
    with pytest.raises(MediaError, match="larger than"):
        download(f"{server}/endless", max_bytes=1_000_000)
    with pytest.raises(MediaError, match="longer than"):
        download(f"{server}/slow", seconds=0.3)


@pytest.mark.parametrize("path", ["/none", "/local", "/loop"])
def test_what_cannot_be_had(server, path):
    with pytest.raises(MediaError):
        download(f"{server}{path}")


@pytest.mark.parametrize(
    "url", ["http://", "http://[bad", "file:///etc/hostname", "http://127.0.0.1:1/"]
)
def test_addresses_that_are_none(url):
    with pytest.raises(MediaError):
        download(url, seconds=2)


def test_base64_with_line_breaks():
    text = base64.encodebytes(bytes(range(200))).decode()  # a line break after 76 characters
    assert text.count("\n") > 2
    for body in (text, text.replace("\n", "\r\n  "), text.replace("\n", "%0A")):
        assert from_data_url(f"data:image/png;base64,{body}") == bytes(range(200))
    with pytest.raises(MediaError, match="cannot be decoded"):
        from_data_url("data:image/png;base64,ab-*")
