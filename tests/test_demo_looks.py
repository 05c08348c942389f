"""How the chat page looks, and who can use it: on a phone, in the dark, by keyboard, by ear."""

import contextlib
import re
from pathlib import Path

import gradio as gr
import pytest
from demoing import (
    COUNTING,
    END,
    ENV,
    IMAGE,
    launched,
    said,
    session_with,
    some_endpoint,
    wait_until,
)
from playwright.sync_api import expect
from scripted import exception

from helpers.demo.page import EXAMPLES

AXE = Path(__file__).parent.parent / ".clients" / "node/node_modules/axe-core/axe.min.js"
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
PATIENCE_MS = 30_000
LONG = r"""# Static batching

An endpoint writes **four answers** at once, as the [guide](https://example.com) says.

| Slot | Who reads it | Tokens | What has become of it in the end |
|---|---|---|---|
| 1 | Ada | 120 | it is complete, and was so in time |

```python
def count_words(path: str) -> int:  # a comment, and a line wider than any phone will ever be
    return sum(len(line.split()) for line in open(path, encoding="utf-8"))
```

The last token comes after

$$t = t_0 + \frac{n - 1}{r} + \sum_{i=1}^{n} \epsilon_i + \int_0^1 f(x) dx + \alpha + \beta$$
"""

pytestmark = pytest.mark.filterwarnings(COUNTING)
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def url(served):
    with launched(session_with(served), some_endpoint(image=IMAGE, env=ENV)) as demo:
        yield demo.url


@pytest.fixture
def visit(browser, url):
    """Open the page as somebody with this screen; what it asks for and complains of is kept."""
    with contextlib.ExitStack() as stack:

        def visit(size=DESKTOP, scheme="light", at=url):
            context = stack.enter_context(
                browser.new_context(viewport=size, color_scheme=scheme, has_touch=size is PHONE)
            )
            context.set_default_timeout(PATIENCE_MS)
            page = context.new_page()
            page.requested, page.complaints = [], []
            page.on("request", lambda request: page.requested.append(request.url))
            page.on("console", lambda line: _keep(line, page.complaints))
            page.goto(at)
            return page

        yield visit


def _keep(line, complaints):
    if line.type in ("error", "warning"):
        complaints.append(line.text)


def box(page):
    return page.get_by_role("textbox", name=re.compile("^Message"))


def log(page):
    return page.get_by_role("log")


def ask(page, text="Hello"):
    box(page).fill(text)
    box(page).press("Enter")


def has_answered(page, times=1):
    expect(page.get_by_text("First token after")).to_have_count(times)


def is_ready(page):
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def answered(page, scripted, *words, times=1):
    scripted.will_stream(*said(*words), END)
    ask(page)
    has_answered(page, times)
    is_ready(page)


def panel(page):
    """The side panel, opened."""
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_role("heading", name="Settings")).to_be_visible()
    settle(page)


def settle(page):
    """Wait until nothing moves or fades any more: colors in between have another contrast."""
    page.wait_for_function("document.getAnimations().every(one => one.playState != 'running')")


# --- axe -----------------------------------------------------------------------------------------


def empty(page, scripted):
    expect(page.get_by_role("button", name=EXAMPLES[0])).to_be_visible()


def not_sent(page, scripted):
    ask(page, " ")
    expect(page.get_by_test_id("toast-body")).to_contain_text("Type a message first.")


def long_answer(page, scripted):
    answered(page, scripted, LONG)


def broken_off(page, scripted):
    scripted.will_stream(*said("so ", "far"), exception("ModelStreamError", Message="gone"))
    ask(page)
    expect(log(page)).to_contain_text("broke off")
    is_ready(page)


def edited(page, scripted):
    page.get_by_role("button", name="Edit").last.click()
    expect(page.get_by_role("button", name="Submit")).to_be_visible()


def settings_open(page, scripted):
    panel(page)


STATES = (empty, not_sent, long_answer, broken_off, edited, settings_open)


