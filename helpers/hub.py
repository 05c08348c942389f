"""The Hugging Face token: where it comes from, what it may do, how it stays out of sight."""

import json
import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

from helpers.errors import SettingsError

MASK = "***"
HUB_URL = "https://huggingface.co"
# TOKEN as a word or the end of one: TOKENS are a number of tokens and a TOKENIZER is no secret.
_SECRET_NAME = re.compile(
    r"TOKEN(?![A-Z])|SECRET|PASSWORD|CREDENTIAL|(API|ACCESS)_?KEY|(^|_)KEY$", re.IGNORECASE
)
# Real ones have 34 letters and digits, no underscore: hf_delete_endpoint is a name. What precedes
# does not matter: it is a letter in JSON's "\nhf_…", a digit in a URL's "%20hf_…". Those of OAuth,
# of jobs and of organizations have a word more.
TOKEN = "(?:hf_(?:oauth|jwt)_[A-Za-z0-9_.-]{8,}|hf_[A-Za-z0-9]{8,}|api_org_[A-Za-z0-9]{8,})"
_TOKEN = re.compile(TOKEN)
_SHORTEST = 8  # of what is covered wherever it stands: a shorter one would cover words
_PRINTABLE = re.compile("[!-~]*")
_TELLING_LOGS = ("botocore.endpoint", "botocore.parsers")  # CreateModel's body, DescribeModel's
_known: set[str] = set()  # secrets that this process was given, whatever they look like


def is_secret(name: str) -> bool:
    """Whether a variable of this name holds a secret (`HF_TOKEN` does, `MAX_TOTAL_TOKENS` not)."""
    return bool(_SECRET_NAME.search(name))


def mask(env: Mapping[str, str]) -> dict[str, str]:
    """A copy of an environment that can be shown: secrets are covered."""
    return {
        name: MASK if value and is_secret(name) else redact(value) for name, value in env.items()
    }


def cover(secret: str | None) -> str | None:
    """Remember a secret of this process and return it: `redact` covers it from now on."""
    if secret and len(secret) >= _SHORTEST:
        _known.update(_written(secret))
    return secret


def clean(given: str | None) -> str | None:
    """A token as it may be sent, remembered by `cover`; None when there is none.

    What a terminal or a file adds around it is left out: with it the Hub refuses the token when
    the container asks, long after a deployment has begun to bill.

    Raises:
        SettingsError: When it has characters that no token has.
    """
    if given is None:
        return None
    if not isinstance(given, str):
        raise SettingsError(
            f"A Hugging Face token is text, not {type(given).__name__}: give it as a string, or "
            "set HF_TOKEN."
        )
    value = cover(given.strip()) or ""
    if not _PRINTABLE.fullmatch(value):  # a header's error would quote it
        raise SettingsError(
            "The Hugging Face token has characters that none has: copy it again from "
            f"{HUB_URL}/settings/tokens."
        )
    return value or None


