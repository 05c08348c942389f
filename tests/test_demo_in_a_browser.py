"""The chat page as somebody in front of it sees it, in a real browser."""

import re
import threading

import deployed
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
from deployed import NAME
from playwright.sync_api import expect
from scripted import exception, part

from helpers import endpoint

pytestmark = pytest.mark.filterwarnings(COUNTING)

expect.set_options(timeout=30_000)

SLOTS = 2
TWO_SLOTS = {"image": IMAGE, "env": ENV | {"MAX_BATCH_SIZE": str(SLOTS)}}
CLIPBOARD = ["clipboard-read", "clipboard-write"]
NAMES = ("Temperature", "Top-p", "Max tokens")
NOT_COMPLETE = "The answer is not complete: wait for it, or stop it first."


class Reader:
    """Somebody with the page open in a tab."""

    def __init__(self, context, url):
        self.tab = context.new_page()
        self.tab.goto(url)
        self.box = self.tab.get_by_role("textbox", name=re.compile("^Message"))
        self.box.wait_for()
        self.log = self.tab.get_by_role("log")
        self.asked = self.log.get_by_test_id("user")
        self.answers = self.log.get_by_test_id("bot")
        self.stop_button = self.tab.locator("button.stop-button")
        self.answered = 0

    def asks(self, text):
        self.answered = self.answers.count()
        self.box.fill(text)
        self.box.press("Enter")

    def sees(self, text):
        expect(self.log).to_contain_text(text)

    def sees_no(self, text):
        expect(self.log).not_to_contain_text(text)

    def is_told(self, text):
        """In a toast, at the edge of the page."""
        expect(self.tab.get_by_test_id("toast-body").last).to_contain_text(text)

    def sees_a_whole_answer(self, text):
        """To what was asked last, with its figures, and can ask again."""
        expect(self.answers.nth(self.answered)).to_be_visible()
        expect(self.answers.filter(has_text=text).last).to_be_visible()
        expect(self.answers.last).to_contain_text(re.compile("First token after .* tokens? · "))
        self.can_ask()

    def can_ask(self):
        expect(self.stop_button).to_have_count(0)

    def stops(self):
        self.stop_button.click()

    def leaves(self):
        """Once nothing of one's own is in the line or being written: the next test begins there."""
        if not self.tab.is_closed():
            self.tab.evaluate("document.querySelector('button.stop-button')?.click()")  # or it goes
            self.can_ask()
        self.tab.close()

    def begins_anew(self):
        if self.asked.count():
            self.button("Clear").first.click()
        expect(self.asked).to_have_count(0)

    def button(self, name):
        return self.tab.get_by_role("button", name=name, exact=True)

    def clipboard(self):
        return self.tab.evaluate("navigator.clipboard.readText()")


@pytest.fixture(scope="module")
def page(served):
    with launched(session_with(served), some_endpoint(**TWO_SLOTS)) as page:
        yield page


@pytest.fixture(scope="module")
def contexts(browser):
    """A context for each reader: its tabs have six connections to a server, all together.

    They come again, as the page's files, which they keep, take a second to load.
    """
    return [browser.new_context(permissions=CLIPBOARD) for _ in range(SLOTS + 2)]


@pytest.fixture
def visits(contexts):
    """Opens the page for one more reader; all of them leave at the end."""
    readers, free = [], iter(contexts)

    def visit(page):
        readers.append(Reader(next(free), page.url))
        return readers[-1]

    yield visit
    for reader in reversed(readers):  # nobody is served who is about to leave
        reader.leaves()


@pytest.fixture
def reader(visits, page):
    return visits(page)


@pytest.fixture(scope="module")
def _patient(browser, page):
    return Reader(browser.new_context(), page.url)


@pytest.fixture
def patient(_patient):
    """A reader who has seen much, and has cleared the page: that is quicker than loading it."""
    _patient.begins_anew()
    return _patient


def sent(scripted, number=-1):
    """What the model got of the conversation, without the system prompt."""
    return [
        (turn["role"], turn["content"])
        for turn in scripted.bodies[number]["messages"]
        if turn["role"] != "system"
    ]


def answers(scripted, *words):
    scripted.will_stream(*said(*words), END)


def writes_on(scripted, *words):
    """Some words, and then the stream is held open."""
    scripted.will_stream(*said(*words), ending="hang")


# --- an answer -----------------------------------------------------------------------------------