@pytest.mark.parametrize(
    ("scheme", "size"), [("light", DESKTOP), ("dark", PHONE)], ids=["light desktop", "dark phone"]
)
def test_axe_finds_nothing_serious(visit, scripted, scheme, size):
    page, findings = visit(size, scheme), {}
    for state in STATES:
        state(page, scripted)
        findings[state.__name__] = serious(page)
    assert findings == {state.__name__: [] for state in STATES}


def test_each_message_has_a_role_that_may_have_a_label(visit, scripted):
    page = visit()
    answered(page, scripted, LONG)  # axe forgives it only while there is text in it
    assert log(page).locator("div[aria-label]").count() > 1
    expect(log(page).locator("div[aria-label]:not([role])")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_while_one_is_answered_and_one_waits(visit, scripted, scheme):
    one_slot = some_endpoint(image=IMAGE, env=ENV | {"MAX_BATCH_SIZE": "1"})
    with launched(session_with(scripted), one_slot) as demo:
        first, second = visit(DESKTOP, scheme, at=demo.url), visit(PHONE, scheme, at=demo.url)
        streaming(first, scripted)
        ask(second)
        expect(log(second)).to_contain_text("All slots are busy: yours is the next.")
        assert (serious(first), serious(second)) == ([], [])


def streaming(page, scripted):
    scripted.will_stream(*said("so far"), ending="hang")
    ask(page)
    expect(log(page)).to_contain_text("so far")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_where_one_logs_in(visit, behind_a_password, scheme, size):
    page = visit(size, scheme, at=behind_a_password.url)
    expect(page.get_by_role("button", name="Login")).to_be_visible()
    assert serious(page) == []
    page.get_by_label("username").fill("workshop")
    page.get_by_label("password").fill(behind_a_password.password)
    page.keyboard.press("Enter")
    expect(box(page)).to_be_visible()


@pytest.fixture
def behind_a_password(scripted, monkeypatch):
    """A shared page, without Gradio's tunnel: it would leave this machine."""
    launch = gr.Blocks.launch

    def without_tunnel(self, **options):
        app, url, _ = launch(self, **options | {"share": False})
        return app, url, "https://x.gradio.live"

    monkeypatch.setattr(gr.Blocks, "launch", without_tunnel)
    with launched(session_with(scripted, target="aws"), some_endpoint(), share=True) as demo:
        yield demo


def test_axe_would_find_something(visit):
    page = visit()
    expect(box(page)).to_be_visible()
    page.add_style_tag(content="p { color: #ddd !important; background: #fff !important; }")
    assert any("color-contrast" in finding for finding in serious(page))


def serious(page):
    """What axe calls serious or critical, a line each."""
    settle(page)
    page.add_script_tag(path=AXE)
    return page.evaluate(
        """async () => (await axe.run({resultTypes: ["violations"]})).violations
            .filter(one => ["serious", "critical"].includes(one.impact))
            .flatMap(one => one.nodes.map(node => `${one.id}: ${node.html.slice(0, 200)}`))"""
    )


# --- on a phone ----------------------------------------------------------------------------------


def test_a_phone_shows_all_of_the_page_and_gets_an_answer(visit, scripted):
    page = visit(PHONE)
    assert is_no_wider_than_the_screen(page)
    scripted.will_stream(*said(LONG), END)
    box(page).fill("w" * 200 + " " + "שלום " * 20)
    page.get_by_role("button", name="Send").tap()
    has_answered(page)
    assert is_no_wider_than_the_screen(page)
    for one in (
        box(page),
        page.get_by_role("button", name="Send"),
        page.get_by_role("button", name="Settings"),
        page.get_by_role("heading", level=1).first,
        page.get_by_text("First token after"),
        page.get_by_role("button", name="Retry"),
    ):
        expect(one).to_be_in_viewport(ratio=1)


def test_on_a_phone_wide_things_scroll_by_themselves_and_not_with_the_conversation(visit, scripted):
    page = visit(PHONE)
    long_answer(page, scripted)
    assert log(page).evaluate("one => one.scrollWidth <= one.clientWidth")
    for wide in ("table", "pre", ".katex-display"):
        assert log(page).locator(wide).evaluate("one => one.scrollWidth > one.clientWidth"), wide
        assert (
            log(page)
            .locator(wide)
            .evaluate("one => ['auto', 'scroll'].includes(getComputedStyle(one).overflowX)")
        ), wide


def test_on_a_phone_long_code_within_a_line_goes_on_in_the_next(visit, scripted):
    page = visit(PHONE)
    name = "NEURON_COMPILED_ARTIFACTS_" * 4
    answered(page, scripted, f"Set `{name}` or **`{name}`**.\n\n- `{name}`")
    for code in log(page).locator("code").all():
        assert code.evaluate(
            """one => {
                const all = document.querySelector("[role=log]").getBoundingClientRect();
                return one.getBoundingClientRect().right <= all.right;
            }"""
        )


def test_on_a_phone_the_settings_cover_the_page_until_they_are_closed(visit, scripted):
    page = visit(PHONE)
    panel(page)
    assert is_no_wider_than_the_screen(page)
    expect(page.get_by_role("slider", name="Max tokens")).to_be_in_viewport(ratio=1)
    close = page.get_by_role("button", name="Toggle Sidebar")
    expect(close).to_be_in_viewport(ratio=1)
    close.tap()
    expect(page.get_by_role("heading", name="Settings")).to_be_hidden()
    answered(page, scripted, "Yes.")
    panel(page)  # once more


def test_on_a_phone_the_examples_can_be_had_without_scrolling(visit, scripted):
    page = visit(PHONE)
    for example in EXAMPLES:
        expect(page.get_by_role("button", name=example)).to_be_in_viewport(ratio=1)
    scripted.will_stream(*said("Yes."), END)
    page.get_by_role("button", name=EXAMPLES[0]).tap()
    has_answered(page)
    assert scripted.bodies[0]["messages"][-1]["content"] == EXAMPLES[0]
    expect(page.get_by_role("button", name=EXAMPLES[1])).to_be_hidden()


def is_no_wider_than_the_screen(page):
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


# --- by keyboard ---------------------------------------------------------------------------------


def test_a_whole_conversation_by_keyboard(visit, scripted):
    page, press = (page := visit()), page.keyboard.press
    expect(box(page)).to_be_focused()  # one can type at once

    scripted.will_stream(*said("first"), END)
    page.keyboard.type("Hello")
    press("Shift+Enter")
    page.keyboard.type("there")
    press("Enter")
    has_answered(page)
    assert scripted.bodies[-1]["messages"][-1]["content"] == "Hello\nthere"

    tab_to(page, "Send")
    page.keyboard.press("Shift+Tab")
    scripted.will_stream(*said("endless"), ending="hang")
    page.keyboard.type("Go on")
    tab_to(page, "Send")
    press("Enter")
    expect(log(page)).to_contain_text("endless")
    tab_to(page, "Stop")
    press("Enter")
    assert scripted.gone.wait(PATIENCE_MS / 1000)
    expect(log(page)).to_contain_text("Stopped.")

    is_ready(page)
    scripted.will_stream(*said("better"), END)
    tab_to(page, "Retry")
    press("Enter")
    expect(log(page)).to_contain_text("better")
    has_answered(page, 2)

    is_ready(page)
    scripted.will_stream(*said("changed"), END)
    tab_to(page, "Edit")
    press("Enter")
    expect(page.get_by_role("textbox", name="Edited message")).to_be_focused()
    press("ControlOrMeta+A")
    page.keyboard.type("Say it differently")
    tab_to(page, "Submit")
    press("Enter")
    expect(log(page)).to_contain_text("changed")
    has_answered(page)
    assert scripted.bodies[-1]["messages"][-1]["content"] == "Say it differently"

    is_ready(page)
    tab_to(page, "Undo")
    press("Enter")
    expect(box(page)).to_have_value("Say it differently")

    box(page).focus()
    scripted.will_stream(*said("last"), END)
    press("Enter")
    has_answered(page)
    tab_to(page, "Clear")
    press("Enter")
    expect(log(page)).not_to_contain_text("last")
    tab_to(page, EXAMPLES[0])


def test_settings_by_keyboard(visit, scripted):
    page = visit()
    tab_to(page, "Settings")
    page.keyboard.press("Enter")
    expect(page.get_by_role("slider", name="Temperature")).to_be_visible()
    for name, key, value in (
        ("Temperature", "ArrowRight", 0.65),
        ("Top-p", "ArrowLeft", 0.85),
        ("Max tokens", "ArrowLeft", 511),
    ):
        tab_to(page, f"range slider for {name}")
        page.keyboard.press(key)
        expect(page.get_by_role("slider", name=name)).to_have_value(str(value))
    tab_to(page, "Toggle Sidebar")
    page.keyboard.press("Enter")
    expect(page.get_by_role("slider", name="Temperature")).to_be_hidden()
    answered(page, scripted, "Yes.")
    (body,) = scripted.bodies
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.65, 0.85, 511)


