"""The little of the Hugging Face Hub that the workshop asks for.

Who am I, may I have this model, its files, and the registry of the Neuron cache. Nothing is
looked up anywhere: the models are those the workshop knows, a token is anything that looks like
one, and every model's tokenizer is the one that cuts made-up replies as `container/text.py` does.
`UNGRANTED_TOKEN` is a member who has not accepted any license yet.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from urllib.parse import parse_qs, unquote

from helpers import neuron_cache
from helpers.rehearsal import registry, repository
from helpers.rehearsal.container.text import PIECE
from helpers.rehearsal.server import Answer

UNGRANTED_TOKEN = "hf_rehearsal_without_license"
USER = "rehearsal"

_TOKEN = re.compile(r"hf_\w{1,200}")
_MODEL = re.compile(r"/api/models/([^/]+/[^/]+?)(?:/(auth-check|revision/[^/]+))?/?")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_TREE = re.compile(rf"/api/models/{neuron_cache.REPOSITORY}/tree/([^/]+)(?:/(.*?))?/?")

# A tokenizer without a vocabulary: each piece of `container/text.py` is the one token there is.
# What its file may contain is fixed, so that token is where it says whose it is.
_TOKEN_NAME = "<|rehearsal|>"
_TOKENIZER = json.dumps(
    {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": PIECE.pattern},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {_TOKEN_NAME: 0}, "unk_token": _TOKEN_NAME},
    }
).encode()
_DIGEST = hashlib.sha256(_TOKENIZER).hexdigest()
# Where a client keeps files: another tokenizer is another revision.
REVISION = f"rehearsal-{_DIGEST[:12]}"


def refusal(model_id: str, token: str | None, *, gated: bool) -> tuple[int, str] | None:
    """Why the Hub would not hand out a model, in its words (2026-11), None when it would.

    Args:
        model_id: `organization/name`.
        token: The bearer token, None or empty without one.
        gated: True when a license has to be accepted first.

    Returns:
        HTTP status and message.
    """
    if token and not _TOKEN.fullmatch(token):
        return 401, "Invalid credentials in Authorization header"
    if gated and not token:
        return 401, (
            f"Access to model {model_id} is restricted. You must have access to it and be "
            "authenticated to access it. Please log in."
        )
    if gated and token == UNGRANTED_TOKEN:
        return 403, (
            f"Access to model {model_id} is restricted and you are not in the authorized list. "
            f"Visit https://huggingface.co/{model_id} to ask for access."
        )
    return None


class Hub:
    """Answers the Hub's API for a fixed list of models.

    Args:
        gated: For each model, whether a license has to be accepted.
    """

    def __init__(self, gated: Mapping[str, bool]):
        self._gated = dict(gated)
        self._cache = registry.files()

    def answer(self, path: str, headers: Mapping[str, str], query: str = "") -> Answer:
        """Answer a GET or HEAD: who a token is, a model, whether it may be had, its tokenizer.

        `/api/whoami-v2`, `/api/models/{org}/{name}` with or without `/auth-check`,
        `/{org}/{name}/resolve/main/{file}`, and of the Neuron cache its tree and its files.
        """
        scheme, _, token = headers.get("authorization", "").partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else ""
        path = unquote(path)
        if path == "/api/whoami-v2":
            return _whoami(token)
        if match := _MODEL.fullmatch(path):
            only_check = match[2] == "auth-check"
            return self._refused(match[1], token) or self._model(
                match[1], only_check=only_check, sizes="blobs=" in query
            )
        if match := _TREE.fullmatch(path):
            return self._tree(match[1], match[2] or "", query)
        if match := _FILE.fullmatch(path):
            if match[1] == neuron_cache.REPOSITORY:
                return _content(match[2], self._cache.get(match[3]))
            refused = self._refused(match[1], token)
            return refused or _content(match[2], _files(match[1]).get(match[3]))
        return _error(
            404,
            "",
            "The rehearsal's Hub offers whoami-v2, models/{org}/{name}, a model's "
            f"files and the registry of {neuron_cache.REPOSITORY} only.",
        )

    def _tree(self, revision: str, folder: str, query: str) -> Answer:
        if revision not in ("main", REVISION):
            return _error(404, "RevisionNotFound", "Invalid rev id")
        asked = parse_qs(query).get("recursive", [""])[-1].lower()
        listed = registry.tree(self._cache, folder, recursive=asked in ("true", "1"))
        if listed is None:
            return _error(404, "EntryNotFound", f'{folder} does not exist on "main"')
        return _json(200, listed)

    def _refused(self, model_id: str, token: str) -> Answer | None:
        if model_id not in self._gated:
            known = ", ".join(sorted(self._gated))
            return _error(
                404, "RepoNotFound", f"Repository not found; the rehearsal knows {known}."
            )
        refused = refusal(model_id, token, gated=self._gated[model_id])
        if refused is None:
            return None
        status, message = refused
        code = "" if message.startswith("Invalid") else "GatedRepo"
        return _error(status, code, message)

    def _model(self, model_id: str, *, only_check: bool, sizes: bool) -> Answer:
        if only_check:
            return _json(200, {})
        return _json(
            200,
            {
                "_id": "rehearsal",
                "id": model_id,
                "modelId": model_id,
                "private": False,
                "gated": "manual" if self._gated[model_id] else False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": ["rehearsal"],
                "sha": REVISION,
                "siblings": repository.siblings(_files(model_id), sizes=sizes),
            },
        )


def _files(model_id: str) -> dict[str, bytes]:
    return repository.files(model_id, _TOKENIZER)


def _content(revision: str, content: bytes | None) -> Answer:
    """A file of a repository, with what huggingface_hub 2.4 wants to know of it."""
    if revision not in ("main", REVISION):
        return _error(404, "RevisionNotFound", "Invalid rev id")
    if content is None:
        absent = _error(404, "EntryNotFound", "Entry not found")
        return absent._replace(headers={**absent.headers, "X-Repo-Commit": REVISION})
    return Answer(
        200,
        {
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),  # also when only the head is asked for
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": REVISION,
        },
        content,
    )


def _whoami(token: str) -> Answer:
    if not _TOKEN.fullmatch(token):
        return _error(401, "", "Invalid credentials in Authorization header")
    return _json(
        200,
        {
            "type": "user",
            "id": "rehearsal",
            "name": USER,
            "fullname": "Rehearsal",
            "isPro": False,
            "orgs": [],
            "auth": {
                "type": "access_token",
                "accessToken": {"displayName": "rehearsal", "role": "read"},
            },
        },
    )


def _error(status: int, code: str, message: str) -> Answer:
    answer = _json(status, {"error": message})
    codes = {"X-Error-Code": code} if code else {}
    return answer._replace(headers={**answer.headers, **codes, "X-Error-Message": message})


def _json(status: int, body: object) -> Answer:
    return Answer(status, {"Content-Type": "application/json"}, json.dumps(body).encode())
