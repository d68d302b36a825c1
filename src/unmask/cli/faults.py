"""What a user reads when something goes wrong: `unmask: what · why · how to mend it`, in one line."""

from __future__ import annotations

import re

import typer
from typer.exceptions import TyperException

# A package that belongs to an extra, by the name it is imported under.
EXTRA_OF = {
    "accelerate": "train",
    "datasets": "train",
    "peft": "train",
    "yaml": "train",
    "tensorboard": "train",
    "gguf": "gguf",
    "fastapi": "serve",
    "uvicorn": "serve",
}


def used_wrongly(what: str) -> typer.BadParameter:
    """A fault of the command line itself (exit code 2); `what` has its three parts already."""
    return typer.BadParameter(what)


def reason(error: BaseException) -> str:
    """The parts of a fault, in one line and without the `unmask:` before them."""
    if isinstance(error, TyperException):
        return _usage(error)
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        extra = EXTRA_OF.get(package)
        mend = f"pip install 'unmask[{extra}]'" if extra else "install unmask anew"
        return f"the package {package!r} is missing · this command needs it · {mend}"
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror.lower()} · the system refused · look at the path, its rights and the room left"
    if isinstance(error, typer.Abort):
        return "stopped · it was asked to · start it again when ready"
    said = _flat(str(error))
    if isinstance(error, ValueError) and said:
        return said
    return f"{type(error).__name__}{': ' if said else ''}{said} · this should not happen · run it again with --debug"


def one_line(error: BaseException) -> str:
    """The line that goes to standard error."""
    return f"unmask: {reason(error)}"


def _usage(error: TyperException) -> str:
    said = _flat(error.format_message()).rstrip(".")
    if " · " in said:  # ours, complete as it is
        return re.sub(r"^Invalid value( for '[^']*')?: ", "", said)
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "unmask"
    return f"{said[:1].lower()}{said[1:]} · that is not how it is called · see {command} --help"


def _flat(text: str) -> str:
    return " ".join(text.split())
