"""Answers for the page, asked for without a page."""

import asyncio
import json
import math
import re
import socket
import threading
import time

import deployed
import pytest
from demoing import (
    END,
    ENV,
    IMAGE,
    NO_HUB,
    chat_of,
    content,
    line,
    said,
    session_with,
    some_endpoint,
    wait_until,
)
from scripted import exception, part

from helpers import demo, endpoint
from helpers.errors import InvocationError


@pytest.fixture
def chat(scripted):
    return chat_of(session_with(scripted), some_endpoint())


def one_slot(scripted, **changes):
    facts = {"image": IMAGE, "env": ENV | {"MAX_BATCH_SIZE": "1"}} | changes
    return chat_of(session_with(scripted), some_endpoint(**facts))


def written(chat, message="Hello", history=(), **settings):
    """All versions of an answer."""
    return in_a_loop(versions_of(chat.answer(message, history, **settings)))


async def versions_of(answer):
    return [version async for version in answer]


def in_a_loop(coroutine, *, debug=False):
    return asyncio.run(asyncio.wait_for(coroutine, 60), debug=debug)


async def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


def notes(version, **kind):
    return [content(said, **kind) for said in version if said.get("metadata")]


def reply(version):
    return "".join(said["content"] for said in version if not said.get("metadata"))


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


LONG_AGO = [user("Who?"), assistant("Nobody."), user("Where?"), assistant("Nowhere.")]


WORDLESS = "The model answered without a word: ask again, or in other words."


@pytest.mark.parametrize("words", [[], [""], ["\n\n", " "]])
def test_an_answer_without_a_word_is_said_to_be_one(scripted, chat, words):
    scripted.will_stream(*said(*words), END)
    assert notes(written(chat)[-1])[0] == WORDLESS


def test_an_answer_cut_before_its_first_word_is_said_to_be_cut(scripted, chat):
    scripted.will_stream(part(line("\n", "length")))
    first, *_ = notes(written(chat, max_tokens=1)[-1])
    assert first.startswith("Cut at 1 tokens")


# --- stopping ------------------------------------------------------------------------------------


def test_stopped_before_it_begins_nothing_is_asked(scripted, chat):
    async def visit():
        answer = chat.answer("Hello")
        answer.stop()
        return await versions_of(answer)

    assert [notes(version) for version in in_a_loop(visit())] == [["Stopped."]]
    assert scripted.bodies == []


def test_stopped_in_line_it_leaves_the_line(scripted):
    chat = one_slot(scripted)
    scripted.will_stream(*said("x"), ending="hang")
    scripted.will_stream(*said("y"), END)

    async def visit():
        first, second, third = (chat.answer("Hello") for _ in range(3))
        tasks = [asyncio.ensure_future(versions_of(one)) for one in (first, second, third)]
        await until(lambda: scripted.bodies)
        second.stop()
        stopped = await tasks[1]
        assert not tasks[2].done()
        first.stop()
        return stopped, await tasks[2]

    stopped, served = in_a_loop(visit())
    waiting, ended = stopped
    assert notes(waiting, kind="passing") == ["All slots are busy: yours is the next."]
    assert notes(ended) == ["Stopped."]
    assert notes(served[0], kind="passing") == ["All slots are busy: 1 before you in line."]
    assert reply(served[-1]) == "y"
    assert re.match(r"Waited \d+\.\d s in line · First token", notes(served[-1])[-1])


@pytest.mark.parametrize("words", [[], ["so ", "far"]])
def test_stopped_while_it_is_written_it_keeps_what_is_there(scripted, chat, words):
    scripted.will_stream(*said(*words), ending="hang")
    so_far = "".join(words)

    async def visit():
        answer, versions = chat.answer("Hello"), []

        async def read():
            async for version in answer:
                versions.append(version)

        task = asyncio.ensure_future(read())
        await until(lambda: scripted.bodies and "".join(map(reply, versions[-1:])) == so_far)
        answer.stop()
        answer.stop()
        await task
        return versions

    last = in_a_loop(visit())[-1]
    assert reply(last) == so_far
    assert notes(last)[0] == "Stopped."
    assert len(notes(last)) == 1 + bool(words)  # figures for what is there
    assert scripted.gone.wait(30)


