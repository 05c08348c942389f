"""Thirty participants of one account at once: deploy, chat, clean up. Prints what each has seen.

A process of its own, for `test_many_participants.py`: coverage and an audit hook do not bear so
many threads that start at the same moment (python/cpython, sys.settrace).
"""

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import rehearsing

from helpers import cleanup, endpoint, guard, messages, recipes
from helpers.session import open_session

# Two machines, since the rehearsal's account has a quota of twenty of each.
PEOPLE = {
    f"{kind}-{number}": recipe
    for kind, recipe in (("guest", "llama-3-8b"), ("guest-guest", "llama-3-70b"))
    for number in range(15)
}
HOURS = 1250  # of AWS time: a second here is half an hour there


def main():
    shared = open_session()
    together = threading.Barrier(len(PEOPLE), timeout=300)

    def take_part(name):
        try:
            return _take_part(rehearsing.participant(shared, name), together)
        except BaseException:
            together.abort()  # the others need not wait
            raise

    with ThreadPoolExecutor(len(PEOPLE)) as pool:
        seen = dict(zip(PEOPLE, pool.map(take_part, PEOPLE), strict=True))
    Path(sys.argv[1]).write_text(json.dumps(seen))


def _take_part(session, together):
    recipe = recipes.get(PEOPLE[session.participant])
    together.wait()
    served = endpoint.bring_up(session, recipe, role=session.role(), ttl_h=HOURS)
    seen = {"served": served.name, "status": served.status}
    seen["is guarded"] = guard.expiry(session, served.name) is not None
    together.wait()
    found = endpoint.find(session, in_service=True)
    seen |= {"asked": found.name, "tokens": _chat(session, found)}
    seen["mine"] = _rows(cleanup.leftovers(session))
    together.wait()
    # Half of them leave, and the others are still served.
    if int(session.participant[-1]) % 2 == 0:
        seen["deleted"] = _rows(cleanup.delete(session))
        together.wait()
    else:
        together.wait()
        seen["tokens later"] = _chat(session, found)
        seen["deleted"] = _rows(cleanup.delete(session))
    seen["left"] = _rows(cleanup.leftovers(session))
    return seen


def _chat(session, found):
    question = [{"role": "user", "content": f"I am {session.participant}."}]
    runtime = session.client("sagemaker-runtime")
    options = {"model": found.model_id, "max_tokens": 8}
    return messages.chat(runtime, found.name, question, **options).output_tokens


def _rows(frame):
    return frame.to_dict("records")


if __name__ == "__main__":
    main()