def test_an_answer_is_on_screen_while_it_is_being_written(scripted, reader):
    more, rest = threading.Event(), threading.Event()
    scripted.will_stream(*said("Grüß "), more, *said("Gott "), rest, *said("👋"), END)
    reader.asks("Hello")
    reader.sees("Grüß")
    expect(reader.asked).to_have_text(["Hello"])
    expect(reader.stop_button).to_be_visible()
    more.set()
    reader.sees("Grüß Gott")
    reader.sees_no("First token")
    rest.set()
    reader.sees_a_whole_answer("Grüß Gott 👋")
    expect(reader.answers.last).to_have_text(
        re.compile(
            r"^\s*First token after \d+\.\d\d s · \d+\.\d tokens/s after it · 3 tokens · "
            r"\$\d+\.\d{4} · rehearsal\s*$"
        )
    )


def test_the_box_is_empty_and_has_the_focus_for_the_next_message(scripted, reader):
    expect(reader.box).to_be_focused()
    writes_on(scripted, "endless")
    reader.tab.keyboard.type("Hello")
    reader.tab.keyboard.press("Enter")
    reader.sees("endless")
    expect(reader.box).to_have_value("")
    expect(reader.box).to_be_focused()


def test_what_is_typed_right_after_enter_is_kept(scripted, reader):
    writes_on(scripted, "endless")
    reader.tab.keyboard.type("Hello")
    reader.tab.keyboard.press("Enter", delay=60)  # as people type
    reader.tab.keyboard.type("And then?", delay=40)
    reader.sees("endless")
    expect(reader.box).to_have_value("And then?")
    assert sent(scripted) == [("user", "Hello")]


def test_the_same_message_twice_leaves_the_box_twice(scripted, reader):
    for word in ("first", "second"):
        answers(scripted, word)
        reader.asks("Hello")
        reader.sees_a_whole_answer(word)
        expect(reader.box).to_have_value("")


def test_half_a_character_harms_nothing(scripted, reader):
    scripted.will_stream(*said("half \ud83d ", "whole \ud83d", "\udc4b"), END)
    reader.box.evaluate(
        """box => {
            box.value = "Hello \\ud83d";
            box.dispatchEvent(new Event("input", {bubbles: true}));
        }"""
    )
    reader.box.press("Enter")
    reader.sees_a_whole_answer("half \ufffd whole 👋")
    expect(reader.asked).to_have_text(["Hello \ufffd"])
    expect(reader.box).to_have_value("")


def test_shift_and_enter_begin_a_new_line(scripted, reader):
    answers(scripted, "yes")
    reader.box.press_sequentially("one")
    reader.box.press("Shift+Enter")
    reader.box.press_sequentially("two")
    expect(reader.box).to_have_value("one\ntwo")
    assert scripted.bodies == []
    reader.box.press("Enter")
    reader.sees_a_whole_answer("yes")
    assert sent(scripted) == [("user", "one\ntwo")]


def test_an_empty_message_is_not_sent(scripted, reader):
    reader.asks("  ")
    reader.is_told("Type a message first.")
    assert scripted.bodies == []


def test_a_second_message_waits_in_the_box(scripted, reader):
    writes_on(scripted, "endless")
    reader.asks("first")
    reader.sees("endless")
    reader.asks("second")
    reader.is_told(NOT_COMPLETE)
    expect(reader.box).to_have_value("second")
    reader.stops()
    reader.can_ask()
    expect(reader.box).to_have_value("second")
    answers(scripted, "done")
    reader.box.press("Enter")
    reader.sees_a_whole_answer("done")
    assert sent(scripted) == [("user", "first"), ("assistant", "endless"), ("user", "second")]


def test_an_example_is_asked_with_a_click(scripted, reader):
    answers(scripted, "a chip")
    reader.tab.get_by_text("What is AWS Inferentia2, in three sentences?").click()
    reader.sees_a_whole_answer("a chip")
    assert sent(scripted) == [("user", "What is AWS Inferentia2, in three sentences?")]


# --- stop ----------------------------------------------------------------------------------------


def test_stop_ends_the_request_and_keeps_what_is_written(scripted, reader):
    writes_on(scripted, "so ", "far")
    reader.asks("Hello")
    reader.sees("so far")
    reader.stops()
    assert scripted.gone.wait(30)
    reader.sees("Stopped.")
    reader.sees_a_whole_answer("so far")
    answers(scripted, "and on")
    reader.asks("Go on")
    reader.sees_a_whole_answer("and on")
    assert sent(scripted) == [("user", "Hello"), ("assistant", "so far"), ("user", "Go on")]


