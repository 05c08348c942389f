"""A chat page for the endpoint, made of Gradio's own parts.

demo = launch(session, endpoint)      # in a notebook; demo.close() frees the port
python -m helpers.demo --endpoint NAME

`serving` says where and until when, `door` what every request passes; `page` what is on it, `looks`
how that looks; `visits` who is on it; `chat` answers; `line` lets in as many as the endpoint has
slots; `reading` reads one reply; `conversation` is what goes to the model and onto the page.
"""

from helpers.demo.chat import SYSTEM_PROMPT, Chat
from helpers.demo.page import build
from helpers.demo.serving import Demo, launch

__all__ = ["SYSTEM_PROMPT", "Chat", "Demo", "build", "launch"]
