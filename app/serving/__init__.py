"""A loaded model behind OpenAI's form of the API. No Qt, no engine: what answers is reached by messages.

:mod:`app.serving.forms` reads requests and writes answers, :mod:`app.serving.guard` decides who may ask,
:mod:`app.serving.service` is the HTTP application, :mod:`app.serving.messages` are the wire's structs.
"""