def test_stop_before_the_first_token(scripted, reader):
    writes_on(scripted)
    reader.asks("Hello")
    wait_until(lambda: scripted.bodies, within_s=30)
    reader.stops()
    assert scripted.gone.wait(30)
    reader.sees("Stopped.")
    reader.can_ask()
    answers(scripted, "here")
    reader.asks("Again")
    reader.sees_a_whole_answer("here")


# --- once more, back, away -----------------------------------------------------------------------


def test_retry_asks_the_last_message_again(scripted, reader):
    for word in ("first", "second"):
        answers(scripted, word)
        reader.asks(f"the {word} question")
        reader.sees_a_whole_answer(word)
    answers(scripted, "third")
    reader.button("Retry").click()
    reader.sees_a_whole_answer("third")
    expect(reader.answers.filter(has_text="second")).to_have_count(0)
    expect(reader.asked).to_have_text(["the first question", "the second question"])
    assert sent(scripted, 2) == sent(scripted, 1)


def test_a_retry_that_fails_leaves_the_answer_there_was(scripted, reader):
    answers(scripted, "good")
    reader.asks("Hello")
    reader.sees_a_whole_answer("good")
    scripted.will_refuse(400, "ThrottlingException", "Rate exceeded")
    reader.button("Retry").click()
    reader.sees("SageMaker throttled the call")
    reader.can_ask()
    reader.sees("good")
    _next_message_works(
        scripted, reader, [("user", "Hello"), ("assistant", "good"), ("user", "Are you there?")]
    )


def test_a_retry_without_a_word_says_so_below_the_answer_there_was(scripted, reader):
    scripted.will_stream(END)
    reader.asks("Hello")
    reader.sees("The model answered without a word: ask again")
    answers(scripted, "good")
    reader.button("Retry").click()
    reader.sees_a_whole_answer("good")
    reader.sees_no("without a word")
    scripted.will_stream(END)
    reader.button("Retry").click()
    reader.sees("The model answered without a word: ask again")
    reader.sees("good")


def test_undo_keeps_what_is_in_the_box(scripted, reader):
    answers(scripted, "first")
    reader.asks("Hello")
    reader.sees_a_whole_answer("first")
    reader.box.fill("a draft")
    reader.button("Undo").click()
    expect(reader.box).to_have_value("Hello\na draft")


def test_undo_puts_the_last_message_back_into_the_box(scripted, reader):
    for word in ("first", "second"):
        answers(scripted, word)
        reader.asks(f"the {word} <b>question</b>")
        reader.sees_a_whole_answer(word)
    reader.button("Undo").click()
    expect(reader.box).to_have_value("the second <b>question</b>")
    expect(reader.asked).to_have_count(1)
    expect(reader.answers.filter(has_text="second")).to_have_count(0)
    answers(scripted, "third")
    reader.box.press("Enter")
    reader.sees_a_whole_answer("third")
    assert sent(scripted, 2) == sent(scripted, 1)


def test_a_changed_message_drops_what_came_after_it(scripted, reader):
    for word in ("first", "second", "third"):
        answers(scripted, f"answer {word}")
        reader.asks(f"question {word}")
        reader.sees_a_whole_answer(f"answer {word}")
    answers(scripted, "new answer")
    reader.button("Edit").nth(1).click()
    reader.log.locator("textarea").fill("changed question")
    reader.button("Submit").first.click()
    reader.answered = 2  # the first answer and its figures stay
    reader.sees_a_whole_answer("new answer")
    expect(reader.asked).to_have_text(["question first", "changed question"])
    assert sent(scripted) == [
        ("user", "question first"),
        ("assistant", "answer first"),
        ("user", "changed question"),
    ]


def test_a_changed_message_that_is_not_sent_changes_nothing(scripted, reader):
    answers(scripted, "answer")
    reader.asks("a <b> question")
    reader.sees_a_whole_answer("answer")
    for refused in (" ", "word " * 2000):
        reader.button("Edit").click()
        reader.log.locator("textarea").fill(refused)
        reader.button("Submit").first.click()
        reader.is_told("Not sent.")
        expect(reader.asked).to_have_text(["a <\u2060b> question"])
    answers(scripted, "changed")
    reader.button("Edit").click()
    reader.log.locator("textarea").press("End")
    reader.log.locator("textarea").press("!")
    reader.button("Submit").first.click()
    reader.sees_a_whole_answer("changed")
    assert sent(scripted) == [("user", "a <b> question!")]


