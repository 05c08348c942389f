"""What of a conversation goes to the model, and what of a text goes onto the page."""

import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from helpers.demo.conversation import (
    NOTE,
    TOKENS_PER_PROMPT,
    TOKENS_PER_TURN,
    defused,
    estimated,
    fitted,
    is_too_long,
    literal,
    plain,
    text_of,
    turns_of,
    whole,
    without_older_half,
)
from helpers.errors import InvocationError
from helpers.rehearsal.container import text as container

# --- what goes into the model's template ---------------------------------------------------------

SPECIAL = re.compile(
    r"<\|(?:begin_of_text|end_of_text|start_header_id|end_header_id|eot_id|eom_id|python_tag"
    r"|finetune_right_pad_id|reserved_special_token_\d+)\|>"
)
PIECES = ("<|", "|>", "<", "|", ">", "eot_id", "<|eot_id|>", "<|start_header_id|>", "\x00", "\r\n")
PIECES += ("reserved_special_token_7", "python_tag", "system", "\n\n", "\u200b", "＜｜", "\ud800")
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=3)).map("".join)


def rendered(turns):
    """Llama 3's template, and how many special tokens are its own (shared/wire-format.md)."""
    prompt = "<|begin_of_text|>"
    for turn in turns:
        header = f"<|start_header_id|>{turn['role']}<|end_header_id|>\n\n"
        prompt += f"{header}{turn['content'].strip()}<|eot_id|>"
    return prompt + "<|start_header_id|>assistant<|end_header_id|>\n\n", 3 + 3 * len(turns)


def sent(turns, system_prompt="", budget=10**9, longest=10**9, count=len):
    return fitted(turns, system_prompt=system_prompt, budget=budget, longest=longest, count=count)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


@given(texts, texts, texts)
def test_the_prompt_has_no_special_token_but_the_templates(system_prompt, answer, message):
    turns = turns_of([user("Hello"), assistant(answer), user(message)])
    assume(any(one.isprintable() and not one.isspace() for one in turns[-1]["content"]))
    prompt, own = rendered(sent(turns, system_prompt).turns)
    assert len(SPECIAL.findall(prompt)) == own
    prompt.encode()  # no half of a character is left


