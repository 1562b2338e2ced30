"""Files that the reader gives to the Prompt widget: put together, checked, shown small.

A file arrives in pieces (a websocket message of JupyterLab is limited to 10 MB) and is read the
way the model will read it, so that what cannot be sent is refused at once, with its reason, and its
cost in tokens is known before it is sent. Bytes stay in Python: the conversation's trait carries a
thumbnail of at most 20 kB, sounds and videos are fetched when the reader presses play.
"""

from __future__ import annotations

import base64
import hashlib
import io
import mimetypes
import wave
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ..errors import MediaError

LARGEST = 200 * 2**20  # bytes of one file
THUMB = 320  # pixels of a thumbnail's longer side


@dataclass(frozen=True, eq=False)
class Attachment:
    """One file, read and ready for the model.

    Attributes:
        key: name for requests, from the content.
        kind: "image", "audio" or "video".
        name: the file's own name, without folders.
        mime: what the browser should play it as.
        data: the file.
        medium: what ``processing`` made of it.
    """

    key: str
    kind: str
    name: str
    mime: str
    data: bytes
    medium: Any

    def part(self) -> dict:
        """How the view shows it: a part of a turn."""
        return describe(self.medium, self.kind) | {"label": self.name, "key": self.key}


def describe(medium: Any, kind: str) -> dict:
    """The view's part for an ``ImageInput``, ``AudioInput`` (or the list of a recording's clips)
    or ``VideoInput``."""
    clips = medium if isinstance(medium, list) else [medium]
    part = {"kind": kind, "tokens": sum(c.n_soft for c in clips), "label": clips[0].name}
    if kind == "image":
        width, height = medium.original_size
        part |= {"width": width, "height": height, "thumb": thumbnail(medium.to_pil())}
    else:
        part["seconds"] = round(sum(float(clip.seconds) for clip in clips), 2)
        if kind == "video" and medium.frames:
            part["thumb"] = thumbnail(medium.frames[0].to_pil())
    return part


def thumbnail(picture: Any) -> str:
    """A ``data:`` address of a small JPEG."""
    small = picture.copy()
    small.thumbnail((THUMB, THUMB))
    out = io.BytesIO()
    small.convert("RGB").save(out, format="JPEG", quality=78)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


class Uploads:
    """Collects the pieces of files and keeps what came of them, by key."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._pieces: dict[str, bytearray] = {}
        self.ready: dict[str, Attachment] = {}

    def receive(self, upload: str, name: str, mime: str, part: int, parts: int, data: bytes):
        """Take one piece; gives the :class:`Attachment` with the last one, None before.

        Raises:
            MediaError: the file is too large, is not what it says, or is not for this model.
        """
        if part == 0:
            self._pieces[upload] = bytearray()
        pieces = self._pieces.get(upload)
        if pieces is None:
            raise MediaError(f"{name}: a piece of the file is missing; attach it again")
        pieces += data
        if len(pieces) > LARGEST:
            del self._pieces[upload]
            raise MediaError(f"{name} is larger than {LARGEST // 2**20} MB")
        if part + 1 < parts:
            return None
        attachment = self.read(bytes(self._pieces.pop(upload)), name, mime)
        self.ready[attachment.key] = attachment
        return attachment

    def read(self, data: bytes, name: str, mime: str = "") -> Attachment:
        """Read a whole file as the model will; the name's ending decides if ``mime`` is empty.

        Raises MediaError for what is none of the three, cannot be read, or the model cannot take.
        """
        name = PurePosixPath(name.replace("\\", "/")).name or "file"
        mime = mime or mimetypes.guess_type(name)[0] or ""
        kind = mime.split("/")[0]
        if kind == "image":
            from ..processing.image import load_image as load
        elif kind == "audio":
            load = _load_clip
        elif kind == "video":
            from ..processing.video import load_video as load
        else:
            raise MediaError(f"{name} is neither a picture nor a sound nor a video ({mime or '?'})")
        file = io.BytesIO(data)
        file.name = name  # what messages call it
        medium = load(file, self._model, name=name)
        key = hashlib.sha256(data).hexdigest()[:20]
        return Attachment(key, kind, name, mime, data, medium)


def _load_clip(file: io.BytesIO, model: Any, name: str) -> Any:
    """One clip. Raises MediaError; a recording that would have to be cut says so."""
    from ..processing.audio import load_audio

    try:
        return load_audio(file, model, name=name)
    except MediaError:
        file.seek(0)
        clips = load_audio(file, model, split=True, name=name)  # raises what is wrong otherwise
    whole, longest = sum(clip.seconds for clip in clips), max(clip.seconds for clip in clips)
    raise MediaError(
        f"{name} is {whole:.1f} s long, this model hears at most {longest:g} s at once: cut it, "
        "and attach the pieces one by one"
    )


def as_wav(sound: Any) -> bytes:
    """The samples of an ``AudioInput``, or of a recording's clips, as a 16-bit WAV file: what the
    model hears."""
    import numpy as np

    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        clips = sound if isinstance(sound, list) else [sound]
        file.setframerate(clips[0].settings.sampling_rate)
        samples = np.clip(np.concatenate([clip.samples for clip in clips]), -1, 1) * 32767
        file.writeframes(samples.astype("<i2").tobytes())
    return out.getvalue()