def test_the_keyboard_stays_with_the_box_when_a_button_goes(scripted, reader):
    def presses(button):
        button.focus()
        button.press("Enter")
        expect(reader.box).to_be_focused()

    answers(scripted, "first")
    reader.asks("Hello")
    reader.sees_a_whole_answer("first")
    writes_on(scripted, "endless")
    reader.asks("Hello")
    reader.sees("endless")
    presses(reader.stop_button)
    reader.can_ask()
    answers(scripted, "again")
    presses(reader.button("Retry"))
    reader.sees("again")
    reader.can_ask()
    presses(reader.button("Undo"))
    expect(reader.asked).to_have_count(1)
    presses(reader.button("Clear").first)
    expect(reader.asked).to_have_count(0)
    answers(scripted, "example")
    presses(reader.button("What is AWS Inferentia2, in three sentences?"))
    reader.sees("example")


def test_what_changes_the_conversation_waits_for_the_answer(scripted, reader):
    answers(scripted, "first")
    reader.asks("Hello")
    reader.sees_a_whole_answer("first")
    writes_on(scripted, "endless")
    reader.asks("Hello")
    reader.sees("endless")
    for name in ("Edit", "Retry", "Undo"):
        expect(reader.button(name).first).to_be_disabled()
    reader.stops()
    for name in ("Edit", "Retry", "Undo"):
        expect(reader.button(name).first).to_be_enabled()


def test_clear_begins_anew(scripted, reader):
    answers(scripted, "first")
    reader.asks("Hello")
    reader.sees_a_whole_answer("first")
    reader.button("Clear").click()
    reader.sees("Ask something")
    reader.sees_no("first")
    answers(scripted, "second")
    reader.asks("Hello again")
    reader.sees_a_whole_answer("second")
    assert sent(scripted) == [("user", "Hello again")]


def test_nothing_comes_back_after_clear(scripted, reader):
    pieces = [f"piece{number} " for number in range(300)]
    scripted.will_stream(*said(*pieces), ending="hang", pause_s=0.02)
    reader.asks("Hello")
    reader.sees("piece9")
    reader.button("Clear").click()
    assert scripted.gone.wait(30)
    reader.can_ask()
    reader.sees_no("piece")
    answers(scripted, "new")
    reader.asks("Hello again")
    reader.sees_a_whole_answer("new")
    reader.sees_no("piece")
    assert sent(scripted) == [("user", "Hello again")]


def test_what_is_typed_while_undo_is_under_way_is_kept(scripted, reader):
    answers(scripted, "first")
    reader.asks("Hello")
    reader.sees_a_whole_answer("first")
    reader.box.fill("a ")
    held = []
    reader.tab.route("**/gradio_api/run/**", lambda request: held.append(request))
    reader.button("Undo").click()
    reader.box.press_sequentially("draft")
    wait_until(lambda: held or reader.tab.wait_for_timeout(20))
    for request in held:
        request.continue_()
    reader.tab.unroute("**/gradio_api/run/**")
    expect(reader.box).to_have_value("Hello\na draft")
    expect(reader.asked).to_have_count(0)


@pytest.mark.parametrize(
    ("text", "word"),
    [("**bold** and `code`", "bold"), ("```make\nall:\n\tgcc x.c\n```", "gcc")],
    ids=["marks", "tabs"],
)
def test_an_answer_is_copied_as_the_model_wrote_it(scripted, reader, text, word):
    answers(scripted, text)
    reader.asks("Hello")
    reader.sees_a_whole_answer(word)
    reader.button("Copy message").last.click()
    expect(reader.button("Copied message")).to_be_visible()
    assert reader.clipboard().startswith(text)


def test_code_is_copied_as_the_model_wrote_it(scripted, reader):
    code = "cat <<EOF\n#include <stdio.h>\nEOF"
    answers(scripted, f"- Look:\n\n  ```sh\n  {code.replace(chr(10), chr(10) + '  ')}\n  ```\n")
    reader.asks("Hello")
    reader.sees_a_whole_answer("stdio.h")
    reader.log.get_by_title("copy", exact=True).click()
    wait_until(lambda: reader.clipboard().strip() == code)
    reader.tab.evaluate("navigator.clipboard.writeText('')")
    reader.tab.evaluate("getSelection().selectAllChildren(document.querySelector('pre code'))")
    reader.tab.keyboard.press("ControlOrMeta+C")
    wait_until(lambda: reader.clipboard().strip() == code)


CODE = "\n    def f(x):\n\t\treturn x"