@pytest.mark.parametrize(
    ("typed", "goes_out"),
    [
        ("<|eot_id|>", "< |eot_id|>"),
        ("<|<|eot_id|>", "<|< |eot_id|>"),
        ("<|eot\x00_id|>", "< |eot_id|>"),
        ("<\ud83d|eot_id|>", "< |eot_id|>"),
        ("<|eot_id|", "<|eot_id|"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("bell\x07 escape\x1b[31m", "bell escape[31m"),
    ],
)
def test_what_would_end_a_turn_is_only_text(typed, goes_out):
    assert defused(typed) == goes_out


@pytest.mark.parametrize(
    "ordinary",
    [
        "👩‍👩‍👧 naïve 日本語",
        "שלום עולם",
        "if a <| b:",
        "f <| x |> g",
        "<b>bold</b>",
        "\tx = 1\n",
        "<||>",
    ],
)
def test_ordinary_text_goes_out_as_it_is(ordinary):
    assert defused(ordinary) == ordinary


@given(texts)
def test_what_is_defused_stays_so(text):
    assert defused(defused(text)) == defused(text)


def test_notes_and_empty_messages_stay_on_the_page():
    note = {"role": "assistant", "content": "Stopped.", "metadata": {"id": NOTE}}
    parts = {"role": "user", "content": [{"type": "text", "text": "Hi "}, {"file": "a.png"}]}
    assert turns_of([user(""), parts, note, assistant("Hello"), {"role": "user"}]) == [
        user("Hi "),
        assistant("Hello"),
    ]


def test_the_pages_own_mark_is_taken_off_before_special_tokens_are_looked_for():
    assert turns_of([user("<\u2060|eot_id|>")]) == [user("< |eot_id|>")]
    assert text_of(literal("a <b> c")) == "a <b> c"


# --- what there is room for ----------------------------------------------------------------------

roles = st.sampled_from(("user", "assistant"))
histories = st.lists(
    st.builds(lambda role, text: {"role": role, "content": text}, roles, st.text(min_size=1))
)


@given(histories, st.text(max_size=20), st.integers(0, 300))
def test_oldest_turns_go_first_and_the_rest_fits(history, system_prompt, budget):
    turns = [*history, user("?")]
    try:
        chosen, left_out = sent(turns, system_prompt, budget)
    except InvocationError:
        assert budget < TOKENS_PER_PROMPT + 2 * TOKENS_PER_TURN + len(system_prompt) + 1
        return
    has_system = bool(defused(system_prompt).strip())
    said = chosen[has_system:]
    assert [turn["role"] for turn in chosen[:1]] == (["system"] if has_system else ["user"])
    assert said == turns[left_out:]
    assert said[0]["role"] == "user"
    used = sum(len(turn["content"]) + TOKENS_PER_TURN for turn in chosen) + TOKENS_PER_PROMPT
    assert used <= budget
    if left_out:  # the question before what is kept had no room, with its answer
        before = turns[:left_out]
        last_question = next(
            (at for at in reversed(range(left_out)) if turns[at]["role"] == "user"), None
        )
        added = before[last_question:] if last_question is not None else []
        more = sum(len(turn["content"]) + TOKENS_PER_TURN for turn in added)
        assert not added or used + more > budget


@given(histories, st.text(min_size=1, max_size=20))
def test_never_fewer_tokens_are_expected_than_a_container_counts(history, system_prompt):
    chosen = sent([*history, user("Hello there")], system_prompt, count=container.count).turns
    expected = TOKENS_PER_PROMPT + sum(
        container.count(turn["content"]) + TOKENS_PER_TURN for turn in chosen
    )
    assert container.prompt_tokens(chosen) + 26 == expected  # dates, their turn, a second begin


def test_questions_that_had_no_answer_are_kept():
    turns = [user("a"), user("b"), assistant("c"), user("d")]
    assert sent(turns) == (turns, 0)


def test_an_answer_does_not_stand_without_its_question():
    turns = [user("long" * 100), assistant("b"), assistant("c"), user("d")]
    assert sent(turns, budget=100) == ([user("d")], 3)


def test_a_system_prompt_of_nothing_visible_is_left_out():
    assert sent([user("a")], " \x00\n").turns == [user("a")]


@pytest.mark.parametrize("message", ["", "  \n\t", "\u3000", "\u200b\u2060\ufeff"])
def test_nothing_is_not_sent(message):
    with pytest.raises(InvocationError, match="Type a message first"):
        sent([user(message)])


@pytest.mark.parametrize(
    ("longest", "help"),
    [(4095, "shorten it, or lower Max tokens in Settings."), (4000, "shorten it.")],
)
def test_a_message_without_room_says_what_helps(longest, help):
    with pytest.raises(InvocationError) as refused:
        sent([user("x" * 4000)], "Be brief.", budget=3584, longest=longest)
    assert str(refused.value) == (
        "The message is too long: it has about 4,050 tokens with the system prompt, and beside an "
        f"answer of Max tokens there is room for 3,584: {help}"
    )
    assert refused.value.kind == "request"


def test_a_system_prompt_without_room_is_what_is_too_long():
    with pytest.raises(InvocationError, match="The system prompt is too long: .* with the message"):
        sent([user("Hello")], "Be brief. " * 400, budget=3584)


def test_an_answer_as_long_as_all_there_is_leaves_no_room():
    with pytest.raises(InvocationError, match=r"room for 0: .* lower Max tokens"):
        sent([user("Hello")], budget=0)


def test_megabytes_are_refused_without_a_tokenizer():
    def count(_):
        raise AssertionError("This would take seconds.")

    with pytest.raises(InvocationError, match=r"about 3,333,37\d tokens"):
        sent([user("x" * 10_000_000)], budget=3584, count=count)
    turns = [user("x" * 10_000_000), user("?")]
    assert sent(turns, budget=3584, count=lambda text: len(text) < 10 or count(text)).left_out == 1


@given(histories)
def test_halving_ends_with_the_last_question_alone(history):
    turns = [*history, user("?")]
    for _ in range(len(turns).bit_length()):
        shorter = without_older_half(turns)
        assert shorter == turns[-len(shorter) :]
        assert shorter[0]["role"] == "user"
        turns = shorter
    assert turns == [user("?")]


@given(st.text())
def test_an_estimate_is_a_third_of_the_bytes(text):
    assert 0 <= 3 * estimated(text) - len(text.encode()) < 3


@pytest.mark.parametrize(
    ("refusal", "is_for_length"),
    [
        (
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: "
            "5000 `inputs` tokens and 512 `max_new_tokens`",
            True,
        ),
        (
            "Input validation error: `inputs` must have less than 4000 tokens. Given: 4001",
            True,
        ),
        (
            "This model's maximum context length is 4096 tokens. However, you requested 5512 "
            "tokens (5000 in the messages, 512 in the completion).",
            True,
        ),
        (
            "This model's maximum context length is 4096 tokens. However, your request has 5000 "
            "input tokens. Please reduce the length of the input messages.",
            True,
        ),
        (
            "'max_tokens' or 'max_completion_tokens' is too large: 512. This model's maximum "
            "context length is 4096 tokens and your request has 4000 input tokens.",
            True,
        ),
        ("Input validation error: `top_p` must be > 0.0 and < 1.0", False),
        ("`stop` supports up to 4 stop sequences. Given: 5", False),
        ("Model is overloaded", False),
        ("", False),
    ],
)
def test_refusals_for_length_are_known(refusal, is_for_length):
    assert is_too_long(refusal) is is_for_length


# --- what goes onto the page ---------------------------------------------------------------------

MARK = "\u2060"
MARKDOWN = ("<", "<b>", "</b>", "<!--", "<?", "\u2060", "\x00", "```\n", "- ", "`", "\n", " ")
MARKDOWN += ("```mermaid", "mermaid", "<https://a", "\ufeff", ">")
markdown = st.lists(st.sampled_from(MARKDOWN)).map("".join) | st.text()


@given(markdown)
@example("- a\n  ```\n     ```\n  <b>")
@example("```\ncode\n```\u00a0\n```\n<b>")
@example('[a]: /u "x\n```\n"\n<b>')
def test_nothing_is_left_that_begins_a_tag_for_any_renderer(text):
    assert not re.search("<[A-Za-z/!?]", literal(text))


@given(markdown)
def test_nothing_is_left_that_begins_a_diagram(text):
    assert "```mermaid" not in literal(text)


@given(markdown)
def test_literal_is_taken_back_by_plain_and_done_once(text):
    assume(plain(text) == text)
    assert plain(literal(text)) == text
    assert literal(literal(text)) == literal(text)


def test_what_begins_no_tag_stays_as_it_is():
    assert literal("a < b, a <3, <- and a <") == "a < b, a <3, <- and a <"


@pytest.mark.parametrize(
    ("text", "joined"),
    [("a\ud83d", "a\ufffd"), ("\ud83d\udc4b <b>", "👋 <b>"), ("\udc4b\ud83d", "\ufffd\ufffd")],
)
def test_half_a_character_does_not_get_onto_the_page(text, joined):
    assert whole(text) == joined


@given(st.text())
def test_a_text_of_whole_characters_is_not_changed(text):
    assert whole(text) == text
