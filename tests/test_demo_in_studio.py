"""The chat page where it is used: behind a real JupyterLab with jupyter-server-proxy, in Chromium.

SageMaker Studio is what this JupyterLab is told to be: same base URL, same proxy, same variable.
"""

import asyncio
import json
import os
import re
import ssl
import subprocess
import sys
import threading
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import nbformat
import pytest
from demoing import (
    COUNTING,
    END,
    NO_HUB,
    ask,
    is_free,
    said,
    session_with,
    some_endpoint,
    visit,
    wait_until,
)
from playwright.sync_api import expect

from helpers.demo import launch

ROOT = Path(__file__).parent.parent
STUDIO = NO_HUB | {"SAGEMAKER_APP_TYPE_LOWERCASE": "jupyterlab"}
TOKEN = "of-this-run"
WITHIN_MS = 60_000

pytestmark = pytest.mark.filterwarnings(COUNTING)

expect.set_options(timeout=WITHIN_MS)


# --- what stands between the page and its reader -------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("studio")


@pytest.fixture(scope="module")
def jupyter(folder):
    """Address of JupyterLab, its slash included."""
    variables = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    settings = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": 0,
        "ServerApp.base_url": "/jupyterlab/default/",
        "ServerApp.root_dir": folder,
        "IdentityProvider.token": TOKEN,
        # JupyterLab asks PyPI for newer versions of itself.
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        "LabApp.news_url": "None",
        "LabApp.extension_manager": "readonly",
    }
    options = [f"--{name}={value}" for name, value in settings.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", *options],
        env={**os.environ, **dict.fromkeys(variables, str(folder)), **STUDIO},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        facts = folder / f"jpserver-{process.pid}.json"
        wait_until(lambda: facts.exists() and facts.read_text(), within_s=60)
        yield json.loads(facts.read_text())["url"]
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def behind_tls(jupyter, folder):
    """Address of a front that ends TLS and tells JupyterLab nothing of it."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-subj", "/CN=127.0.0.1", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )  # fmt: skip
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    inside = jupyter.split("/")[2]
    with relay(int(inside.rpartition(":")[2]), tls) as port:
        yield jupyter.replace("http:", "https:").replace(inside, f"127.0.0.1:{port}")


@contextmanager
def relay(to_port, tls):
    """Pass on what comes by TLS, as it is; the port to come to."""
    ready, ports, ended = threading.Event(), [], asyncio.Event()

    async def copy(source, sink):
        with suppress(OSError):
            while data := await source.read(2**16):
                sink.write(data)
                await sink.drain()
        sink.close()

    async def serve(reader, writer):
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", to_port)
        with suppress(asyncio.CancelledError):  # the end: Jupyter's own streams stay open
            await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        ports.extend([server.sockets[0].getsockname()[1], asyncio.get_running_loop()])
        ready.set()
        async with server:
            await ended.wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    ready.wait(10)
    port, loop = ports
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()


@pytest.fixture
def context(browser, jupyter):
    """A browser that JupyterLab knows."""
    with closing(browser.new_context(ignore_https_errors=True)) as context:
        log_in(context, jupyter)
        yield context


def log_in(context, jupyter):
    """Have JupyterLab's cookie, as a reader who has opened it."""
    assert context.request.get(f"{jupyter}api/status?token={TOKEN}").ok


@pytest.fixture(scope="module")
def demo(served):
    here = session_with(served)
    # Chromium's part of Playwright has an event loop in this thread, as a notebook has.
    with launch(here, some_endpoint(), environ=STUDIO) as demo:
        yield demo


def inside(jupyter, demo):
    """Address of the page behind JupyterLab's proxy."""
    return f"{jupyter}proxy/{demo.port}/"


class Visitor:
    """Who opens the page, and notes what the browser loads for it."""

    def __init__(self, page):
        self.page = page
        self.answers = []
        self.page.on("response", lambda answer: self.answers.append(answer))

    def goes_to(self, address):
        self.page.goto(address)
        expect(self.entry).to_be_visible()
        return self

    @property
    def entry(self):
        return self.page.get_by_placeholder("Enter sends")

    def ask(self, text):
        self.entry.fill(text)
        self.entry.press("Enter")

    def sees(self, text):
        expect(self.page.get_by_text(text).last).to_be_visible()


# --- a conversation ------------------------------------------------------------------------------


@pytest.fixture(params=["through the proxy", "without the proxy", "by TLS", "by TLS, and told so"])
def address(request, jupyter, demo, context):
    """Where a reader may come from."""
    if request.param == "through the proxy":
        return inside(jupyter, demo)
    if request.param == "without the proxy":
        return demo.url
    front = request.getfixturevalue("behind_tls")
    log_in(context, front)
    secure = inside(front, demo)
    if "told" in request.param:
        host = secure.split("/")[2]
        headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": host}
        context.set_extra_http_headers(headers)
    return secure


def test_a_whole_conversation(scripted, context, address):
    visitor = Visitor(context.new_page()).goes_to(address)
    scripted.will_stream(*said("first "), ending="hang")
    visitor.ask("Hello")
    visitor.sees("first")  # while the answer is held open
    assert not scripted.gone.is_set()
    visitor.page.locator("button.stop-button").click()
    visitor.sees("Stopped.")
    assert scripted.gone.wait(10)

    visitor.page.get_by_role("button", name="Settings", exact=True).click()
    visitor.page.get_by_label("System prompt").fill("Be brief.")
    scripted.will_stream(*said("In brief: yes."), END)
    visitor.ask("And now?")
    visitor.sees("In brief: yes.")
    assert [turn["content"] for turn in scripted.bodies[1]["messages"]] == [
        "Be brief.", "Hello", "first ", "And now?",
    ]  # fmt: skip

    visitor.page.reload()
    expect(visitor.entry).to_be_visible()
    expect(visitor.page.get_by_text("Be brief.")).to_have_count(0)
    scripted.will_stream(*said("third"), END)
    visitor.ask("Again")
    visitor.sees("third")

    assert [answer.url for answer in visitor.answers if not answer.url.startswith(address)] == []
    assert [answer.url for answer in visitor.answers if answer.status >= 400] == []


@pytest.mark.parametrize("place", ["waiting for it", "being answered"])
def test_closing_the_tab_ends_the_answer_also_behind_the_proxy(
    scripted, context, jupyter, demo, place
):
    visitor = Visitor(context.new_page()).goes_to(inside(jupyter, demo))
    scripted.will_stream(*said("first")[: place == "being answered"], ending="hang")
    visitor.ask("Hello")
    if place == "being answered":
        visitor.sees("first")
    wait_until(lambda: scripted.bodies)
    visitor.page.close()
    assert scripted.gone.wait(10)


def test_a_program_beside_the_notebook_needs_no_proxy(scripted, demo):
    scripted.will_stream(*said("here"), END)
    assert ask(visit(demo))[0]["content"] == "here"


# --- a notebook in JupyterLab --------------------------------------------------------------------

CELLS = (
    f"""
import sys

sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]

from demoing import said, session_with, some_endpoint
from scripted import ScriptedEndpoint

from helpers import demo

scripted, endpoint = ScriptedEndpoint(), some_endpoint()
session = session_with(scripted)
scripted.will_stream(*said("first"), ending="hang")
""",
    "page = demo.launch(session, endpoint)\npage",
)


@pytest.fixture
def notebook(folder, context, jupyter):
    """A notebook that is open in JupyterLab."""
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in CELLS]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    written = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    nbformat.write(written, folder / "demo.ipynb")
    page = context.new_page()
    page.goto(f"{jupyter}lab/tree/demo.ipynb")
    expect(page.locator(".jp-Cell")).to_have_count(2)
    # What is run before there is a kernel is run by none.
    kernel = page.locator(".jp-Notebook-ExecutionIndicator")
    expect(kernel).to_have_attribute("data-status", "idle")
    return page