def test_indentation_and_tabs_are_kept_when_the_page_is_loaded_again(scripted, reader):
    answers(scripted, CODE)
    reader.asks(CODE)
    reader.sees_a_whole_answer("def")
    reader.tab.reload()
    reader.sees_a_whole_answer("def")
    answers(scripted, "yes")
    reader.asks("Now?")
    reader.sees_a_whole_answer("yes")
    assert sent(scripted) == [("user", CODE), ("assistant", CODE), ("user", "Now?")]


def test_a_list_within_a_list_is_one(scripted, reader):
    answers(scripted, "- Fruits\n  - apple\n")
    reader.asks("Hello")
    reader.sees_a_whole_answer("apple")
    expect(reader.log.locator("li li")).to_have_text(["apple"])


def test_what_is_edited_retried_and_undone_is_what_was_typed(scripted, reader):
    answers(scripted, "answer")
    reader.asks(CODE)
    reader.sees_a_whole_answer("answer")
    edited = reader.log.locator("textarea")
    for refused in (" ", CODE + "word " * 2000):
        reader.button("Edit").click()
        expect(edited).to_have_value(CODE)
        edited.fill(refused)
        reader.button("Submit").first.click()
        reader.is_told("Not sent.")
    answers(scripted, "changed")
    reader.button("Edit").click()
    edited.fill(f"{CODE} + 1")
    reader.button("Submit").first.click()
    reader.sees_a_whole_answer("changed")
    answers(scripted, "again")
    reader.button("Retry").click()
    reader.sees_a_whole_answer("again")
    assert [sent(scripted, number) for number in (1, 2)] == [[("user", f"{CODE} + 1")]] * 2
    reader.button("Undo").click()
    expect(reader.box).to_have_value(f"{CODE} + 1")


# --- more readers than slots ---------------------------------------------------------------------


@pytest.fixture
def crowd(scripted, visits, page):
    """As many readers as there are slots, whose answers do not end, and two in line."""
    readers = []
    for number in range(SLOTS + 2):
        writes_on(scripted, f"for{number}")
        readers.append(visits(page))
        readers[-1].asks(f"Hello {number}")
        readers[-1].sees(_first_sight(number))
    return readers


def _first_sight(number):
    if number < SLOTS:
        return f"for{number}"
    if number == SLOTS:
        return "All slots are busy: yours is the next."
    return f"All slots are busy: {number - SLOTS} before you in line."


def test_those_in_line_see_their_place_and_are_served_in_turn(scripted, crowd):
    first, second, third, fourth = crowd
    assert len(scripted.bodies) == SLOTS
    second.stops()
    third.sees("for2")
    third.sees_no("All slots are busy")
    fourth.sees("yours is the next.")
    assert len(scripted.bodies) == SLOTS + 1
    first.stops()
    fourth.sees("for3")
    fourth.stops()
    fourth.sees(re.compile(r"Waited \d+\.\d s in line"))
    first.sees_no("in line")


def test_who_stops_in_line_leaves_it_and_nothing_is_sent(scripted, crowd):
    first, _, third, fourth = crowd
    third.stops()
    third.sees("Stopped.")
    third.can_ask()
    fourth.sees("yours is the next.")
    first.stops()
    fourth.sees("for2")  # the script that was the third one's
    assert [sent(scripted, number)[0][1] for number in range(3)] == [
        "Hello 0",
        "Hello 1",
        "Hello 3",
    ]


LEAVING = {
    "closed": lambda reader: reader.tab.close(),
    "loaded again": lambda reader: reader.tab.reload(),
    "left": lambda reader: reader.tab.goto("about:blank"),
}


@pytest.mark.parametrize("leave", LEAVING.values(), ids=LEAVING)
def test_a_page_that_is_left_frees_its_slot(scripted, crowd, leave):
    leave(crowd[0])
    assert scripted.gone.wait(30)
    crowd[2].sees("for2")


def test_who_leaves_the_page_leaves_the_line(scripted, crowd):
    first, _, third, fourth = crowd
    third.tab.close()
    fourth.sees("yours is the next.")
    first.stops()
    fourth.sees("for2")
    assert sent(scripted)[0][1] == "Hello 3"


def test_who_waits_in_line_and_loads_the_page_again_is_told_that_they_are_not_in_it(crowd):
    third = crowd[2]
    third.tab.reload()
    third.sees("Stopped: the page was loaded again.")
    third.sees_no("yours is the next.")
    third.can_ask()