def test_tab_goes_through_the_page_in_the_order_one_reads_it(visit, scripted):
    page = visit()
    answered(page, scripted, "Yes.")
    box(page).focus()
    order = [tabbed(page)["name"] for _ in range(20)]
    expected = [
        "Send",
        "Settings",
        "Clear",
        "Copy conversation",
        "Copy message",
        "Edit",
        "Copy message",
        "Retry",
        "Undo",
        "Message",
    ]
    met = [name for name in order if name]
    assert "Toggle Sidebar" not in met  # what is closed is not in the way
    assert [name for name in met if name in expected][: len(expected)] == expected


def test_one_sees_where_the_keyboard_is(visit, scripted):
    page = visit()
    answered(page, scripted, "Yes.")
    panel(page)
    box(page).focus()
    unseen = [one["name"] for one in (tabbed(page) for _ in range(24)) if not one["is_marked"]]
    assert unseen == []


def tabbed(page):
    """What the next Tab leads to: its name, its tag, and whether one sees it is there."""
    page.keyboard.press("Tab")
    settle(page)
    return page.evaluate(
        """() => {
            const one = document.activeElement;
            const look = getComputedStyle(one);
            const accent = getComputedStyle(document.body).getPropertyValue("--color-accent");
            const probe = document.createElement("i");
            probe.style.color = accent;
            document.body.append(probe);
            const color = getComputedStyle(probe).color;
            probe.remove();
            const isOutlined = look.outlineStyle == "solid" && look.outlineColor == color
                && parseFloat(look.outlineWidth) >= 2;
            const block = one.closest(".block");
            return {
                name: one.getAttribute("aria-label") || one.title || (one.labels?.[0]
                    ?.querySelector("[data-testid=block-info]") ?? one).innerText.trim(),
                tag: one.tagName,
                is_marked: one == document.body || isOutlined
                    || (one.tagName == "TEXTAREA" && block
                        && getComputedStyle(block).borderTopColor == color),
            };
        }"""
    )