def test_stopped_before_the_endpoint_answers_nothing_stays_upstream(scripted):
    chat = one_slot(scripted)

    async def visit():
        scripted.forget()
        scripted.will_be_silent()
        answer = chat.answer("Hello")
        task = asyncio.ensure_future(versions_of(answer))
        await until(lambda: scripted.bodies)
        answer.stop()
        return await task

    for _ in range(3):
        assert notes(in_a_loop(visit())[-1]) == ["Stopped."]
        assert scripted.gone.wait(30)
    wait_until(lambda: "chat-reply" not in [one.name for one in threading.enumerate()])
    scripted.forget()
    scripted.will_stream(*said("a"), END)
    assert reply(written(chat)[-1]) == "a"


def test_a_reader_who_is_gone_frees_the_slot(scripted):
    chat = one_slot(scripted)
    scripted.will_stream(*said("x"), ending="hang")
    scripted.will_stream(*said("y"), END)

    async def visit():
        task = asyncio.ensure_future(versions_of(chat.answer("Hello")))
        await until(lambda: scripted.bodies)
        task.cancel()
        return await versions_of(chat.answer("Hello"))

    assert reply(in_a_loop(visit())[-1]) == "y"
    assert scripted.gone.wait(30)


def test_another_thread_can_end_them_all(scripted):
    chat = one_slot(scripted)
    scripted.will_stream(*said("x"), ending="hang")

    async def visit():
        tasks = [asyncio.ensure_future(versions_of(chat.answer("Hello"))) for _ in range(3)]
        await until(lambda: scripted.bodies)
        closer = threading.Thread(target=chat.close)
        closer.start()
        ended = await asyncio.gather(*tasks)
        closer.join()
        return ended

    # Debugging, asyncio refuses what another thread must not do.
    ended = in_a_loop(visit(), debug=True)
    assert [notes(versions[-1])[0] for versions in ended] == ["This page has been closed."] * 3
    assert scripted.gone.wait(30)
    chat.close()


# --- what an answer ends with --------------------------------------------------------------------


def test_cut_answers_say_so_and_figures_come_last(scripted, chat):
    scripted.will_stream(*said("a", "b"), part(line(None, "length")))
    history = [user("x " * 9000), assistant("y"), *LONG_AGO]
    last = written(chat, history=history, max_tokens=2)[-1]
    cut, left_out, figures = notes(last)
    assert cut == "Cut at 2 tokens: raise Max tokens in Settings, or ask it to go on."
    assert left_out == (
        "The 2 oldest messages were left out: beside an answer of up to 2 tokens, the endpoint has "
        "no room for more."
    )
    assert re.fullmatch(
        r"First token after \d+\.\d\d s · \d+\.\d tokens/s after it · 2 tokens · \$\d+\.\d{4}",
        figures,
    )


def test_an_answer_of_all_tokens_cannot_be_made_longer(scripted, chat):
    scripted.will_stream(*said("a"), part(line(None, "length")))
    cut, _ = notes(written(chat, max_tokens=chat.longest_reply)[-1])
    assert cut == f"Cut at {chat.longest_reply:,} tokens, the most there can be: ask it to go on."


@pytest.mark.parametrize("name", ["temperature", "top_p", "max_tokens"])
def test_what_is_no_number_is_not_sent(chat, name):
    with pytest.raises(InvocationError, match="are numbers"):
        chat.answer("Hello", **{name: math.nan})


@pytest.mark.parametrize(("speed", "said_of_it"), [(1.0, ""), (60.0, "60 times as fast")])
def test_a_chat_says_when_its_seconds_are_not_the_readers(scripted, speed, said_of_it):
    here = session_with(scripted, speed=speed)
    assert said_of_it in chat_of(here, some_endpoint()).time


def test_one_turn_is_one(scripted, chat):
    scripted.will_stream(*said("a"), END)
    last = written(chat, history=[user("x " * 9000), *LONG_AGO])[-1]
    assert notes(last)[0] == (
        "The oldest message was left out: beside an answer of up to 512 tokens, the endpoint has "
        "no room for more."
    )


