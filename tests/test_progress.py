"""How far something is, in numbers and as a line that is written over and over."""

import math

import pytest

from gemma4_mlx import progress
from gemma4_mlx.progress import WIDE, Counter, Steps, Teller, bar


@pytest.fixture
def clock(monkeypatch):
    """Seconds, as a list of one, that pass when the test says so."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def test_rate_and_time_left_are_of_this_run(clock):
    count = Counter("patches", already=60)
    clock[0] += 4
    steps = count(80, 100)
    assert (steps.seconds, steps.rate, steps.left) == (4, 5, 4)
    assert str(steps).endswith(" 80 of 100 patches, 5.0 patches/s, 4 s left")
    begun = Steps(0, 1200, "tokens")
    assert math.isnan(begun.left) and str(begun).endswith("░ 0 of 1,200 tokens")


@pytest.mark.parametrize(
    ("seconds", "said"), [(7, "7 s"), (75, "1 min 15 s"), (3600, "1 h 0 min"), (9000, "2 h 30 min")]
)
def test_time_left_in_words(seconds, said):
    steps = Steps(0, 20 * seconds, "tokens", 1.0, 20.0)
    assert str(steps).endswith(f", 20 tokens/s, {said} left")


@pytest.mark.parametrize(
    ("done", "total", "filled"), [(0, 4, 0), (3, 4, 15), (9, 4, 20), (0, 0, 0)]
)
def test_a_bar(done, total, filled):
    assert bar(done, total) == "█" * filled + "░" * (WIDE - filled)


def test_a_line_is_written_over_ten_times_a_second_and_ends_with_the_last(clock, capsys):
    tell = Teller(True)
    for said in ("first, which is long", "too soon", "second"):
        tell(said)
        clock[0] += 0.06
    assert capsys.readouterr().err == "\rfirst, which is long\rsecond" + " " * 14
    tell("the last")
    assert capsys.readouterr().err == ""
    tell.end("Stopped.")
    assert capsys.readouterr().err == "\rthe last\nStopped.\n"


def test_a_function_is_called_and_nobody_is_not(capsys):
    heard = []
    for given in (heard.append, False, None):
        tell = Teller(given)
        tell("now")
        tell.end("over")
    Teller(True).end()
    assert heard == ["now"] and capsys.readouterr() == ("", "")
