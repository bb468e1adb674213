"""Keys and tokens are hidden in texts, and other words are not."""

import pytest

from flujo.utils.secrets import MASK, mask_secrets


@pytest.mark.parametrize(
    "secret",
    [
        "sk-abcdef123456",
        "sk-proj-Ab_c-123456789",
        "sk-ant-api03-abcdefgh",
        "sk-ab********wxyz",
        "gsk_abcdefgh12345678",
        "AIzaSyA1234567890abcdefghijklmnopqrstu",
        "AKIAIOSFODNN7EXAMPLE",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc",
    ],
)
def test_what_looks_like_a_key_is_hidden(secret: str) -> None:
    """Whatever stands around it, and however often."""
    text = f'{{"message": "wrong: {secret}, {secret}."}}'

    assert secret not in mask_secrets(text)
    assert mask_secrets(text).count(MASK) == 2


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abcdefghijklmnop",
        "Incorrect API key provided: abcdefghijklmnop",
        'api_key="abcdefghijklmnop"',
        "the password is: abcdefghijklmnop",
    ],
)
def test_what_is_said_to_be_a_secret_is_hidden(text: str) -> None:
    """A name before it tells."""
    assert "abcdefghijklmnop" not in mask_secrets(text)


def test_known_secrets_are_hidden_longest_first() -> None:
    """A secret that is a part of another does not uncover the rest of it; a placeholder is no secret."""
    assert mask_secrets("abcdefgh12 abcdefgh none", ["abcdefgh", "abcdefgh12", "none"]) == f"{MASK} {MASK} none"


@pytest.mark.parametrize(
    "text",
    [
        "This model's maximum context length is 4096 tokens.",
        "max_tokens: 1234567890123",
        "risk-averse task-orientation",
        "no basic understanding",
        "check the API key",
    ],
)
def test_other_words_stay(text: str) -> None:
    """Messages stay readable."""
    assert mask_secrets(text) == text