def test_an_error_before_the_first_word_is_all_there_is(scripted, chat):
    scripted.will_refuse(400, "ThrottlingException", "Rate exceeded")
    (last,) = written(chat)
    assert reply(last) == ""
    assert len(notes(last)) == 1
    assert notes(last)[0].startswith("SageMaker throttled the call")
    assert len(scripted.bodies) == 1  # no second attempt that nobody sees


def test_an_error_in_the_middle_keeps_what_was_written(scripted, chat):
    scripted.will_stream(*said("so ", "far"), exception("InternalStreamFailure", Message="gone"))
    last = written(chat)[-1]
    assert reply(last) == "so far"
    broken, figures = notes(last)
    assert broken.startswith("The reply broke off after 6 characters")
    assert " · 2 tokens · " in figures


def test_notes_have_no_word_of_rehearsal_on_aws(scripted):
    chat = chat_of(session_with(scripted, target="aws", speed=1.0), some_endpoint())
    scripted.will_stream(*said("a"), END)
    assert "rehearsal" not in json.dumps(written(chat)[-1])
    assert "ehearsal" not in chat.title + chat.description
    assert chat.note("Stopped.")["content"] == "Stopped."


@pytest.mark.parametrize(
    ("changes", "dollars"), [({}, True), ({"instance_type": "ml.nobody.knows"}, False)]
)
def test_dollars_are_said_where_the_price_is_known(scripted, changes, dollars):
    chat = chat_of(session_with(scripted), some_endpoint(**changes))
    scripted.will_stream(*said("a"), END)
    assert ("$" in notes(written(chat)[-1])[-1]) is dollars


def test_several_instances_have_the_slots_of_all(scripted):
    one, three = (
        chat_of(session_with(scripted), some_endpoint(image=IMAGE, env=ENV, instance_count=count))
        for count in (1, 3)
    )
    assert (one.slots, three.slots) == (8, 24)


# --- what is sent --------------------------------------------------------------------------------


def test_room_is_what_input_and_output_leave_each_other(scripted):
    env = ENV | {"MAX_INPUT_TOKENS": "1000", "MAX_TOTAL_TOKENS": "2048"}
    chat = chat_of(session_with(scripted), some_endpoint(image=IMAGE, env=env))
    for max_tokens, room in ((10, "1,000"), (1500, "548"), (2048, "0"), (9999, "0")):
        with pytest.raises(InvocationError, match=f"there is room for {room}: "):
            chat.answer("word " * 2000, max_tokens=max_tokens)


@pytest.mark.parametrize("message", ["", " \n", "\x00", None])
def test_nothing_is_not_sent(chat, message):
    with pytest.raises(InvocationError, match="Type a message first"):
        chat.answer(message)


def test_a_program_may_leave_the_system_prompt_out(scripted, chat):
    scripted.will_stream(*said("a"), END)
    written(chat, system_prompt=None)
    assert scripted.bodies[0]["messages"] == [user("Hello")]


def test_what_looks_like_the_template_is_only_text(scripted, chat):
    scripted.will_stream(*said("a"), END)
    history = [user("<|eot_id|>"), assistant("<|start_header_id|>")]
    written(chat, "<|eot\x00_id|>", history, system_prompt="<|begin_of_text|>")
    assert "<|" not in json.dumps(scripted.bodies[0])


def test_a_role_that_no_template_has_is_one_sentence(scripted, chat):
    history = [{"role": "user<|end_header_id|>", "content": "x"}]
    assert "has the role" in notes(written(chat, history=history)[-1])[0]
    assert scripted.bodies == []


# --- more tokens than expected -------------------------------------------------------------------

TOTAL = (
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. "
    "Given: 5000 `inputs` tokens and 512 `max_new_tokens`"
)
INPUT = "Input validation error: `inputs` must have less than 3584 tokens. Given: 3600"
VLLM = (
    "This model's maximum context length is 4096 tokens. However, you requested 5512 tokens "
    "(5000 in the messages, 512 in the completion). Please reduce the length of the messages or "
    "completion."
)


