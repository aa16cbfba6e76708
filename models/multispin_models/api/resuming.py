"""A text that goes on at another daemon: what its user has is written again, compared, and not sent again. No I/O."""

from collections.abc import Callable

from multispin_models.api.errors import ApiError
from multispin_models.provenance import Piece, Span

__all__ = ["Resumption"]


class Resumption:
    """Between a generation and its outbox.

    Args:
        known: text that the user has.
        put: takes what the user has not.
    """

    def __init__(self, known: str, put: Callable[[Piece], None]) -> None:
        self._left = known
        self._put = put
        self._differs = False

    def put(self, piece: Piece) -> None:
        """Take a piece of the text from its begin; hand on what is new."""
        count = min(len(self._left), len(piece.text))
        if piece.text[:count] != self._left[:count]:
            self._differs = True
        if self._differs:
            return
        self._left = self._left[count:]
        if rest := piece.text[count:]:
            self._put(Piece(rest, _without(piece.spans, count)))

    def check(self) -> None:
        """Raise unless the text began with what the user has.

        Raises:
            ApiError: 409.
        """
        if self._differs or self._left:
            raise ApiError(
                409,
                "invalid_request_error",
                "resume.text is not how this text begins: give the same prompt, sampling and id, to an end with the "
                "same target, or begin anew",
                param="resume.text",
                code="resume_mismatch",
            )


def _without(spans: tuple[Span, ...], count: int) -> tuple[Span, ...]:
    """Return spans without the first so many characters of their text.

    >>> _without((Span("ab", "target"), Span("cd", "bonus")), 3)
    (Span(text='d', source='bonus'),)
    """
    kept = []
    for span in spans:
        if text := span.text[count:]:
            kept.append(Span(text, span.source))
        count = max(0, count - len(span.text))
    return tuple(kept)
