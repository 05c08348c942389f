"""The little of the Hugging Face Hub that the workshop asks: who am I, and may I have this model?

Nothing is looked up anywhere: the models are those the workshop knows, and a token is anything
that looks like one. `UNGRANTED_TOKEN` is a member who has not accepted any license yet.
"""

import json
import re
from collections.abc import Mapping
from urllib.parse import unquote

from helpers.rehearsal.server import Answer

UNGRANTED_TOKEN = "hf_rehearsal_without_license"
USER = "rehearsal"

_TOKEN = re.compile(r"hf_\w{1,200}")
_MODEL = re.compile(r"/api/models/([^/]+/[^/]+?)(?:/(auth-check|revision/[^/]+))?/?")


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

    def answer(self, path: str, headers: Mapping[str, str]) -> Answer:
        """Answer `/api/whoami-v2`, `/api/models/{org}/{name}` and its `/auth-check`."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else ""
        path = unquote(path)
        if path == "/api/whoami-v2":
            return _whoami(token)
        if match := _MODEL.fullmatch(path):
            return self._model(match[1], token, only_check=match[2] == "auth-check")
        return _error(404, "", "The rehearsal's Hub offers whoami-v2 and models/{org}/{name} only.")

    def _model(self, model_id: str, token: str, *, only_check: bool) -> Answer:
        if model_id not in self._gated:
            known = ", ".join(sorted(self._gated))
            return _error(
                404, "RepoNotFound", f"Repository not found; the rehearsal knows {known}."
            )
        refused = refusal(model_id, token, gated=self._gated[model_id])
        if refused:
            status, message = refused
            code = "" if message.startswith("Invalid") else "GatedRepo"
            return _error(status, code, message)
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
                "siblings": [],
            },
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


def _json(status: int, body: Mapping[str, object]) -> Answer:
    return Answer(status, {"Content-Type": "application/json"}, json.dumps(body).encode())
