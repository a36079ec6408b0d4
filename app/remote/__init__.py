"""Models that other machines (or other programs on this one) serve: OpenAI-compatible servers as models. No Qt.

:mod:`app.remote.address` names servers and their models and knows no network; :mod:`app.remote.client` speaks HTTP and
runs in workers alone; :mod:`app.remote.messages` are the wire's structs.
"""
