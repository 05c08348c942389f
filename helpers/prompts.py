"""Prompts of a known length: words that are one token each in Llama 3's vocabulary.

Each word below, with a space before it, is one entry of Llama 3's 128,000-entry vocabulary, and so
is the first word without one; Llama 3's tokenizer looks a whole word up before it merges pieces
(`ignore_merges`), so n words are n tokens. Checked against the vocabulary in
`belladoreai/llama3-tokenizer-js`, commit 7e10d71 (2025-07-28). Not counted are the tokens of the
chat template, 10 for one user message; for another model's vocabulary the count is an estimate.
"""

import math
import random

SOURCE = "one-token words of Llama 3's vocabulary, chat template not counted"

_OPENING = (
    "Write a very long story about a small house near the sea with as many words as you can "
    "and use all of these words in it"
)
_ENTRIES = """
above across after again air almost along among animal answer area arm ask back bank base bed
before begin behind below best better between big bird black blue board boat body book box boy
bridge bring brother brown build business buy call car card care carry case cat cause center chair
chance change child city class clear close cloud coast cold color common company condition control
cook cool corner country course cover cross cup dance dark day deep different direct doctor dog door
down draw dream dress drink drive dry early earth east easy edge effect egg energy engine enough
evening event example eye face fact fall family farm fast father feel field fight figure fill final
find fine finger fire first fish floor flow flower fly follow food foot force forest form forward
four free fresh friend front fruit full game garden gas girl glass gold good grass great green
ground group grow hair half hand happy hard hat head hear heart heat heavy help high hill history
hole home horse hospital hot hour human ice idea island job journey keep key kind king kitchen lake
land language large laugh law lead leaf learn leg letter level life light line list little long love
low lunch machine map mark market master matter meal measure meat meet metal middle mile milk mind
minute model money month moon morning mother mountain mouth music name nation nature neck new night
noise north nose note number object ocean office oil old open orange order page paint pair paper
park part party pass path peace pen pencil people picture piece place plain plan plane plant plate
play pocket point police pool poor possible power present price prince problem public quarter queen
question quick quiet race radio rain record red rest rich ride right ring river road rock roof room
round rule run salt sand school science screen season seat second seed shape share sheet ship shirt
shoe shop short shoulder side sign silver simple single sister size skin sky sleep slow smile smoke
snow soft soil song sound south space speak speed spirit spring square stage star start station
steel step stick still stone store storm story street strong student summer sun surface sweet table
tail talk tall teacher team test thick thin thing time tired tool tooth top touch tower town track
trade train tree trip truck true turn uncle valley view village voice wait walk wall war warm watch
water wave weather week weight west wheel white wide wild wind window wine wing winter winner wise
woman wonder wood word work world year yellow young zero
"""
_TASK, _WORDS = _OPENING.split(), _ENTRIES.split()
LEAST = len(_TASK) + 1  # tokens of the shortest prompt


def prompt(tokens: int, *, seed: int = 0) -> str:
    """A text of exactly so many words, each one token; the same seed gives the same text.

    Different seeds share only the opening, so a prefix cache is of little help.

    Raises:
        ValueError: When there is no room for the task itself.
    """
    if tokens < LEAST:
        raise ValueError(
            f"A prompt of {tokens} tokens has no room for its task: ask for more than {len(_TASK)}."
        )
    words = random.Random(seed).choices(_WORDS, k=tokens - len(_TASK))
    return " ".join([*_TASK, *words])


def length(mean: float, *, stddev: float, seed: int | str, least: int = 1) -> int:
    """A length in tokens, drawn from a normal distribution, as llmperf's `--stddev-…` asks for.

    llmperf draws again what is too short; here it becomes the shortest.

    Args:
        mean: The mean of many; without a deviation what each of them is.
        stddev: Their standard deviation.
        seed: The same one draws the same; a prompt and its reply want different ones, or long
            prompts have long replies.
        least: The shortest that makes sense: `LEAST` for a prompt.

    Raises:
        ValueError: When no such length makes sense.
    """
    if not (least <= mean < math.inf and 0 <= stddev < math.inf):
        raise ValueError(
            f"Lengths of {mean:g} ± {stddev:g} tokens make no sense: ask for a mean of at least "
            f"{least} and a standard deviation of 0 or more."
        )
    return max(least, round(random.Random(f"length {seed}").gauss(mean, stddev)))
