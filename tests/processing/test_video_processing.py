"""Videos: the frames, times and text that transformers makes, from files and from arrays."""

import numpy as np
import pytest
from media_reference import VIDEOS, arrays, folder, picture, write_video
from PIL import Image

from gemma4_mlx.errors import MediaError
from gemma4_mlx.processing.image import load_image
from gemma4_mlx.processing.video import load_video, sample_indices, timestamp

av = pytest.importorskip("av")


@pytest.mark.parametrize("name", list(VIDEOS))
def test_same_as_transformers(name):
    reference = arrays("videos")
    video = load_video(folder() / name)
    assert np.array_equal(video.indices, reference[f"{name}_indices"])
    text = " ".join(f"{timestamp(t)} <vv>" for t in video.times)
    assert text == str(reference[f"{name}_text"])
    assert len(video.frames) == 32 and video.total == VIDEOS[name][0]
    for frame, array in zip(video.frames, reference[f"{name}_frames"]):
        assert frame.key == load_image(array, budget=70).key
    assert video.n_soft == 32 * video.frames[0].n_soft <= 32 * 70


def test_fewer_frames_than_asked():
    assert sample_indices(5, 32).tolist() == [0, 1, 2, 3, 4]
    assert sample_indices(100, 4).tolist() == [0, 25, 50, 75]
    video = load_video(np.stack([picture(40, 60, seed=i) for i in range(5)]), fps=2)
    assert len(video.frames) == 5 and video.times.tolist() == [0, 0.5, 1, 1.5, 2]
    assert video.frames[4].name == "frames 00:02"


def test_arrays_and_pictures_are_frames_too():
    frames = [picture(40, 60, seed=i) for i in range(6)]
    a = load_video(np.stack(frames), frames=3)
    b = load_video([Image.fromarray(f) for f in frames], frames=3)
    assert [f.key for f in a.frames] == [f.key for f in b.frames]
    assert a.indices.tolist() == [0, 2, 4] and a.fps == 24
    assert load_video(frames, frames=1, budget=280).n_soft > 100


def test_times():
    assert [timestamp(t) for t in (0, 59.99, 60, 3725)] == ["00:00", "00:59", "01:00", "62:05"]


def test_a_file_that_does_not_say_how_long_it_is(tmp_path):
    """WebM as browsers record it."""
    path = tmp_path / "recorded.webm"
    write_video(path, 20, 10, 64, 64, "libvpx")
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 0
    video = load_video(path.read_bytes(), frames=4)
    assert video.total == 20 and video.indices.tolist() == [0, 5, 10, 15]


def test_no_frames_and_no_video(tmp_path):
    with pytest.raises(MediaError, match="without frames"):
        load_video(np.zeros((0, 10, 10, 3), np.uint8))
    with pytest.raises(MediaError, match="without frames"):
        load_video([])
    with pytest.raises(MediaError, match="shape"):
        load_video(np.zeros((10, 10, 3), np.uint8))
    for fps in (0, "x"):
        with pytest.raises(MediaError, match="fps"):
            load_video([picture(9, 9)], fps=fps)
    for frames in (0, "8"):
        with pytest.raises(MediaError, match="frames must be"):
            load_video([picture(9, 9)], frames=frames)
    with pytest.raises(MediaError, match="no video"):
        load_video(b"this is no video at all" * 100)
    sound = tmp_path / "sound.wav"
    import soundfile

    soundfile.write(sound, np.zeros(1000), 16_000)
    with pytest.raises(MediaError, match="no pictures"):
        load_video(sound)


def test_a_container_without_a_picture(tmp_path):
    path = tmp_path / "empty.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
    with pytest.raises(MediaError):
        load_video(path)


def test_a_file_cut_short(tmp_path):
    whole = tmp_path / "whole.mkv"
    write_video(whole, 120, 24, 64, 64, "mpeg4")
    half = whole.read_bytes()[: whole.stat().st_size // 2]
    try:  # Matroska can be read up to the cut: then fewer frames are counted
        assert len(load_video(half).frames) >= 1
    except MediaError:
        pass
    path = tmp_path / "whole.mp4"
    write_video(path, 120, 24, 64, 64, "mpeg4")
    with pytest.raises(MediaError):
        load_video(path.read_bytes()[: path.stat().st_size // 2])


def test_without_pyav(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MediaError, match="needs PyAV: pip install av"):
        load_video(b"a file's bytes")
    assert len(load_video([picture(9, 9)]).frames) == 1