def tgi_2(scripted, words):
    fault = json.dumps({"error": words, "error_type": "validation"})
    scripted.will_stream(part(f"data:{fault}\n\n".encode()))


def tgi_3(scripted, words):
    fault = json.dumps({"error": {"message": words, "http_status_code": 422}})
    scripted.will_stream(part(f"data: {fault}\n\n".encode()))


def vllm(scripted, words):
    fault = {"object": "error", "message": words, "type": "BadRequestError", "code": 400}
    scripted.will_refuse(
        424, "ModelError", "…", OriginalStatusCode=400, OriginalMessage=json.dumps(fault)
    )


DIALECTS = [(tgi_2, TOTAL), (tgi_2, INPUT), (tgi_3, TOTAL), (tgi_3, INPUT), (vllm, VLLM)]


@pytest.mark.parametrize(("refuse", "words"), DIALECTS)
def test_a_refusal_for_length_leads_to_a_shorter_history_and_an_answer(
    scripted, chat, refuse, words
):
    refuse(scripted, words)
    scripted.will_stream(*said("here"), END)
    versions = written(chat, "Why?", LONG_AGO, system_prompt="Be brief.")
    assert [[turn["content"] for turn in body["messages"]] for body in scripted.bodies] == [
        ["Be brief.", "Who?", "Nobody.", "Where?", "Nowhere.", "Why?"],
        ["Be brief.", "Where?", "Nowhere.", "Why?"],
    ]
    assert [reply(version) for version in versions] == ["here", "here"]  # nothing of the refusal
    assert notes(versions[-1])[0].startswith("The 2 oldest messages were left out")
    assert len(notes(versions[-1])) == 2


@pytest.mark.parametrize(("refuse", "words"), DIALECTS)
def test_the_question_alone_is_the_last_that_is_tried(scripted, chat, refuse, words):
    history = LONG_AGO * 8
    for _ in range(9):
        refuse(scripted, words)
    (last,) = written(chat, "Why?", history)
    assert [len(body["messages"]) - 1 for body in scripted.bodies] == [33, 17, 9, 5, 3, 1]
    refusal, left_out = notes(last)
    assert "The container refused the request" in refusal
    assert left_out.startswith("The 32 oldest messages were left out")


def test_another_refusal_is_not_tried_again(scripted, chat):
    tgi_2(scripted, "Input validation error: `top_p` must be > 0.0 and < 1.0")
    (last,) = written(chat, "Why?", LONG_AGO)
    assert len(scripted.bodies) == 1
    assert "`top_p` must be > 0.0 and < 1.0" in notes(last)[0]


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    with deployed.rehearsal(tmp_path_factory.mktemp("rehearsal")) as here:
        yield demo.Chat(here, endpoint.find(here, deployed.NAME), environ=NO_HUB)


@pytest.mark.parametrize("words", ["?! ... ", "👋🌍🎉 ", "今天天气很好，我们去公园散步。", "word "])
def test_a_long_history_is_answered_without_a_tokenizer(rehearsal, words):
    history = [turn for _ in range(20) for turn in (user(words * 60), assistant(words * 60))]
    last = written(rehearsal, words, history, max_tokens=20)[-1]
    assert "rehearsal" in reply(last).lower()
    assert notes(last)[0] == "Cut at 20 tokens: raise Max tokens in Settings, or ask it to go on."
    assert "oldest messages were left out" in notes(last)[1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": -1.0}, "`temperature` must be strictly positive"),
        ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"max_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ],
)
def test_settings_that_the_container_refuses_are_one_sentence(rehearsal, settings, words):
    (last,) = written(rehearsal, **settings)
    assert [words in note for note in notes(last)] == [True]


# --- the tokenizer -------------------------------------------------------------------------------


def test_a_hub_that_is_silent_holds_nobody_up(scripted):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hub = {"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        chat = demo.Chat(session_with(scripted), some_endpoint(), environ=hub)
        silent.accept()[0].close()  # it is being asked, after the page is there
    scripted.will_stream(*said("a"), END)
    assert reply(written(chat)[-1]) == "a"
    wait_until(
        lambda: "chat-tokenizer" not in [one.name for one in threading.enumerate()], within_s=60
    )
