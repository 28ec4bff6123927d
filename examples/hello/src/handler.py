"""Greets whom it is told."""

import os


class Handler:
    """Made once per replica; called once per request."""

    def __init__(self):
        self.greeting = os.environ.get("GREETING", "Hello")

    def __call__(self, req):
        name = req.text.strip() or "DCF"
        return f"{self.greeting} {name}\n"
