"""Passwords: taken from the environment or a file, never shown."""

import re
from pathlib import Path

from study.errors import BadInput

# scheme://user: is kept. The password ends at the last @ of the authority; where it holds a raw slash (SQLAlchemy
# allows one), at the next @. Digits before a slash are a port, and an @ after them belongs to the path.
_USERINFO = re.compile(
    r"([A-Za-z][A-Za-z0-9+.\-]*://[^\s/?#:@\[\]]*):(?!\d+(?:[/?#\s]|$))(?:[^\s/?#]+|[^\s@\"'<>]+)@", re.ASCII
)
_PARAMETER = re.compile(r"([?&]\w*password=)[^\s&#\"'<>]+", re.ASCII | re.IGNORECASE)  # libpq takes one here too


def redact(text: str) -> str:
    """`text` with the password of every URL in it replaced by ***; anything else is unchanged."""
    return _PARAMETER.sub(r"\1***", _USERINFO.sub(r"\1:***@", text))


def secret(text: str) -> str:
    """A URL given as `@file` is what that file holds, stripped; anything else is `text` itself.

    Raises BadInput where the file is missing, unreadable or empty.
    """
    if not text.startswith("@"):
        return text
    try:
        url = Path(text[1:]).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise BadInput(text, f"this file cannot be read: {reason}", "@FILE, a file that holds a URL") from None
    if not url:
        raise BadInput(text, "this file is empty", "@FILE, a file that holds a URL")
    return url
