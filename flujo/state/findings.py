"""What a check of a database finds."""

from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class Finding:
    """Something to know of a database.

    Attributes:
        message: What it is.
        run_id: The run it is about; `None` for the file as a whole.
        budget: The budget it is about; likewise.
        is_damage: Whether something is lost or wrong, and not only worth knowing.
    """

    message: str
    run_id: str | None = None
    budget: str | None = None
    is_damage: bool = True
