"""Answers and errors that report what they cost."""

from typing import Any


class Paid:
    """An answer that reports what it cost."""

    def __init__(self, output: Any, cost_usd: Any, token_counts: Any = 1) -> None:
        self.output = output
        self.cost_usd = cost_usd
        self.token_counts = token_counts


class PaidError(Exception):
    """An error that reports what the failed call cost: $0.10 and 3 tokens."""

    cost_usd = 0.1
    token_counts = 3
