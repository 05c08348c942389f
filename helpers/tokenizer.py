"""Count a reply's tokens with the model's own tokenizer, for servers that do not count themselves.

What a model wrote is not always what its tokenizer makes of the text: a model may spell a word in
pieces, and its end of turn is a token without text. A count differs from the server's by that much.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from helpers import hub, settings

_FILE = "tokenizer.json"


@dataclass(frozen=True)
class Counter:
    """What counts the tokens of a model's replies.

    Attributes:
        count: Tokens of a text, special ones not added; None when there is no tokenizer. It can be
            pickled.
        message: Which tokenizer it is, or why there is none, in one sentence.
    """

    count: Callable[[str], int] | None
    message: str


def counter(
    model_id: str, *, environ: Mapping[str, str] = os.environ, timeout_s: float = 5.0
) -> Counter:
    """The tokenizer of a model on the Hub, where it can be had. Never raises.

    Args:
        model_id: Hugging Face model, e.g. `meta-llama/Meta-Llama-3-70B-Instruct`.
        environ: Where `HF_TOKEN` and `HF_ENDPOINT` are looked for.
        timeout_s: For the Hub's first word. When it does not come, what was fetched before is used.
    """
    from huggingface_hub import errors

    try:
        path = _fetch(model_id, environ, timeout_s)
    except errors.RemoteEntryNotFoundError:
        return _none(model_id, f"it has no {_FILE} on the Hub.")
    except errors.HfHubHTTPError as error:
        return _none(model_id, _refused(model_id, error.response.status_code, environ))
    except errors.HFValidationError:
        return _none(model_id, "that is no name of a model on the Hub.")
    except Exception as error:  # huggingface_hub's HTTP library changes between its versions
        return _none(model_id, f"it cannot be fetched from the Hub ({type(error).__name__}).")
    try:
        count = _counting(path)
    except Exception as error:  # the library raises nothing narrower
        return _none(model_id, f"its {_FILE} cannot be read ({type(error).__name__}): {path}.")
    return Counter(
        count,
        f"Tokens are counted by the tokenizer of {model_id}, revision {path.parent.name}.",
    )


def _none(model_id: str, why: str) -> Counter:
    return Counter(None, f"There is no tokenizer of {model_id}: {why[0].lower()}{why[1:]}")


def _refused(model_id: str, status: int, environ: Mapping[str, str]) -> str:
    if status in (401, 403, 404):
        check = hub.check_token(model_id, environ=environ)
        if not check.licence_accepted:
            return check.message
    return f"the Hub answered {status}: try again later."


def _fetch(model_id: str, environ: Mapping[str, str], timeout_s: float) -> Path:
    from huggingface_hub import (
        get_hf_file_metadata,
        hf_hub_download,
        hf_hub_url,
        try_to_load_from_cache,
    )

    endpoint = (environ.get("HF_ENDPOINT") or hub.HUB_URL).rstrip("/")
    hub.keep_to(endpoint)
    token = hub.token(environ) or False  # None would let huggingface_hub look for one itself
    cache_dir = _cache_dir(endpoint, environ)
    try:
        # Asked once beforehand: hf_hub_download would try a Hub that is silent for minutes.
        url = hf_hub_url(model_id, _FILE, endpoint=endpoint)
        get_hf_file_metadata(url, token=token, timeout=timeout_s)
        with _without_progress_bars():
            return Path(
                hf_hub_download(
                    model_id,
                    _FILE,
                    token=token,
                    endpoint=endpoint,
                    cache_dir=cache_dir,
                    etag_timeout=timeout_s,
                )
            )
    except Exception:
        fetched = try_to_load_from_cache(model_id, _FILE, cache_dir=cache_dir)
        if not isinstance(fetched, str):
            raise
        return Path(fetched)


def _cache_dir(endpoint: str, environ: Mapping[str, str]) -> Path | None:
    """Where files are kept; None for huggingface_hub's own cache.

    That one does not know from which Hub it has a file: what another Hub says of a model, the
    rehearsal's for example, must not be taken for the model's own.
    """
    return None if endpoint == hub.HUB_URL else settings.load(environ).state_dir / "hub"


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _counting(path: Path) -> Callable[[str], int]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()  # some files say that a text ends after so many tokens
    tokenizer.no_padding()
    count = partial(_count, tokenizer)
    if not count("Whatever is to fail, fails now."):
        raise ValueError("no token for a text")
    return count


def _count(tokenizer, text: str) -> int:
    # JSON may spell half a character, which Python keeps and the tokenizer refuses.
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return len(tokenizer.encode(whole, add_special_tokens=False).ids)