def test_a_page_that_was_loaded_again_has_the_conversation_and_goes_on(scripted, reader):
    reader.button("Settings").click()
    reader.tab.get_by_label("System prompt").fill("Answer in Latin.")
    answers(scripted, "first")
    reader.asks("Hello <b>")
    reader.sees_a_whole_answer("first")
    writes_on(scripted, "so far")
    reader.asks("More")
    reader.sees("so far")
    reader.box.fill("a draft")
    reader.tab.reload()  # as Gradio does when a connection that broke is back
    assert scripted.gone.wait(30)
    reader.sees("so far")
    reader.sees("Stopped: the page was loaded again.")
    expect(reader.box).to_have_value("a draft")
    answers(scripted, "here")
    reader.asks("Again")
    reader.sees_a_whole_answer("here")
    assert [text for _, text in sent(scripted)] == ["Hello <b>", "first", "More", "so far", "Again"]
    assert scripted.bodies[-1]["messages"][0] == {"role": "system", "content": "Answer in Latin."}


def test_another_tab_begins_anew(scripted, reader, visits, page):
    answers(scripted, "first")
    reader.asks("Hello")
    reader.sees_a_whole_answer("first")
    visits(page).sees("Ask something")


# --- what goes wrong -----------------------------------------------------------------------------

TGI_OVERLOADED = '{"error":"Model is overloaded","error_type":"overloaded"}'
TGI_FAILED = b'data:{"error":"Request failed during generation","error_type":"generation"}\n\n'

REFUSALS = {
    "overload": (
        (424, "ModelError", "Received client error (429) from primary"),
        {"OriginalStatusCode": 429, "OriginalMessage": TGI_OVERLOADED},
        "The container has no room for another request (Model is overloaded): try again in a "
        "moment.",
    ),
    "throttling": (
        (400, "ThrottlingException", "Rate exceeded"),
        {},
        "SageMaker throttled the call (Rate exceeded): wait a few seconds, or send fewer at once.",
    ),
    "time-out": (
        (424, "ModelError", "Received server error (0) from primary: Your invocation timed out"),
        {"OriginalStatusCode": 0, "OriginalMessage": ""},
        "did not answer in time: ask again, for fewer tokens.",
    ),
    "deleted endpoint": (
        (400, "ValidationError", "Endpoint e of account 123456789012 not found."),
        {},
        "in service: it is not up yet, or was deleted, perhaps at the end of its time to live.",
    ),
    "expired credentials": (
        (403, "ExpiredTokenException", "The security token included in the request is expired"),
        {},
        "AWS does not accept the credentials this was started with (The security token included in "
        "the request is expired): sign in again, then start it anew",
    ),
    "access denied": (
        (403, "AccessDeniedException", "User: u is not authorized to perform: sagemaker:Invoke"),
        {},
        "AWS refused (User: u is not authorized to perform: sagemaker:Invoke): the identity lacks "
        "this right; who administers the account gives it.",
    ),
}


