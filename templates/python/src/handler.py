"""What the function answers."""


class Handler:
    """Made once per replica: load the model here. Then called once per request."""

    def __init__(self):
        pass

    def __call__(self, req):
        # req.input is bytes, req.text the same as text, req.json() as data; req.info says which function this is.
        # Return bytes, text, or anything JSON can say.
        return req.input
