"""What the declaration of a setting says: its default, kind of value, meaning, flag, and where it matters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from helpers.settings.kinds import Kind
from helpers.settings.parsers import ParseContext

T = TypeVar("T")
UNSETTLED: Any = None  # a folder whose default depends on other settings
# Tasks that have a setting's flag.
EVERY = ("*",)  # each task that is about a project
UP = ("up",)
NOTEBOOK = ("up", "jupyter")


@dataclass(frozen=True)
class Setting:
    """One row. ``default`` is the text that may be written in its place; ``tasks`` are those that have its flag.

    ``only``: where it means something, as words of ``relevance.CONDITIONS`` that all have to hold; ``instead``: what to
    use where it does not. ``repeated``: the flag may be given several times, each with one word; ``switch``: alone it
    is true. ``compose``: the Compose files read it as ``${TRACKBED_NAME}``. ``remembered``: later tasks know what an
    ``up`` was told. ``theme``: the heading that it stands under in help and docs.
    """

    default: str
    kind: Kind[Any]
    help: str
    tasks: tuple[str, ...] = ()
    secret: bool = False
    option: str = ""
    repeated: bool = False
    switch: bool = False
    compose: bool = False
    remembered: bool = True
    only: tuple[str, ...] = ()
    instead: str = ""
    name: str = ""
    theme: str = ""

    @property
    def field(self) -> str:
        return self.name.lower()

    @property
    def allowed(self) -> str:
        """What completes "must be ..."."""
        return self.kind.allowed

    @property
    def flag(self) -> bool:
        """Whether some task takes it on the command line."""
        return bool(self.tasks)

    @property
    def of_up(self) -> bool:
        """Whether `up` is among those."""
        return self.tasks == EVERY or "up" in self.tasks

    def given(self, value: str) -> str:
        """How a user gives that value: the command, or the line of .env where `up` has no flag for it."""
        return f"`invoke up {self.option}={value}`" if self.of_up else f"{self.name}={value} in .env"

    @property
    def forgetting(self) -> str:
        """The command that makes ``up`` forget what it was told."""
        return f"`invoke up {self.option}=`" if self.of_up else f"`TRACKBED_{self.name}= invoke up`"

    def parse(self, text: str, context: ParseContext) -> Any:
        """The value; raises parsers.InvalidValue."""
        return self.kind.parse(text, context)


def setting(default: str, kind: Kind[T], help: str, **more: Any) -> T:
    """Declare a setting as a field of a theme's class; the parser's type is the field's."""
    row = Setting(default, kind, help, **more)
    result: Any = field(repr=not row.secret, metadata={"setting": row})
    return result  # type: ignore[no-any-return]