def tab_to(page, name):
    """Press Tab until something is reached."""
    met = []
    for _ in range(60):
        one = tabbed(page)
        if one["name"] == name:
            return
        met.append(one["name"])
    raise AssertionError(f"Tab never leads to {name}, only to {met}")


# --- by ear --------------------------------------------------------------------------------------


def test_everything_has_a_name_for_a_screen_reader(visit, scripted):
    page = visit()
    expect(box(page)).to_be_visible()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.get_by_role("button", name="Settings")).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Rehearsal")
    streaming(page, scripted)
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, textarea, input")]
            .filter(one => one.checkVisibility({visibilityProperty: true}))
            .filter(one => !(one.ariaLabel || one.title || one.innerText.trim()
                || one.labels?.[0]?.innerText.trim()))
            .map(one => one.outerHTML)"""
    )
    assert nameless == []


def test_the_settings_have_names_for_a_screen_reader(visit):
    page = visit()
    panel(page)
    expect(page.get_by_role("textbox", name="System prompt")).to_be_visible()
    for name in ("Temperature", "Top-p", "Max tokens"):
        expect(page.get_by_role("slider", name=name)).to_be_visible()
        expect(page.get_by_role("spinbutton", name=name)).to_be_visible()


def test_the_conversation_is_read_out_as_it_grows(visit, scripted):
    page = visit()
    answered(page, scripted, "Yes.")
    expect(log(page)).to_have_attribute("aria-live", "polite")
    expect(log(page).get_by_label("user's message: Hello")).to_be_visible()
    expect(log(page).get_by_label("bot's message: Yes.")).to_be_visible()


# --- what is in an answer ------------------------------------------------------------------------


def test_markdown_code_and_formulas_are_rendered(visit, scripted):
    page = visit()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    long_answer(page, scripted)
    expect(log(page).get_by_role("heading", name="Static batching")).to_be_visible()
    expect(log(page).get_by_role("table")).to_contain_text("Ada")
    expect(log(page).locator("strong", has_text="four answers")).to_be_visible()
    expect(log(page).locator(".katex-display math")).to_have_count(1)
    link = log(page).get_by_role("link", name="guide")
    expect(link).to_have_attribute("rel", re.compile("noopener"))
    expect(log(page).locator("pre .token.keyword").first).to_have_text("def")
    log(page).get_by_title("copy", exact=True).click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("def count_words") and "utf-8" in copied


def test_notes_are_smaller_than_the_answer_and_copied_without_html(visit, scripted):
    page = visit()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    answered(page, scripted, "Yes.")
    size = "one => parseFloat(getComputedStyle(one).fontSize)"
    note, answer = page.get_by_text("First token after"), log(page).get_by_text("Yes.", exact=True)
    assert note.evaluate(size) < answer.evaluate(size)
    log(page).get_by_role("button", name="Copy message").last.click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert "Yes." in copied and "First token after" in copied and "<" not in copied


def test_hebrew_begins_at_the_right_and_english_at_the_left(visit, scripted):
    page = visit(PHONE)
    answered(page, scripted, "שלום\n\nEnglish and שלום\n\n👋🏽 👩‍👩‍👧")
    where = """one => {
        const range = document.createRange();
        range.selectNodeContents(one);
        const text = range.getBoundingClientRect(), all = one.getBoundingClientRect();
        return text.left - all.left < all.right - text.right ? "left" : "right";
    }"""
    assert log(page).get_by_text("שלום", exact=True).evaluate(where) == "right"
    assert log(page).get_by_text("English and").evaluate(where) == "left"
    expect(log(page)).to_contain_text("👋🏽 👩‍👩‍👧")


HOSTILE = """<script>document.title = "taken"</script>
<img src="https://example.com/a.png" onerror="document.title = 'taken'">
<style>body { display: none }</style>
<form action="https://example.com"><input name="password"></form>
<iframe src="https://example.com"></iframe>
<b>bold</b> <|eot_id|>

