"""A pytest plugin: which test ran which line, and for how long.

What a fixture of a module, package or session runs is counted for every test that uses it.
"""

import json
import os
from pathlib import Path

import coverage
import pytest

FILE = Path(os.environ["MUTATIONS_TESTS"])
_fixtures: dict[str, list[str]] = {}
_seconds: dict[str, float] = {}
_failed: set[str] = set()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    coverage.Coverage.current().switch_context(item.nodeid)
    definitions = item._fixtureinfo.name2fixturedefs.values()
    _fixtures[item.nodeid] = [_name(d) for ds in definitions for d in ds if d.scope != "function"]
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request):
    if fixturedef.scope == "function":
        return (yield)
    coverage.Coverage.current().switch_context(_name(fixturedef))
    try:
        return (yield)
    finally:
        coverage.Coverage.current().switch_context(request._pyfuncitem.nodeid)


def pytest_runtest_logreport(report):
    if report.when == "call":
        _seconds[report.nodeid] = report.duration
    if report.outcome == "failed":
        _failed.add(report.nodeid)


def pytest_sessionfinish():
    passed = {t: s for t, s in _seconds.items() if t not in _failed}
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    found = {t: {"seconds": s, "fixtures": _fixtures[t]} for t, s in passed.items()}
    FILE.write_text(json.dumps(known | found))


def _name(definition) -> str:
    return f"fixture {definition.baseid}::{definition.argname}"
