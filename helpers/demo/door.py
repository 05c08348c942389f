"""What every request to the page passes."""

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

# The page loads nothing from elsewhere, whatever a model writes: no pictures, no scripts, no fonts.
# Nor pictures from here: one of `/logout` would log out whoever sees it, in Studio of JupyterLab.
# Nor does another site show it as a part of its own.
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; img-src data: blob:; "
    "form-action 'self'; base-uri 'self'; object-src 'none'; frame-ancestors 'self'"
)

# Gradio (6.31) has what gets the class `mermaid` drawn by this, with HTML in it: fences that
# `literal` knows, but also a language of `x&#32;mermaid`. Without it, the source stays.
_MERMAID = "/assets/mermaid.core-"


class Door:
    """What every request passes; ASGI, so that streams pass as they are.

    Refuses what another site asks for in its reader's name: at a public address and in Studio,
    Gradio lets every site read, and its cookie goes along. Keeps Mermaid from the page. Sends
    `POLICY` with every answer. Takes Studio's path off, which the page has in all its links:
    Studio's proxy has done so already, but some come without it (notebook 05, a public address).
    """

    def __init__(self, app, path: str):
        self._app = app
        self._path = path.rstrip("/")

    async def __call__(self, scope, receive, send):
        """Pass a request on, or refuse it."""

        async def with_policy(message):
            if message["type"] == "http.response.start":
                header = (b"content-security-policy", POLICY.encode())
                message = {**message, "headers": [*message["headers"], header]}
            await send(message)

        if scope["type"] == "http" and (refusal := _refusal(scope)):
            await refusal(scope, receive, with_policy)
            return
        if self._path and scope["type"] == "http":
            scope = {**scope, "path": scope["path"].removeprefix(self._path) or "/"}
        await self._app(scope, receive, with_policy)


def _refusal(scope) -> PlainTextResponse | None:
    if _is_of_another_site(scope):
        return PlainTextResponse("This page answers no other site.", 403)
    if _MERMAID in scope["path"]:
        return PlainTextResponse("This page draws no diagrams.", 404)
    return None


def _is_of_another_site(scope) -> bool:
    """Whether a page of another site sends this; a link from there is its reader's doing."""
    headers = Headers(scope=scope)
    is_link = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
    return headers.get("sec-fetch-site") == "cross-site" and not is_link
