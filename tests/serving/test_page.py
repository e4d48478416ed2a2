"""The page: its files and headers, and in Chromium where there is one."""

import re
import shutil
import socket
import threading
import time

import pytest
import uvicorn
from starlette.testclient import TestClient

from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.engine.config import EngineConfig
from llmjax.serving.app import make_app
from llmjax.serving.models import ServedModel
from llmjax.serving.options import ServeOptions
from llmjax.serving.page import page_files
from untrained import in_hand

CONFIG = EngineConfig(max_rows=2, prefill_chunk=32)
OPTIONS = ServeOptions(max_new_tokens=24)
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "


@pytest.fixture(scope="module")
def app():
    tokenizer = BytesTokenizer(chat_template=TEMPLATE)
    model = ServedModel("tiny", in_hand(tokenizer, num_decoder_layers=1, max_length=512), CONFIG)
    yield make_app([model], OPTIONS, keys=["secret"])
    model.close()


def test_files_are_served_without_a_key_and_kept_by_their_hash(app):
    with TestClient(app) as client:
        for name, content in page_files().items():
            path = "/" if name == "index.html" else f"/assets/{name}"
            response = client.get(path)
            assert response.content == content
            kind = response.headers["content-type"].partition(";")[0]
            ending = name.rpartition(".")[2]
            assert kind.rpartition("/")[2] == {"js": "javascript"}.get(ending, ending)
            assert "default-src 'none'" in response.headers["content-security-policy"]
            again = client.get(path, headers={"if-none-match": response.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        assert client.get("/v1/models").status_code == 401


def test_the_page_needs_nothing_from_elsewhere():
    files = {name: content.decode() for name, content in page_files().items()}
    page = files["index.html"]
    for name, text in files.items():
        assert not re.search(r"""(src|href|url|import|fetch)\W{1,3}https?://""", text), name
        assert "innerHTML" not in text, name
        assert "eval(" not in text, name
    assert not re.search(r"<script(?![^>]*\bsrc=)|\sstyle=|\son\w+=", page)
    for path in re.findall(r'(?:src|href)="/assets/([^"]+)"', page):
        assert path in files
    for path in re.findall(r'from "\./([^"]+)"', "".join(files.values())):
        assert path in files


def test_every_field_has_a_label():
    page = page_files()["index.html"].decode()
    for id in re.findall(r'<(?:input|textarea|select)[^>]* id="(\w+)"|<textarea id="(\w+)"', page):
        name = next(filter(None, id))
        labelled = f'for="{name}"' in page
        assert labelled or re.search(rf'<label[^>]*>(?:(?!</label>).)*id="{name}"', page, re.DOTALL)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for id in re.findall(r'aria-(?:controls|labelledby)="([^"]+)"', page):
        assert id in ids


@pytest.fixture(scope="module")
def address(app):
    """The page at a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path, args=arguments)
        yield opened
        opened.close()


def test_in_a_browser(address, browser):
    page = browser.new_context(viewport={"width": 390, "height": 800}).new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(error))
    page.on("console", lambda line: line.type == "error" and problems.append(line.text))
    page.goto(address)
    page.get_by_text("enter it in the settings").wait_for()
    problems.clear()  # the answers without a key
    page.click("#options")
    page.fill("#key", "secret")
    page.fill("#max_tokens", "9")
    page.press("#key", "Tab")
    page.wait_for_selector("#model option", state="attached")
    page.click("#options")

    page.fill("#prompt", "Hello <b>you</b>")
    page.keyboard.press("Enter")
    page.get_by_text("Regenerate").wait_for(timeout=60_000)
    assert page.inner_text(".message.user .body") == "Hello <b>you</b>"
    page.get_by_text("Regenerate").click()
    page.get_by_text("Regenerate").wait_for(timeout=60_000)
    page.reload()
    page.get_by_text("Regenerate").wait_for()  # kept in the browser

    page.click("#tab-writing")
    page.fill("#text", "A text.")
    page.wait_for_selector("#tokens span:nth-child(7)", timeout=60_000)
    assert page.inner_text("#tokens") == "A text."
    assert "bits per byte" in page.inner_text("#bits")
    page.focus("#tokens")
    page.keyboard.press("ArrowRight")
    assert "Likeliest here" in page.inner_text("#alternatives")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not problems
