"""Who is signed in: a cookie that holds the name and a signature over it.

The key is the same in all replicas and after a restart (SESSION_SECRET, or a default that is fine
for a demo only), so that it does not matter which replica answers.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie

_COOKIE = "session"
_ATTRIBUTES = "Path=/; HttpOnly; SameSite=Lax"
# The name becomes the value of a header, so it may not hold a line break or anything beyond ASCII.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@+-]{0,63}")


class Sessions:
    """Signs names into cookies and reads them back."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._key = environment.get("SESSION_SECRET", "bookinfo-demo").encode()

    def sign_in(self, name: str) -> str | None:
        """The Set-Cookie value for a name, or None if the name cannot be used."""
        name = name.strip()
        if not _NAME.fullmatch(name):
            return None
        return f"{_COOKIE}={self._sign(name)}; {_ATTRIBUTES}"

    def sign_out(self) -> str:
        """The Set-Cookie value that forgets the name."""
        return f"{_COOKIE}=; Max-Age=0; {_ATTRIBUTES}"

    def user(self, cookie_header: str) -> str | None:
        """The name in a Cookie header, if it is signed with our key."""
        try:
            morsel = SimpleCookie(cookie_header).get(_COOKIE)
        except CookieError:
            return None
        if morsel is None:
            return None
        try:
            name = base64.urlsafe_b64decode(morsel.value.partition(".")[0]).decode(
                "ascii"
            )
        except ValueError:
            return None
        return (
            name
            if hmac.compare_digest(self._sign(name).encode(), morsel.value.encode())
            else None
        )

    def _sign(self, name: str) -> str:
        signature = hmac.digest(self._key, name.encode(), "sha256").hex()
        return f"{base64.urlsafe_b64encode(name.encode()).decode()}.{signature}"
