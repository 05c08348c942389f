"""How `make latency` finds out when a token was on screen."""

import numpy as np
import pytest
from demo_latency import Column, Seen, Written, bare, clock_offset, stamps, table

WORDS = ("**Hello", ":** ", "you", "\n", "\n", "🌊")
STEP_S = 0.04


def way(words=WORDS, *, together=1, shown=None):
    """Stamps of an answer on which each stage takes a millisecond; so many tokens an update."""
    sent_s = [STEP_S * n for n in range(len(words))]
    pieces = [(sent + 0.001, word) for sent, word in zip(sent_s, words, strict=True)]
    ends = range(together, len(words) + 1, together)
    versions = [(pieces[end - 1][0] + 0.001, len("".join(words[:end]))) for end in ends]
    after_s = [sent_s[-1] + 1, sent_s[-1] + 2]
    queued_s = [-1, *(made + 0.001 for made, _ in versions), *after_s]
    received_s = [queued + 0.001 for queued in queued_s]
    counts = [0, *(len(bare("".join(words[:end]))) for end in ends)]
    if shown is None:
        changed_s = [received + 0.001 for received in received_s]
        shown = [(n, at, at + 0.001) for n, at in zip(counts, changed_s, strict=False)]
    seen = Seen("".join(words), ["e"] * len(queued_s), received_s, shown)
    return sent_s, Written(0.0, pieces, versions), queued_s, seen


def late_ms(*of):
    return (1000 * np.diff(stamps(*of), axis=1)).round(6)


@pytest.mark.parametrize(
    ("written", "on_screen"),
    [
        ("**Rehearsal:** this", "Rehearsal: this"),
        ("\n\n### A heading", "A heading"),
        ("- `a_third_one()`\n", "a_third_one()"),
        ("> a reminder — 日本語", "a reminder — 日本語\n"),
        ("<\u2060b>", "<b>"),
    ],
)
def test_markdown_shows_as_many_characters_as_were_written(written, on_screen):
    assert bare(written) == bare(on_screen)


def test_each_token_has_the_time_that_each_stage_took():
    assert late_ms(*way()).tolist() == [[1] * 6] * len(WORDS)


def test_tokens_that_come_in_one_update_are_late_each_by_its_own_time():
    late = late_ms(*way(together=3))
    assert late[:, 1].tolist() == [81, 41, 1, 81, 41, 1]  # they waited for the others
    assert np.delete(late, 1, axis=1).tolist() == [[1] * 5] * len(WORDS)


def test_a_line_break_is_on_screen_when_its_update_was_dealt_with():
    sent_s, written, queued_s, seen = way(("a", "\n"))
    assert stamps(sent_s, written, queued_s, seen)[1, -1] > sent_s[1]


def test_a_text_that_the_page_shows_late_is_late():
    sent_s, written, queued_s, seen = way(("a", "b"), shown=[(1, 0.5, 0.6), (2, 0.7, 0.8)])
    assert stamps(sent_s, written, queued_s, seen)[:, -2:].tolist() == [[0.5, 0.6], [0.7, 0.8]]


def test_a_token_that_never_comes_to_the_screen_is_no_figure():
    with pytest.raises(ValueError, match="never shown 2 characters"):
        stamps(*way(("a", "b"), shown=[(1, 0.5, 0.6)]))


def test_what_does_not_belong_together_is_not_joined():
    sent_s, written, queued_s, seen = way()
    with pytest.raises(ValueError, match="tokens sent, read"):
        stamps(sent_s[1:], written, queued_s, seen)
    with pytest.raises(ValueError, match="queued"):
        stamps(sent_s, written, queued_s[1:], seen)


def test_another_clock_is_known_as_well_as_the_quickest_answers_tell():
    asked = [(10.0, 1000.001, 10.004), (11.0, 1001.003, 11.004), (12.0, 1002.002, 12.010)]
    offset_s, error_s = clock_offset(asked)
    assert offset_s == pytest.approx(-990.0)
    assert error_s == pytest.approx(0.001)


def test_a_clock_of_another_pace_is_found_out():
    with pytest.raises(ValueError, match=r"by 9\.0 ms"):
        clock_offset([(10.0, 0.0, 10.001), (20.0, 10.010, 20.001)])


def test_the_table_has_a_column_for_each_situation():
    columns = [Column(title, 1, late_ms(*way()), 6) for title in ("1 chat", "4 chats at once")]
    head, rule, *rows = table(columns, is_markdown=True).splitlines()
    assert head == "| p50 / p95 / max (ms) | 1 chat | 4 chats at once |"
    assert rule == "| --- | ---: | ---: |"
    assert rows[:2] == [
        "| tokens, updates | 6, 6 | 6, 6 |",
        "| **on screen** | 6.0 / 6.0 / 6 | 6.0 / 6.0 / 6 |",
    ]
    assert len(table(columns, is_markdown=False).splitlines()) == len(rows) + 1