@pytest.mark.parametrize(("refusal", "more", "sentence"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_one_sentence_and_the_next_message_works(
    scripted, patient, refusal, more, sentence
):
    scripted.will_refuse(*refusal, **more)
    patient.asks("Hello")
    patient.sees(sentence)
    expect(patient.answers).to_have_count(1)
    expect(patient.asked).to_have_text(["Hello"])
    _next_message_works(scripted, patient, [("user", "Hello"), ("user", "Are you there?")])


BREAKS = {
    "broken stream": (
        exception("ModelStreamError", Message="The connection was reset", ErrorCode="StreamBroken"),
        "The reply broke off after 6 characters (The connection was reset): ask again.",
    ),
    "time-out": (
        exception("ModelStreamError", Message="The invocation timed out"),
        "did not answer in time: ask again, for fewer tokens.",
    ),
    "error of TGI": (
        part(TGI_FAILED),
        "Broken off. The model failed while generating (Request failed during generation): try "
        "again, and look into the endpoint's log if it stays so.",
    ),
    "no end": (b"", "The reply broke off after 6 characters (it ended without a finish reason)"),
    "connection reset": (
        None,
        "The reply broke off after 6 characters (ProtocolError): ask again.",
    ),
}


@pytest.mark.parametrize(("last", "sentence"), BREAKS.values(), ids=BREAKS)
def test_what_breaks_off_stays_and_the_next_message_works(scripted, patient, last, sentence):
    shown = threading.Event()
    broken = [last] if last else []
    ending = "reset" if last is None else "end"
    scripted.will_stream(*said("so ", "far"), shown, *broken, ending=ending)
    patient.asks("Hello")
    patient.sees("so far")
    shown.set()
    patient.sees(sentence)
    patient.sees_a_whole_answer("so far")
    said_before = [("user", "Hello"), ("assistant", "so far")]
    _next_message_works(scripted, patient, [*said_before, ("user", "Are you there?")])


def _next_message_works(scripted, reader, conversation):
    reader.can_ask()
    answers(scripted, "Here I am")
    reader.asks("Are you there?")
    reader.sees_a_whole_answer("Here I am")
    assert sent(scripted) == conversation


def test_who_is_on_the_page_when_it_is_closed_is_told_so(scripted, visits):
    page = launched(session_with(scripted), some_endpoint(**TWO_SLOTS))
    readers = [visits(page) for _ in range(SLOTS + 1)]
    for number, reader in enumerate(readers):
        writes_on(scripted, "so ", "far")
        reader.asks("Hello")
        reader.sees("so far" if number < SLOTS else "yours is the next")
    page.close()
    for reader in readers:
        reader.sees("This page has been closed.")
        reader.can_ask()
    first = readers[0]
    first.sees("so far")
    first.asks("Are you there?")
    first.is_told("Connection to the server was lost.")
    expect(first.box).to_have_value("Are you there?")
    assert len(scripted.bodies) == SLOTS


def test_an_answer_that_flows_when_the_page_is_closed_ends_with_its_figures(scripted, visits):
    page = launched(session_with(scripted), some_endpoint(**TWO_SLOTS))
    reader = visits(page)
    scripted.will_stream(*said(*(f"w{number} " for number in range(2000))), pause_s=0.03)
    reader.asks("Hello")
    reader.sees("w5")
    page.close()
    reader.sees("This page has been closed.")
    expect(reader.answers.last).to_contain_text("First token after")


# --- a long conversation, settings, the header ---------------------------------------------------


def test_the_oldest_turns_go_and_the_page_says_so(scripted, reader):
    for number in range(5):
        answers(scripted, f"answer {number}")
        reader.asks(f"question {number} " + "word " * 150)  # some 250 tokens
        reader.sees_a_whole_answer(f"answer {number}")
    said_before = [text.split(" word")[0] for _, text in sent(scripted)]
    left_out = 9 - len(said_before)
    assert 0 < left_out < 8
    assert said_before[0] == f"question {left_out // 2}"
    assert said_before[-3:] == ["question 3", "answer 3", "question 4"]
    assert scripted.bodies[-1]["messages"][0]["role"] == "system"
    reader.sees(f"The {left_out} oldest messages were left out: beside an answer of up to")
    expect(reader.asked).to_have_count(5)  # on the page everything stays


def test_a_message_without_room_stays_in_the_box(scripted, reader):
    reader.asks("word " * 2000)
    reader.is_told("The message is too long")
    expect(reader.box).to_have_value(re.compile("^word word"))
    assert scripted.bodies == []


@pytest.fixture
def settings(reader):
    reader.button("Settings").click()
    reader.number = lambda name: reader.tab.get_by_label(f"number input for {name}")
    reader.slider = lambda name: reader.tab.get_by_label(f"range slider for {name}")
    return reader


def test_what_is_set_reaches_the_endpoint(scripted, settings):
    answers(scripted, "yes")
    settings.tab.get_by_label("System prompt").fill("Answer in Latin.")
    settings.number("Temperature").fill("1.25")
    settings.slider("Top-p").press("Home")
    settings.number("Max tokens").fill("77")
    settings.asks("Hello")
    settings.sees_a_whole_answer("yes")
    body = scripted.bodies[-1]
    assert body["messages"][0] == {"role": "system", "content": "Answer in Latin."}
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (1.25, 0.05, 77)


def test_the_settings_are_each_readers_own(scripted, settings, visits, page):
    settings.number("Max tokens").fill("77")
    answers(scripted, "yes")
    other = visits(page)
    other.asks("Hello")
    other.sees_a_whole_answer("yes")
    assert scripted.bodies[-1]["max_tokens"] == 512


def test_what_was_set_is_kept_within_what_another_endpoint_allows(scripted, visits):
    larger = TWO_SLOTS | {"env": TWO_SLOTS["env"] | {"MAX_TOTAL_TOKENS": "4096"}}
    with launched(session_with(scripted), some_endpoint(**larger)) as page:
        reader, port = visits(page), page.port
        reader.button("Settings").click()
        for name, number in zip(NAMES, ("0.3", "0.4", "1500"), strict=True):
            reader.tab.get_by_label(f"number input for {name}").fill(number)
        answers(scripted, "yes")
        reader.asks("Hello")
        reader.sees_a_whole_answer("yes")
    with launched(session_with(scripted), some_endpoint(**TWO_SLOTS), port=port):
        reader.tab.reload()
        reader.sees_a_whole_answer("yes")
        answers(scripted, "and again")
        reader.asks("Hello")
        reader.sees_a_whole_answer("and again")
        body = scripted.bodies[-1]
        assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.3, 0.4, 1024)
        reader.leaves()


def test_nothing_out_of_range_can_be_set(scripted, settings):
    for given, set_to in (
        (("0", "1", "99999"), (0.05, 0.95, 1024)),
        (("9", "-1", "-5"), (2.0, 0.05, 1)),
        (("", "", ""), (0.05, 0.05, 1)),
    ):
        for name, number in zip(NAMES, given, strict=True):
            settings.number(name).fill(number)
        answers(scripted, "yes")
        settings.asks("Hello")
        settings.sees_a_whole_answer("yes")
        for name, number in zip(NAMES, set_to, strict=True):
            expect(settings.number(name)).to_have_value(f"{number:g}")
        body = scripted.bodies[-1]
        assert (body["temperature"], body["top_p"], body["max_tokens"]) == set_to
        settings.begins_anew()


def test_the_page_says_rehearsal_however_long_the_conversation_is(scripted, reader):
    header = reader.tab.get_by_role("heading", name="Rehearsal: Meta-Llama-3-70B", exact=False)
    for number in range(2):
        answers(scripted, *[f"paragraph {number}.{line}\n\n" for line in range(60)])
        reader.asks("Write much")
        reader.sees_a_whole_answer(f"paragraph {number}.59")
        expect(header.first).to_be_in_viewport()
    reader.log.hover()
    for way in (-20_000, 20_000):
        reader.tab.mouse.wheel(0, way)
        expect(reader.answers.first if way < 0 else reader.answers.last).to_be_in_viewport()
        expect(header.first).to_be_in_viewport()


def test_on_aws_the_page_does_not_say_rehearsal(scripted, visits):
    aws = session_with(scripted, target="aws", speed=1.0)
    with launched(aws, some_endpoint(**TWO_SLOTS)) as page:
        reader = visits(page)
        answers(scripted, "yes")
        reader.asks("Hello")
        reader.sees_a_whole_answer("yes")
        expect(reader.tab.get_by_role("heading", name="on Inferentia2").first).to_be_visible()
        expect(reader.tab.locator("body")).not_to_contain_text(re.compile("rehearsal", re.I))


# --- over the rehearsal, with its faults ---------------------------------------------------------


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    with deployed.rehearsal(tmp_path_factory.mktemp("rehearsal")) as here:
        yield here


@pytest.fixture(scope="module")
def guest(browser, rehearsal):
    """A reader of a page over the rehearsal."""
    with launched(rehearsal, endpoint.find(rehearsal, NAME)) as page:
        yield Reader(browser.new_context(), page.url)


FAULTS = {
    "throttling": ({"every": 1}, "SageMaker throttled the call (Rate exceeded)"),
    "expired-credentials": ({}, "sign in again, then start it anew"),
    "model-error": ({"every": 1, "status": 429}, "has no room for another request"),
    "stall": ({"tokens": 0, "seconds": 600}, "did not answer in time: ask again"),
    "broken-stream": ({"tokens": 10}, "The reply broke off after"),
    "connection-reset": ({"tokens": 10}, "The reply broke off after"),
    "corrupt-frame": ({"tokens": 10}, "The reply broke off after"),
}


@pytest.mark.parametrize(("fault", "told"), FAULTS.items(), ids=FAULTS)
def test_a_fault_of_the_rehearsal_is_told_and_passes(rehearsal, guest, fault, told):
    options, sentence = told
    guest.begins_anew()
    with rehearsal.fault(fault, **options):
        guest.asks("What is a rehearsal?")
        guest.sees(sentence)
        guest.can_ask()
    guest.asks("And now?")
    guest.sees_a_whole_answer("rehearsal")


def test_a_deleted_endpoint_is_told(rehearsal, guest):
    guest.begins_anew()
    rehearsal.client("sagemaker").delete_endpoint(EndpointName=NAME)
    guest.asks("Are you there?")
    guest.sees("in service: it is not up yet, or was deleted")
    guest.can_ask()
