"""Pictures of the chat page's main states, over a rehearsal: make images."""

import contextlib
import io
import os
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1")

import deployed  # noqa: E402
import rehearsing  # noqa: E402
from browser import chromium  # noqa: E402
from demoing import END, ENV, IMAGE, launched, said, session_with, some_endpoint  # noqa: E402
from PIL import Image  # noqa: E402
from scripted import ScriptedEndpoint, exception  # noqa: E402

from helpers import endpoint, session  # noqa: E402
from helpers.demo.page import EXAMPLES  # noqa: E402

FOLDER = ROOT / "notebooks" / "images"
DESKTOP, PHONE = {"width": 1120, "height": 700}, {"width": 390, "height": 844}
COLORS = 128  # of a picture: enough for text, and a third of the size
SPEED = 4  # of the rehearsal: its figures are near those of AWS time, and an answer takes 5 s
CODE = r"""A text has as many words as `split` gives:

```python
def count_words(path):
    with open(path, encoding="utf-8") as file:
        return sum(len(line.split()) for line in file)
```

It reads **line by line**, so that the file may be larger than memory: a text of \(n\) characters
takes about \(n / 80\) steps."""


def main() -> int:
    """Take all pictures."""
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(_rehearsal())
        real = stack.enter_context(launched(here, endpoint.find(here, deployed.NAME)))
        scripted = ScriptedEndpoint()
        stack.callback(scripted.close)
        two_slots = some_endpoint(
            name=deployed.NAME, image=IMAGE, env=ENV | {"MAX_BATCH_SIZE": "2"}
        )
        narrow = stack.enter_context(launched(session_with(scripted, speed=1.0), two_slots))
        browser = stack.enter_context(chromium())

        def visit(demo, size=DESKTOP, scheme="light"):
            context = browser.new_context(
                viewport=size, color_scheme=scheme, reduced_motion="reduce"
            )
            stack.callback(context.close)
            page = context.new_page()
            page.goto(demo.url)
            _box(page).wait_for()
            return page

        _take_real(visit, real)
        _take_scripted(visit, narrow, scripted)
    return 0


@contextlib.contextmanager
def _rehearsal():
    """A session with an endpoint that came up at full speed, and goes on slowly."""
    with tempfile.TemporaryDirectory() as folder:
        with deployed.rehearsal(Path(folder)):
            pass
        os.environ.update(WORKSHOP_STATE=folder, WORKSHOP_SPEED=str(SPEED))
        with rehearsing.serving(Path(folder), speed=SPEED):
            yield session.open_session()


def _take_real(visit, demo):
    page = visit(demo)
    _take(page, "empty")
    page.get_by_role("button", name=EXAMPLES[0]).click()
    _wait_for(page, "First token after")
    _take(page, "answer")
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("heading", name="Settings").wait_for()
    _take(page, "settings")
    page = visit(demo, PHONE)
    _ask(page, EXAMPLES[0])
    _wait_for(page, "First token after")
    _take(page, "phone")


def _take_scripted(visit, demo, scripted):
    page = visit(demo, scheme="dark")
    scripted.will_stream(*said(*re.findall(r"\S+\s*", CODE)), END, after_s=1.2, pause_s=0.04)
    _ask(page, EXAMPLES[1])
    _wait_for(page, "First token after")
    _take(page, "dark")

    page = visit(demo)
    scripted.will_stream(
        *said("A bakery ", "that fills ", "its oven "),
        exception("ModelStreamError", Message="closed"),
        after_s=1.2,
        pause_s=0.04,
    )
    _ask(page, EXAMPLES[2])
    _wait_for(page, "broke off")
    _take(page, "error")

    others, last = [visit(demo), visit(demo)], visit(demo)
    for other in others:
        scripted.will_stream(*said("so far"), ending="hang")
        _ask(other, "Hello")
        _wait_for(other, "so far")
    _ask(last, EXAMPLES[2])
    _wait_for(last, "All slots are busy")
    _take(last, "waiting")
    last.get_by_role("button", name="Stop").click()


def _box(page):
    return page.get_by_placeholder("Enter sends")


def _ask(page, text):
    _box(page).fill(text)
    _box(page).press("Enter")


def _wait_for(page, text):
    page.get_by_role("log").get_by_text(text).last.wait_for()
    if "slots" not in text and "far" not in text:
        page.get_by_role("button", name="Send").wait_for()


def _take(page, name):
    """One picture, which must say that it is of a rehearsal."""
    assert re.search("rehearsal", page.locator("h1").first.inner_text(), re.I)
    page.evaluate("document.activeElement.blur()")
    page.mouse.move(0, 0)
    page.wait_for_timeout(1000)  # what fades and scrolls
    path = FOLDER / f"demo-{name}.png"
    taken = page.screenshot(animations="disabled", caret="hide")
    picture = Image.open(io.BytesIO(taken)).convert("RGB")
    picture.quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    raise SystemExit(main())
