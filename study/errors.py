"""The one error a user can cause: told in one line, ends with exit code 2, loses nothing."""


class BadInput(Exception):
    """What the user gave cannot be used; `str(error)` is the whole message.

    The line says where (file, field), what was there, and what is allowed, in that order.
    """

    def __init__(self, where: str, problem: str, allowed: str = "") -> None:
        super().__init__(where, problem, allowed)
        self.where, self.problem, self.allowed = where, problem, allowed

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}" + (f" ({self.allowed})" if self.allowed else "")
