"""Local models: the places where they lie, which paths are models, what their headers say, what they take up.

``walk`` finds candidates in the ``places``, ``listing`` describes them, ``watch`` does both again when something has
changed. :mod:`app.library` is the face of it for everybody else.
"""
