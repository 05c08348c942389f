"""How `make crowd` judges what came to a crowd, one short run of it, and races that it led to."""

import asyncio
import inspect
from types import SimpleNamespace

import demo_crowd
import pytest
from demo_crowd import TOKENS, Visit, expected, wrong_with
from demoing import (
    COUNTING,
    END,
    chat_of,
    content,
    in_a_notebook,
    launched,
    said,
    session_with,
    some_endpoint,
    visit,
    wait_until,
)

from helpers import demo
from helpers.demo.visits import Visits

pytestmark = pytest.mark.filterwarnings(COUNTING)

SETTINGS = ("", 0.5, 0.9, 9)
TURNS = [{"role": "user", "content": "I am client 1."}]
REPLY = expected(TURNS, TOKENS)


# --- judging -------------------------------------------------------------------------------------


def written(text):
    return [{"role": "assistant", "content": text}]


def note(text):
    return [{"role": "assistant", "content": text, "metadata": {"id": "note"}}]


def answered(text=REPLY.text, tokens=TOKENS):
    """The versions of an answer that waited, grew and ended."""
    return [
        note("All slots are busy: 1 before you in line. · rehearsal"),
        note("All slots are busy: yours is the next. · rehearsal"),
        written(text[:20]),
        [*written(text), *note(f"Waited 2.0 s in line · {tokens} tokens · $0.01 · rehearsal")],
    ]


def test_the_reply_to_this_conversation_is_right():
    assert wrong_with(answered(), REPLY) == []


def test_a_lost_token_is_found():
    (wrong,) = wrong_with(answered(REPLY.text[:-3]), REPLY)
    assert "lacks its end" in wrong
    (wrong,) = wrong_with(answered(tokens=TOKENS - 1), REPLY)
    assert "its note says 39 tokens, not 40" in wrong


def test_the_reply_to_another_conversation_is_found():
    others = expected([{"role": "user", "content": "I am client 2."}], TOKENS)
    (wrong,) = wrong_with(answered(others.text), REPLY)
    assert "answers another conversation" in wrong


def test_a_version_that_takes_something_back_is_found():
    versions = [written("something else"), *answered()]
    assert "does not begin with" in wrong_with(versions, REPLY)[0]


def test_going_back_in_line_is_found():
    line, turn, *written = answered()
    assert "went back in line" in wrong_with([turn, line, *written], REPLY)[0]


def test_no_answer_is_found():
    assert "there was no answer" in wrong_with([note("Throttled. · rehearsal")], REPLY)[0]
    assert "there was no answer" in wrong_with([], REPLY)[0]


def test_what_the_server_wrote_and_nobody_got_is_found():
    record = {"outcome": "complete", "tokens": TOKENS}
    came = Visit(told=[{"asked_s": 1.0, "waited_s": 0.0, "versions": 3}], truth=[record])
    assert came.wrong() == []
    came.truth.append(record)
    assert came.wrong() == ["the server wrote 2 answers, 1 came to somebody"]


def test_a_crowd_that_got_nothing_is_found():
    assert Visit().wrong() == ["nobody got an answer"]


def test_an_answer_that_the_server_did_not_end_well_is_found():
    came = Visit(
        told=[{"asked_s": 1.0, "waited_s": 0.0, "versions": 3}],
        truth=[{"outcome": how, "tokens": TOKENS} for how in ("complete", "failed", "left")],
    )
    assert came.wrong() == ["1 answers of 40 tokens ended as failed"]


def test_what_piles_up_is_found():
    came = Visit(before={"served": 0, "answers": 0})
    (wrong,) = came.piled_up({"served": 1, "answers": 1})  # Gradio keeps the last answer
    assert wrong == "served: 1 are left, 0 were there before"


def test_who_was_served_first_though_later_is_found():
    came = Visit(
        told=[{"asked_s": asked_s, "waited_s": waited_s} for asked_s, waited_s in ((0, 9), (2, 3))]
    )
    assert came.overtaken_s() == 2


# --- a short run ---------------------------------------------------------------------------------


def test_a_crowd_loses_nothing_and_mixes_nothing_up(tmp_path):
    came = demo_crowd.visit(tmp_path, clients=12, seconds=1, speed=12)
    assert came.wrong() == []
    assert len(came.answers) >= 12 * (demo_crowd.TURNS - 1)
    assert len(came.leavers) >= 8
    assert any(told["waited_s"] for told in came.answers)


# --- races ---------------------------------------------------------------------------------------


def test_everybody_is_told_their_place_however_many_wait(scripted):
    people = 45  # more than Gradio runs at once unless it is told to
    with launched(session_with(scripted), some_endpoint()) as page:
        for _ in range(people):
            scripted.will_stream(*said("x"), ending="hang")
        visitor = visit(page, max_workers=people)
        jobs = [visitor.submit("Hello", api_name="/chat") for _ in range(people)]
        last = f"All slots are busy: {people - 5} before you in line."
        wait_until(
            lambda: any(
                "metadata" in version[0] and content(version[0], kind="passing") == last
                for job in jobs
                for version in job.outputs()
            ),
            within_s=60,
        )


