"""Files are written whole or not at all, and nothing is left beside them."""

import os
import stat
import subprocess
import sys

import pytest

from gemma4_mlx.atomic import replacing, write

posix = pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_error_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"half of the new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


@posix
def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write(path, b"old")
    code = (
        "import resource, signal, sys\n"
        "from gemma4_mlx.atomic import write\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write(sys.argv[1], bytes(10**6))\n"
        "except OSError: print('refused')\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert run.stdout == "refused\n", run.stderr
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    path = tmp_path / "file"
    code = (
        "import os, sys\nfrom gemma4_mlx.atomic import replacing\n"
        "with replacing(sys.argv[1]) as file:\n"
        "    file.write(b'half'); file.flush(); os._exit(1)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)])
    (left,) = names(tmp_path)
    other = tmp_path / left.replace(".file.", ".file2.")  # another file's
    other.touch()
    with replacing(path) as file:  # a process that runs keeps its own
        mine = set(names(tmp_path)) - {other.name}
        write(path, "meanwhile")
        assert mine < set(names(tmp_path))
        file.write(b"new")
    assert names(tmp_path) == [other.name, "file"]
    assert path.read_text() == "new"


@posix
def test_permissions_follow_the_umask_and_stay_as_they_were(tmp_path):
    path = tmp_path / "file"
    before = os.umask(0o027)
    try:
        write(path, "a")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        write(path, "b")
        assert stat.S_IMODE(path.stat().st_mode) == 0o604
    finally:
        os.umask(before)


@posix
def test_a_link_goes_on_pointing_to_the_file(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "there" / "file")
    write(link, "new")
    assert link.is_symlink() and (tmp_path / "there" / "file").read_text() == "new"