def run(notebook, cell, times):
    """Run a cell for the nth time in this kernel, and wait until it has ended."""
    prompt = notebook.locator(".jp-Cell .jp-InputPrompt").nth(cell)
    begun = re.compile(rf"\[(\*|{times})\]:")
    for _ in range(5):  # JupyterLab, still arranging itself, may not heed the key
        notebook.locator(".jp-Cell .cm-content").nth(cell).press("Control+Enter")
        with suppress(AssertionError):
            expect(prompt).to_have_text(begun, timeout=5000)
            break
    expect(prompt).to_have_text(f"[{times}]:")


def test_a_notebooks_reader_clicks_and_is_there_until_the_kernel_ends(notebook, context, jupyter):
    link = notebook.locator(".jp-OutputArea a")
    run(notebook, 0, 1)
    run(notebook, 1, 2)
    address = link.get_attribute("href")
    run(notebook, 1, 3)
    assert link.get_attribute("href") == address  # the same when it is launched again
    expect(link).to_contain_text("Rehearsal")
    with context.expect_page() as opened:
        link.click()
    visitor = Visitor(opened.value)
    visitor.ask("Hello")
    visitor.sees("first")

    port = int(address.rstrip("/").rpartition("/")[2])
    assert not is_free(port)
    known = {"Authorization": f"token {TOKEN}"}
    (kernel,) = context.request.get(f"{jupyter}api/kernels", headers=known).json()
    context.request.post(f"{jupyter}api/kernels/{kernel['id']}/restart", headers=known)
    wait_until(lambda: is_free(port), within_s=60)
