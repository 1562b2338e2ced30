"""Gives hostile files to the decoders in a process that dies if it asks for a socket.

Run by test_fenced_decoders.py:  python fenced.py FOLDER open|fenced

``fenced`` loads every input as video and as sound through the package and prints how many there
were; ``open`` gives a single one to PyAV as it is, to show that the watch would notice.
Files in FOLDER/outside stand for what is not the caller's; the test watches them being opened.
"""

import ctypes
import io
import itertools
import platform
import struct
import sys
from pathlib import Path

SOCKET = {"x86_64": 41, "aarch64": 198}


def die_of_sockets():
    """From here on the kernel kills this process when it calls ``socket`` (seccomp, Linux)."""
    number = SOCKET[platform.machine()]
    kill, allow = 0x80000000, 0x7FFF0000

    def instruction(code, true, false, k):
        return struct.pack("HBBI", code, true, false, k)

    # load the call's number; if it is socket's: kill; else: allow
    code = instruction(0x20, 0, 0, 0) + instruction(0x15, 0, 1, number)
    code += instruction(0x06, 0, 0, kill) + instruction(0x06, 0, 0, allow)
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("HxxxxxxP", 4, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, ctypes.create_string_buffer(program), 0, 0) == 0  # PR_SET_SECCOMP


def session(address, port=5004):
    kind = "IP6" if ":" in address else "IP4"
    return (
        f"v=0\r\no=- 0 0 IN {kind} {address}\r\ns=x\r\nc=IN {kind} {address}\r\nt=0 0\r\n"
        f"m=audio {port} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"
        f"m=video {port + 2} RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
    )


def playlist(target):
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n"


def master(target):
    return f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{target}\n"


def keyed(target):
    return playlist("x.ts").replace("#EXTINF", f'#EXT-X-KEY:METHOD=AES-128,URI="{target}"\n#EXTINF')


def concat(target):
    return f"ffconcat version 1.0\nfile '{target}'\n"


def dash(target):
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT9S"><Period><AdaptationSet mimeType="audio/mp4">'
        f'<Representation id="1" bandwidth="1"><BaseURL>{target}</BaseURL><SegmentBase/>'
        "</Representation></AdaptationSet></Period></MPD>"
    )


def inputs(outside):
    """(name, text) of every hostile file."""
    secret = outside / "secret.wav"
    targets = [
        *(secret, f"file:{secret}", f"file://{secret}", "../outside/secret.wav"),
        *("http://127.0.0.1:9/x.ts", "https://127.0.0.1:9/x", "udp://127.0.0.1:9", "rtp://@:5004"),
        *("tcp://127.0.0.1:9", f"concat:{secret}|{secret}", f"subfile,,start,0,end,9,,:{secret}"),
        *(f"crypto:{secret}", f"async:{secret}", f"cache:{secret}", "ftp://127.0.0.1/x"),
    ]
    kinds = [("m3u8", playlist), ("m3u8", master), ("m3u8", keyed), ("txt", concat), ("mpd", dash)]
    for number, ((ending, make), target) in enumerate(itertools.product(kinds, targets)):
        yield f"{make.__name__}{number}.{ending}", make(target)
    for address in ("127.0.0.1", "0.0.0.0", "224.2.2.2", "::1", "255.255.255.255"):
        yield f"{address.replace(':', '_')}.sdp", session(address)
    yield "rtsp.txt", "RTSPtextrtsp://127.0.0.1:9/x\n"
    yield "imf.xml", '<?xml version="1.0"?><CompositionPlaylist xmlns="x"/>'
    yield "webvtt.vtt", "WEBVTT\n\n00:00.000 --> 00:09.000\nx\n"


def main(folder, how):
    outside = folder / "outside"
    import av

    from gemma4_mlx.errors import MediaError
    from gemma4_mlx.processing.audio import load_audio
    from gemma4_mlx.processing.video import load_video

    try:
        load_audio(outside / "secret.wav")  # what is imported late is now there
    except MediaError as error:
        print(error)
    print("ready", flush=True)
    input()  # what was opened until now does not count
    die_of_sockets()
    if how == "socket":
        av.open(io.BytesIO(session("127.0.0.1").encode()))
    elif how == "file":
        path = folder / "open.txt"
        path.write_text(concat(outside / "secret.wav"))
        av.open(str(path), options={"safe": "0"})
    count = 0
    for name, text in inputs(outside) if how == "fenced" else ():
        path = folder / name
        path.write_text(text)
        disguised = folder / f"{name}.mp4"
        disguised.write_text(text)
        for source, load in itertools.product(
            (path, disguised, text.encode()), (load_video, load_audio)
        ):
            try:
                load(source)
            except MediaError:
                count += 1
            else:
                raise SystemExit(f"{name} was read by {load.__name__}")
    print("refused", count)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