def redact(text: str, *secrets: str | None) -> str:
    """A text without the given secrets, those of `cover`, and all that looks like a token."""
    given = {form for secret in secrets if secret for form in _written(secret)}
    for secret in sorted(_known | given, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return _TOKEN.sub(MASK, text)


def _written(secret: str) -> set[str]:
    """A secret as it is, and as it stands in JSON, in Python's `repr`, in a URL, or in two of them.

    botocore logs an answer as the `repr` of JSON. What has letters and digits only is one.
    """
    forms = {secret}
    for _ in range(2):
        forms |= {written for form in forms for written in _once_written(form)}
    return forms


def _once_written(text: str) -> Iterator[str]:
    for is_ascii in (True, False):
        yield json.dumps(text, ensure_ascii=is_ascii)[1:-1]
    for before in ("", '"'):  # beside one of these, Python escapes '
        yield repr(before + text)[1 + len(before) : -1]
        yield repr((before + text).encode(errors="replace"))[2 + len(before) : -1]
    yield quote(text, safe="", errors="replace")
    yield quote(text, errors="replace")


def cover_logs(*names: str) -> None:
    """Let debug logs go through `redact`: they hold whole requests and answers.

    Args:
        *names: Of loggers; botocore's when left out.
    """
    for name in names or _TELLING_LOGS:
        logger = logging.getLogger(name)
        if _covered not in logger.filters:
            logger.addFilter(_covered)


def _covered(record: logging.LogRecord) -> bool:
    record.msg, record.args = redact(record.getMessage()), ()
    return True


@dataclass(frozen=True)
class TokenCheck:
    """What is known about the token, never the token.

    Attributes:
        source: `HF_TOKEN`, `hf auth login`, or `none`.
        user: Whose token it is, None when the Hub did not say.
        licence_accepted: Whether it may download the model, None when the Hub did not say.
        message: The same in one sentence, with what to do.
        refused: Whether the Hub takes it for no token at all.
    """

    source: str
    user: str | None
    licence_accepted: bool | None
    message: str
    refused: bool = False


def token(environ: Mapping[str, str] = os.environ) -> str | None:
    """The token from the environment, else the one saved by `hf auth login`, else None.

    Raises:
        SettingsError: When it has characters that no token has.
    """
    return _token_and_source(environ)[0]


def check_token(model_id: str, *, environ: Mapping[str, str] = os.environ) -> TokenCheck:
    """Ask the Hub whose token it is and whether it may download a model. Never raises.

    Args:
        model_id: Hugging Face model, e.g. `meta-llama/Meta-Llama-3-70B-Instruct`.
        environ: Where `HF_TOKEN` and `HF_ENDPOINT` are looked for.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        value, source = _token_and_source(environ)
    except SettingsError as error:
        return TokenCheck("HF_TOKEN", None, None, str(error), refused=True)
    if not value:
        return TokenCheck(
            source,
            None,
            None,
            f"No Hugging Face token: create one at {HUB_URL}/settings/tokens and set HF_TOKEN, "
            "or run `hf auth login`.",
        )
    url = environ.get("HF_ENDPOINT") or HUB_URL
    keep_to(url)
    api = HfApi(endpoint=url, token=value)
    user = None
    try:
        user = api.whoami()["name"]
        api.auth_check(model_id)
    except GatedRepoError:
        return TokenCheck(
            source,
            user,
            False,
            f"The token of {user} may not download {model_id}: accept the license at "
            f"{HUB_URL}/{model_id} and wait for the grant.",
        )
    except RepositoryNotFoundError:
        return TokenCheck(
            source, user, False, f"The Hub has no model {model_id} for {user}: check its name."
        )
    except HfHubHTTPError as error:
        status = error.response.status_code
        message = f"The Hub answered {status}: try again later."
        refused = status in (401, 403)
        if refused:
            message = (
                f"The Hub refuses the token from {source}: create a new one at "
                f"{HUB_URL}/settings/tokens."
            )
        return TokenCheck(source, user, None, message, refused)
    except Exception as error:  # huggingface_hub's HTTP library changes between its versions
        return TokenCheck(
            source, user, None, f"The Hub cannot be reached ({type(error).__name__}): not checked."
        )
    return TokenCheck(
        source, user, True, f"The token of {user}, from {source}, may download {model_id}."
    )


_keeping = threading.Lock()
_proxies: dict[str, str] | None = None  # those that huggingface_hub's connections know


def keep_to(url: str) -> None:
    """Keep huggingface_hub, whatever it has read at import, to this Hub and this environment.

    Its telemetry asks huggingface.co for a list of agents, whatever `HF_ENDPOINT` says, and its
    connections keep the proxies of when they were first used. None is used for a Hub on loopback.

    Args:
        url: Of the Hub that is to be asked next.
    """
    from huggingface_hub import close_session, constants

    global _proxies
    constants.HF_HUB_DISABLE_TELEMETRY = True
    host = urlsplit(url).hostname
    with _keeping:
        if host in ("127.0.0.1", "localhost") and not proxy_bypass(host):
            spared = ",".join(filter(None, [getproxies().get("no"), "127.0.0.1", "localhost"]))
            os.environ.update(NO_PROXY=spared, no_proxy=spared)
        if (proxies := getproxies()) != _proxies:
            close_session()
            _proxies = proxies


def _token_and_source(environ: Mapping[str, str]) -> tuple[str | None, str]:
    value = clean(environ.get("HF_TOKEN"))
    if value:
        return value, "HF_TOKEN"
    from huggingface_hub import get_token

    saved = clean(get_token())
    return (saved, "hf auth login") if saved else (None, "none")
