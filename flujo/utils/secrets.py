"""Hides keys and tokens in texts that come from elsewhere, such as the error message of a provider."""

import re
from collections.abc import Iterable

MASK = "[secret]"
"""What stands in the place of a secret."""

_FEWEST_CHARACTERS = 8  # of a key that is known; placeholders such as "none" are words of every message

_TOKENS = re.compile(
    r"""
    \b(?:sk|pk|rk|gsk|xai|hf|r8|pplx|nvapi|fw|csk|tgp)[-_][\w*.-]{6,}
    | \bAIza[\w-]{20,}
    | \bya29\.[\w.-]{10,}
    | \b(?:AKIA|ASIA)[A-Z0-9]{12,}
    | \beyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?
    """,
    re.VERBOSE,
)
_NAMED = re.compile(
    r"""(?P<name>\bbearer\s+ | \bbasic\s+(?=\S*[\d=])
    | (?:api[-_ ]?key|access[-_ ]?token|authorization|secret|password)[\w ]{0,20}["']?\s*[:=]\s*["']?)
    (?P<secret>[^\s"',;{}()]{12,})
    """,
    re.VERBOSE | re.IGNORECASE,
)


def mask_secrets(text: str, known: Iterable[str] = ()) -> str:
    """Return a text with what looks like a key or a token in it masked.

    Args:
        text: What may show a secret.
        known: Secrets that are known, whatever they look like; one of fewer than 8 characters is none.

    Example:
        ```python
        from flujo.utils.secrets import mask_secrets

        assert mask_secrets("wrong key sk-abcdef123456") == "wrong key [secret]"
        ```
    """
    for secret in sorted(known, key=len, reverse=True):
        if len(secret) >= _FEWEST_CHARACTERS:
            text = text.replace(secret, MASK)
    return _NAMED.sub(lambda found: f"{found['name']}{MASK}", _TOKENS.sub(MASK, text))