![remote](https://example.com/b.png)
"""


def test_html_is_shown_and_nothing_is_fetched_from_elsewhere(visit, scripted):
    page = visit()
    expect(page).to_have_title(re.compile("Rehearsal"))
    title = page.title()
    scripted.will_stream(*said(HOSTILE), END)
    ask(page, HOSTILE)
    has_answered(page)
    is_ready(page)
    for who in ("user", "bot"):
        message = log(page).get_by_test_id(who).first
        for text in ("<script>", "<img src=", "<style>", "<form ", "<iframe ", "<b>bold</b>"):
            expect(message).to_contain_text(re.compile("⁠?".join(text)))
        expect(message).to_contain_text("<|eot_id|>")
        expect(message.locator("script, style, form, iframe, input, b")).to_have_count(0)
    assert page.title() == title
    expect(box(page)).to_be_visible()
    assert [url for url in page.requested if not is_here(url)] == blocked(page)


COVER = '<div style="position:fixed;inset:0;background:red;z-index:99999">x</div>'
UNCLEAR = (  # renderers do not agree on where the code ends
    f"- a\n  ```\n     ```\n  {COVER}",
    f"```\ncode\n```\u00a0\n```\n{COVER}",
    f"```\ncode\n```\f\n```\n{COVER}",
    f'[a]: /u "x\n```\n"\n{COVER}',
)


def test_nothing_gets_out_of_code_and_nothing_covers_the_page(visit, scripted):
    page = visit()
    for times, text in enumerate(UNCLEAR, start=1):
        answered(page, scripted, text, times=times)
    expect(log(page).locator("[style*=fixed]")).to_have_count(0)
    answered(
        page,
        scripted,
        r"\(\kern-90em\smash{\rule{300em}{300em}}\) after it",
        times=len(UNCLEAR) + 1,
    )
    question = log(page).get_by_test_id("user").last

    def is_uncovered():
        question.scroll_into_view_if_needed()
        page.wait_for_timeout(450)  # see look_up
        return question.evaluate(
            """one => {
                const {left, top, width, height} = one.getBoundingClientRect();
                const there = document.elementFromPoint(left + width / 2, top + height / 2);
                return one.contains(there) || there?.contains(one);
            }"""
        )

    wait_until(is_uncovered, within_s=30)


def test_a_picture_in_an_answer_logs_nobody_out(visit, scripted):
    page, answers = visit(), []
    page.on("response", lambda response: answers.append(response.url))
    answered(page, scripted, "![here](/logout) ![on](logout)")
    picture = log(page).get_by_alt_text("here")
    expect(picture).to_have_js_property("complete", True)
    is_ready(page)
    assert [url for url in page.requested if url.endswith("/logout")]
    assert not [url for url in answers if url.endswith("/logout")]


def test_an_address_in_angle_brackets_leads_where_it_says(visit, scripted):
    page, address = visit(), "https://aws.amazon.com/ec2/?a=1&b=2"
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    text = f"<{address}>, <https://a.example>. And <https://a.example/ x>, `<{address}>`"
    answered(page, scripted, text)
    links = log(page).get_by_test_id("bot").first.locator("a")
    assert [link.get_attribute("href") for link in links.all()] == [
        address,
        "https://a.example",
        "https://a.example/",
    ]
    log(page).get_by_role("button", name="Copy message").last.click()
    wait_until(lambda: page.evaluate("navigator.clipboard.readText()").startswith(text))


FORM = "&lt;form&gt;&lt;input type=password&gt;&lt;/form&gt;"
DIAGRAMS = (
    f'```mermaid\ngraph TD;\nA["{FORM}"]-->B\n```',
    "```mermaid\ngraph TD;\nA--\nB [[[\n```",
    "- ```mermaid\n  graph TD;\n  A-->B\n  ```",
    "> ````mermaid\n> graph TD;\n> A-->B\n> ````",
    "~~~mermaid\ngraph TD;\nA-->B\n~~~",
)


def test_a_diagram_is_shown_as_its_source(visit, scripted):
    page, text = visit(), "\n\n".join(DIAGRAMS)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    scripted.will_stream(*said(*re.findall(r"\S*\s*", text)), END, pause_s=0.05)
    ask(page, text)
    has_answered(page)
    is_ready(page)
    for who in ("user", "bot"):
        sources = log(page).get_by_test_id(who).first.locator("code")
        expect(sources.filter(has_text="graph TD;")).to_have_count(len(DIAGRAMS))
        expect(sources.locator("svg, form, input")).to_have_count(0)
    assert [url for url in page.requested if "mermaid" in url] == []  # not for a moment
    log(page).get_by_role("button", name="Copy message").last.click()
    wait_until(lambda: page.evaluate("navigator.clipboard.readText()").startswith(text))


TRICKS = {
    "entity": "```x&#32;mermaid\ngraph TD;\nA-->B\n```",
    "formula": "```x$$ mermaid $$\ngraph TD;\nA-->B\n```",
    "formula from elsewhere": "$$ mermaid $$\n\n```x%%%LATEX_BLOCK_0%%%\ngraph TD;\nA-->B\n```",
}


@pytest.mark.parametrize("trick", TRICKS.values(), ids=TRICKS)
def test_what_tricks_the_page_into_a_diagram_draws_none(visit, scripted, trick):
    page = visit()
    with page.expect_response(re.compile("/mermaid.core-")) as what_draws:
        answered(page, scripted, trick)
    assert what_draws.value.status == 404
    expect(log(page).locator("code.mermaid")).to_have_text(re.compile(r"graph TD;\s*A-->B"))


def blocked(page):
    """Requests that the browser's own rules ended before they left: those of Markdown pictures."""
    return [url for url in page.requested if url == "https://example.com/b.png"]


def test_a_whole_conversation_asks_nothing_of_anybody_else_and_nothing_complains(visit, scripted):
    page = visit()
    long_answer(page, scripted)
    panel(page)
    page.get_by_role("button", name="Toggle Sidebar").click()
    page.get_by_role("button", name="Clear").click()
    expect(log(page)).not_to_contain_text("Static batching")
    assert len(page.requested) > 10
    assert [url for url in page.requested if not is_here(url)] == []
    assert page.complaints == []


def is_here(url):
    return url.startswith(("http://127.0.0.1:", "data:", "blob:"))


# --- while it is written -------------------------------------------------------------------------


def test_the_end_stays_in_sight_unless_the_reader_looks_further_up(visit, scripted):
    page = visit(PHONE)
    answered(page, scripted, "One line.\n\n" * 40)
    expect(page.get_by_text("First token after")).to_be_in_viewport()
    scripted.will_stream(*said(*["Another line.\n\n"] * 200), END, pause_s=0.5)
    ask(page)
    expect(log(page).get_by_text("Another line.").nth(8)).to_be_in_viewport()
    look_up(page)
    seen = position(page)
    lines = log(page).get_by_text("Another line.").count()
    wait_until(lambda: log(page).get_by_text("Another line.").count() > lines + 4, within_s=30)
    assert position(page) == seen
    page.get_by_role("button", name="Stop").click()


def test_who_sends_a_message_sees_it_though_they_were_reading_further_up(visit, scripted):
    page = visit(PHONE)
    answered(page, scripted, "One line.\n\n" * 100)
    look_up(page)
    scripted.will_stream(*said("Yes."), END)
    ask(page, "And then?")
    expect(log(page).get_by_text("And then?")).to_be_in_viewport()
    expect(log(page).get_by_text("Yes.", exact=True)).to_be_in_viewport()


def test_an_answer_that_comes_at_once_is_followed_to_its_end(visit, scripted):
    page = visit()
    answered(page, scripted, "One line.\n\n" * 40)
    answered(page, scripted, *["Another line.\n\n" * 30] * 4, times=2)
    expect(page.get_by_text("First token after").last).to_be_in_viewport()


def look_up(page):
    """Turn the wheel until it has an effect: Gradio may take the first 0.3 s of it back."""
    log(page).hover()

    def is_up():
        page.mouse.wheel(0, -900)
        page.wait_for_timeout(450)
        return to_the_end(page) > 700

    wait_until(is_up, within_s=30)


def to_the_end(page):
    return log(page).evaluate("one => one.scrollHeight - one.clientHeight - one.scrollTop")


def position(page):
    return log(page).evaluate("one => one.scrollTop")
