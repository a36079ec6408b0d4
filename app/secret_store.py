"""The system's keyring, behind three calls that never let a backend's own trouble through."""

from __future__ import annotations

SERVICE = "Quench"


def trouble() -> str:
    """Why this system has no keyring that keeps secrets; empty if it has one."""
    try:
        import keyring
        from keyring.backends import fail, null

        backend = keyring.get_keyring()
    except Exception as error:  # noqa: BLE001 - whatever a backend finds wrong with its system
        return f"The system's keyring cannot be used ({type(error).__name__})."
    if isinstance(backend, fail.Keyring | null.Keyring):
        return "This system has no keyring (on Linux: GNOME Keyring, KWallet or KeePassXC)."
    return ""


def read(name: str) -> str | None:
    """The secret that is kept under ``name``; None if there is none or the keyring does not open."""
    if trouble():
        return None
    import keyring

    try:
        return keyring.get_password(SERVICE, name)
    except Exception:  # noqa: BLE001 - a locked or broken keyring is as good as an empty one
        return None


def keep(name: str, secret: str) -> str:
    """Keep a secret, or forget it if it is empty. Returns why that did not work, or an empty string."""
    if why := trouble():
        return why
    import keyring
    from keyring.errors import PasswordDeleteError

    try:
        if secret:
            keyring.set_password(SERVICE, name, secret)
        else:
            keyring.delete_password(SERVICE, name)
    except PasswordDeleteError:
        return ""  # there was none
    except Exception as error:  # noqa: BLE001 - backends raise what their system raises
        return f"The keyring refused: {type(error).__name__}."
    return ""


__all__ = ["SERVICE", "keep", "read", "trouble"]
