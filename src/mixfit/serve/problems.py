"""What is wrong with a request, as an answer: a status, one sentence, and the place in the request."""

from typing import Any


class Problem(Exception):  # noqa: N818 - it is the client's, not an error of ours
    """A request that is refused.

    Args:
        status: of HTTP, 4xx, or 503 where the server has no place for it.
        message: one sentence: how many, which one, what to do.
        where: the place in the request, such as ``rows[0].area``; "" for the request as a whole.
        retry_after: seconds after which the same request may succeed.
    """

    def __init__(self, status: int, message: str, where: str = "", *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.where, self.retry_after = status, message, where, retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer."""
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}

    def to_dict(self) -> dict[str, Any]:
        """The answer as JSON."""
        return {"error": {"message": self.message, "where": self.where or None}}
