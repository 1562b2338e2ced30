"""A real JupyterLab and a real Chromium for the tests in this folder.

One lab server and one browser serve the whole run. ``notebook(*cells)`` writes a notebook, opens it
and runs it, and gives back a :class:`Notebook` whose ``page`` is Playwright's. Without Chromium,
Playwright or JupyterLab the tests are skipped and say which is missing. Pages must not reach any
other machine: a request that leaves loopback fails the test.

``picture(page, name)`` keeps a screenshot in ``artifacts/`` in both themes; ``accessible(page,
selector)`` runs axe-core (``vendor/``; Mozilla Public License 2.0, unmodified, source at
github.com/dequelabs/axe-core) and fails on serious violations.
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))  # for scripts that use this file without pytest
from waiting import PATIENCE

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ARTIFACTS = HERE / "artifacts"
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in Path(item.path).parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser():
    """Chromium, headless."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium on the search path")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=path,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
            ],
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """A JupyterLab server on loopback: ``lab.folder`` and ``lab.url(notebook_name)``."""
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
    folder = tmp_path_factory.mktemp("lab")
    server = Lab(folder)
    server.start()
    yield server
    server.stop()


class Lab:
    """A server of JupyterLab, or of another ``module`` that shows notebooks under ``path``."""

    def __init__(self, folder: Path, module="jupyterlab", app="LabApp", path="lab/tree"):
        self.module, self.app, self.path = module, app, path
        self.folder = folder / "notebooks"
        self.folder.mkdir()
        self.private = folder
        self.token = secrets.token_hex(16)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"

    def start(self):
        env = dict(
            os.environ,
            JUPYTER_CONFIG_DIR=str(self.private / "config"),
            JUPYTER_DATA_DIR=str(self.private / "data"),
            JUPYTER_RUNTIME_DIR=str(self.private / "run"),
            IPYTHONDIR=str(self.private / "ipython"),
            PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        )
        quiet = self.private / "config/lab/user-settings/@jupyterlab/apputils-extension"
        quiet.mkdir(parents=True)
        (quiet / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
        self.log = self.private / "lab.log"
        command = [sys.executable, "-m", self.module, "--no-browser", "--ip=127.0.0.1"]
        command += [f"--port={self.port}", "--allow-root", f"--ServerApp.root_dir={self.folder}"]
        command += [f"--IdentityProvider.token={self.token}", "--LabApp.news_url=None"]
        command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
        command += ["--LabApp.extension_manager=readonly"]
        command += [f"--{self.app}.expose_app_in_browser=True"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
        for _ in range(4 * PATIENCE):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.address}/api?token={self.token}", timeout=30)
                return
            time.sleep(0.25)
        pytest.fail(f"{self.module} did not start:\n{self.log.read_text()[-2000:]}")

    def add_kernel(self, name: str, path: Path):
        """A kernel whose packages in ``path`` go before the installed ones."""
        folder = self.private / "data" / "kernels" / name
        folder.mkdir(parents=True, exist_ok=True)
        launch = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        paths = os.pathsep.join([str(path), str(ROOT)])
        spec = {"argv": launch, "display_name": name, "language": "python"}
        spec["env"] = {"PYTHONPATH": paths}
        (folder / "kernel.json").write_text(json.dumps(spec))

    def start_in(self, theme: str):
        """The theme of pages that are opened from now on."""
        folder = self.private / "config/lab/user-settings/@jupyterlab/apputils-extension"
        setting = json.dumps({"theme": THEMES[theme]})
        (folder / "themes.jupyterlab-settings").write_text(setting)

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def url(self, name: str) -> str:
        return f"{self.address}/{self.path}/{name}?token={self.token}&reset"


@pytest.fixture
def page(browser):
    """A fresh page. Requests that would leave this machine are cut off and fail the test."""
    yield from _page(browser)


@pytest.fixture(scope="module")
def shared_page(browser):
    """One page for a whole module whose tests build on each other."""
    yield from _page(browser)


def _page(browser):
    context = browser.new_context(
        viewport={"width": 1180, "height": 900}, locale="en-US", reduced_motion="reduce"
    )
    context.grant_permissions(["microphone", "clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    away, errors = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.errors = errors

    def gate(route):
        url = route.request.url
        if url.startswith("http") and "//127.0.0.1" not in url:
            away.append(url)
            return route.abort()
        return route.continue_()

    page.route("**/*", gate)
    yield page
    context.close()
    assert not away, f"the page asked other machines for {away}"


class Notebook:
    """An open notebook: ``page``, ``run(index)``, ``output(index)``."""

    def __init__(self, page, lab, name):
        self.page, self.lab, self.name = page, lab, name

    def open(self):
        page = self.page
        page.goto(self.lab.url(self.name))
        page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
        # JupyterLab may ask for a kernel although the notebook names one: take what it offers.
        dialog = page.locator(".jp-Dialog button.jp-mod-accept")
        idle = page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]")
        quiet = 0
        for _ in range(10 * PATIENCE):
            if dialog.count():
                dialog.first.click()
                quiet = 0
            quiet = quiet + 1 if idle.count() else 0
            if quiet > 10:
                break
            page.wait_for_timeout(100)
        if page.locator("#jp-left-stack:visible").count():
            self.execute("application:toggle-left-area")

    def execute(self, command: str, **arguments):
        """A JupyterLab command, as its menus and keys run it."""
        self.page.evaluate(
            "([c, a]) => { window.jupyterapp.commands.execute(c, a); }", [command, arguments]
        )

    def run_all(self):
        self.execute("notebook:run-all-cells")

    def theme(self, name: str):
        """Switch to ``light`` or ``dark``."""
        self.execute("apputils:change-theme", theme=THEMES[name])
        wanted = "true" if name == "light" else "false"
        self.page.wait_for_selector(f'body[data-jp-theme-light="{wanted}"]', state="attached")

    def cell(self, index: int):
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index)

    def run(self, index: int):
        """Run one cell, as Shift+Enter does."""
        prompt = self.cell(index).locator(".jp-InputPrompt")
        before = prompt.inner_text()
        for i in range(20 * PATIENCE):  # until it was taken: "[*]:" or a new number
            if i % 600 == 0:  # keys pressed while a kernel is still connecting are lost
                self.cell(index).locator(".jp-InputArea-editor").click()
                self.page.keyboard.press("Control+Enter")
            self.page.wait_for_timeout(50)
            if prompt.inner_text() != before:
                return
        ARTIFACTS.mkdir(exist_ok=True)
        self.page.screenshot(path=ARTIFACTS / "cell-not-run.png")
        log = self.lab.log.read_text()[-2000:]
        raise AssertionError(f"cell {index} was not run; see cell-not-run.png\n{log}")


@pytest.fixture
def notebook(lab, page):
    """``notebook(*cells, run=True) -> Notebook``."""
    return _opener(lab, page)


@pytest.fixture
def notebook7(page, tmp_path):
    """The same in Jupyter Notebook 7, in place of JupyterLab."""
    pytest.importorskip("notebook", reason="Notebook 7 is not installed")
    server = Lab(tmp_path, "notebook", "JupyterNotebookApp", "notebooks")
    server.start()
    yield _opener(server, page)
    server.stop()


@pytest.fixture(scope="module")
def shared_notebook(lab, shared_page):
    """The same with a page that lasts for the module."""
    return _opener(lab, shared_page)


@pytest.fixture
def course(lab, page):
    """``course(stem, theme)``: a notebook of the course, opened in that theme and run."""

    def open_(stem: str, theme: str) -> Notebook:
        lab.start_in(theme)
        name = f"{stem}-{theme}.ipynb"
        shutil.copy(ROOT / "notebooks" / f"{stem}.ipynb", lab.folder / name)
        notebook = Notebook(page, lab, name)
        notebook.open()
        notebook.run_all()
        return notebook

    yield open_
    lab.start_in("light")


def _opener(lab, page):
    import nbformat

    def open_(*cells: str, run: bool = True, kernel: str = "python3") -> Notebook:
        name = f"{secrets.token_hex(4)}.ipynb"
        spec = {"name": kernel, "display_name": kernel, "language": "python"}
        document = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in cells],
            metadata={"kernelspec": spec},
        )
        nbformat.write(document, lab.folder / name)
        opened = Notebook(page, lab, name)
        opened.open()
        if run:
            opened.run_all()
        return opened

    return open_