def test_an_answer_that_is_stopped_before_it_begins_does_not_wait(scripted):
    chat = chat_of(session_with(scripted), some_endpoint())

    async def main():
        others = [chat._line.enter() for _ in range(chat.slots)]
        answer = chat.answer("Hello")
        answer.stop()
        async with asyncio.timeout(10):
            versions = [version async for version in answer]
        for other in others:
            other.leave()
        return versions

    ((stopped,),) = asyncio.run(main())
    assert content(stopped) == "Stopped."
    assert scripted.bodies == []


def test_what_is_done_to_an_answer_is_done_in_its_event_loop(scripted):
    built = in_a_notebook(demo.build, chat_of(session_with(scripted), some_endpoint()))
    methods = [each.fn for each in built.fns.values() if inspect.ismethod(each.fn)]
    assert {each.__name__ for each in methods} >= {"send", "retry", "undo", "stop", "forget"}
    for each in methods:  # Gradio calls any other function in a thread
        assert inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each)
    built.close()


class Mine:
    """One reader's visit: what the page does when they press something."""

    def __init__(self, visits):
        self._visits, self._request = visits, SimpleNamespace(session_hash="mine")

    def send(self, drawn, text):
        return self._visits.send(self._request, drawn, text, *SETTINGS)

    def retry(self, drawn):
        return self._visits.retry(self._request, drawn, "", *SETTINGS)

    def undo(self, drawn):
        return self._visits.undo(self._request, drawn)

    def forget(self):
        return self._visits.forget(self._request)


@pytest.fixture
def mine(scripted):
    return Mine(Visits(chat_of(session_with(scripted), some_endpoint())))


def test_a_forgotten_answer_leaves_the_box_to_the_next_one(scripted, mine):
    for word in ("first", "second"):
        scripted.will_stream(*said(word), END)

    async def main():
        first = mine.send([], "One")
        await anext(first)
        await mine.forget()
        second = mine.send([], "Two")
        box = (await anext(second))[1]
        return box, [update async for update in first], [update async for update in second]

    box, of_first, of_second = asyncio.run(main())
    assert box.stop_btn
    assert of_first == []
    assert not of_second[-1][1].stop_btn


@pytest.mark.parametrize("what", ["cleared", "undone"])
def test_the_last_that_a_forgotten_answer_does_is_to_take_back_what_it_showed(scripted, mine, what):
    scripted.will_stream(*said("first"), END)
    scripted.will_stream(*said("second"), ending="hang")

    async def main():
        before = [one async for one in mine.send([], "One")][-2][0]
        second = mine.send(before, "Two")
        await anext(second)
        now = (await anext(second))[0]
        if what == "cleared":
            left = []
            await mine.forget()
        else:
            left, _ = await mine.undo(now)
            assert left == before
        return left, [one async for one in second]

    left, after = asyncio.run(main())
    assert [one[0] for one in after] == [left]


def test_what_was_cleared_does_not_reach_the_model_from_a_page_that_still_draws_it(scripted, mine):
    for word in ("first", "second"):
        scripted.will_stream(*said(word), END)

    async def main():
        drawn = [one async for one in mine.send([], "Old")][-2][0]
        await mine.forget()
        return [one async for one in mine.send(drawn, "New")]

    updates = asyncio.run(main())
    assert [turn["content"] for turn in scripted.bodies[1]["messages"]] == ["New"]
    assert "Old" not in str(updates)


def test_a_retry_that_is_forgotten_while_it_fails_brings_nothing_back(scripted, mine):
    scripted.will_stream(*said("first"), END)
    scripted.will_refuse(400, "ThrottlingException", "Rate exceeded")

    async def main():
        drawn = [one async for one in mine.send([], "Old")][-2][0]
        updates = []
        async for update in mine.retry(drawn):
            updates.append(update)
            if "throttled" in str(update):
                await mine.forget()
        return updates

    assert asyncio.run(main())[-1][0] == []


def test_a_page_that_is_behind_loses_no_end_of_an_answer(scripted, mine):
    for words in (("so ", "far"), ("good",)):
        scripted.will_stream(*said(*words), END)

    async def main():
        first = [update async for update in mine.send([], "One")]
        drawn = [*first[0][0], {"role": "assistant", "content": "so "}]
        return first, [update async for update in mine.send(drawn, "Two")]

    first, second = asyncio.run(main())
    assert second[0][0][:-1] == first[-2][0]
    assert [turn["content"] for turn in scripted.bodies[1]["messages"]] == ["One", "so far", "Two"]