@pytest.fixture
def picture():
    """``picture(target, name, notebook=None)``: screenshots of a locator, light and dark."""

    def take(target, name: str, notebook: Notebook | None = None):
        ARTIFACTS.mkdir(exist_ok=True)
        page = target.page
        size = page.viewport_size
        if notebook is not None:  # a cell taller than the window is drawn only where it shows
            page.set_viewport_size({"width": size["width"], "height": 2600})
        for theme in THEMES:
            if notebook is not None:
                notebook.theme(theme)
            else:
                page.emulate_media(color_scheme=theme)
            page.wait_for_timeout(150)
            target.screenshot(path=ARTIFACTS / f"{name}-{theme}.png", animations="disabled")
        if notebook is not None:
            notebook.theme("light")
            page.set_viewport_size(size)

    return take


@pytest.fixture
def accessible():
    """``accessible(page, selector)``: no serious or critical violation of axe-core's rules."""
    source = (HERE / "vendor" / "axe.min.js").read_text(encoding="utf-8")

    def check(page, selector: str):
        if not page.evaluate("typeof axe === 'object'"):
            page.evaluate(source + "; undefined")
        # Colours on their way to another theme would be judged half way.
        page.add_style_tag(content="* { transition: none !important; animation: none !important }")
        page.wait_for_timeout(100)
        result = page.evaluate("(s) => axe.run(s, { resultTypes: ['violations'] })", selector)
        bad = [
            f"{v['id']}: {n['html'][:160]}: {n['failureSummary']}"
            for v in result["violations"]
            for n in v["nodes"]
            if v["impact"] in ("serious", "critical")
        ]
        assert not bad, "\n".join(bad)

    return check
