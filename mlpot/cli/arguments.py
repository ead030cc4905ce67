"""The words of a command line before its command has them: what Typer lets pass, or tells without the answer."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_type_hints

from typer.core import TyperGroup

from mlpot.cli.md import RunOrElse
from mlpot.cli.options import CONVERT, EXPORT


def command_of(commands: Any, arguments: Sequence[str]) -> tuple[Any, list[str]]:
    """The command that a line calls, and the words behind its name.

    Args:
        commands: the group of all commands.
        arguments: of the command line.
    """
    command, rest = commands, list(arguments)
    while isinstance(command, TyperGroup):
        runs = isinstance(command, RunOrElse)
        while rest and rest[0].startswith("-") and not runs:  # such as --traceback
            rest.pop(0)
        if rest and rest[0] in command.commands:
            command = command.commands[rest.pop(0)]
        elif runs and rest:
            command = command.commands["run"]
        else:
            break
    return command, rest


def check_arguments(commands: Any, arguments: Sequence[str]) -> None:
    """Raise ValueError for an option or a key that is given twice, a number that is not finite, or a setting.

    Of two values the last would count, without a word; no bound keeps a NaN out; and a setting of a recipe that is
    written as an option is none.

    Args:
        commands, arguments: as for `command_of`.
    """
    command, rest = command_of(commands, arguments)
    if isinstance(command, TyperGroup):
        return
    numbers = _numbers(command)
    taken: dict[tuple[str, str], str] = {}
    for name, value, parameter in _given(command, rest):
        if parameter is None:
            _refuse_setting(command, name, value)
            continue
        key, equals, _ = value.partition("=")
        if parameter.name in numbers and _is_not_finite(value):
            raise ValueError(f"{name} {value}: that is no finite number. Give one.")
        if _takes_several(parameter):
            place = (parameter.name, key.strip()) if equals and "=" in (parameter.metavar or "") else None
        else:
            place = (parameter.name, "")
        if place in taken:
            told = f"{place[1] or name} is given twice, as {taken[place]} and as {value}"
            raise ValueError(f"{told}, and only one of them can count. Leave one out.")
        if place is not None:
            taken[place] = value


def _given(command: Any, words: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
    """Options with their values, and words that are none with the argument of the command that takes all others.

    The parameter is None where the command has no such option, and a flag has no value and is left out.
    """
    options = {name: p for p in command.params for name in p.opts if name.startswith("-")}
    flags = {name for p in command.params for name in (*p.opts, *p.secondary_opts) if _is_flag(p)}
    others = next((p for p in command.params if p.nargs == -1), None)
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            return
        name, equals, value = word.partition("=")
        if not word.startswith("--") and word[:2] in options:  # -o FILE or -oFILE
            name, value = word[:2], word[2:]
            equals = value
        if not word.startswith("-") or len(word) < 2:
            if others is not None:
                yield word, word, others
        elif name in options and name not in flags:
            yield name, value if equals else left.pop(0) if left else "", options[name]
        elif word.startswith("--") and name not in flags:
            yield name, value if equals else left[0] if left and not left[0].startswith("-") else "", None


def _is_flag(parameter: Any) -> bool:
    return bool(getattr(parameter, "is_flag", False))  # of options alone


def _takes_several(parameter: Any) -> bool:
    return parameter.nargs == -1 or bool(getattr(parameter, "multiple", False))


def _numbers(command: Any) -> set[str]:
    """The names of the parameters that are numbers of any kind."""
    hints = get_type_hints(inspect.unwrap(command.callback))
    return {name for name, hint in hints.items() if float in (hint, *get_args(hint))}


def _is_not_finite(text: str) -> bool:
    try:
        return not math.isfinite(float(text))
    except ValueError:
        return False  # Typer says that it is no number


def _refuse_setting(command: Any, option: str, value: str) -> None:
    """Raise ValueError for an option that is a setting of the command's recipe."""
    if not any(parameter.name == "overrides" for parameter in command.params):
        return
    settings = _settings(inspect.unwrap(command.callback).__name__, option.removeprefix("--"))
    if settings:
        written = " or ".join(f"{setting}={value or '...'}" for setting in settings)
        raise ValueError(f"There is no option {option}: settings of the recipe have no dashes. Write {written}")


def _settings(command: str, name: str) -> Sequence[str]:
    """The settings that are called so in the recipe of a command, by the name of its function."""
    from mlpot.recipes import settings_called

    if command == "md_run":
        from mlpot.dynamics.recipe import MDRecipe

        return settings_called(MDRecipe, name)
    if command == "propagate_train":
        from mlpot.propagators.recipe import PropagatorRecipe

        return settings_called(PropagatorRecipe, name)
    from mlpot.training.backbone_arguments import arguments_called
    from mlpot.training.recipe import Recipe

    return [*arguments_called(name), *settings_called(Recipe, name)]


def of_convert(commands: Any, arguments: Sequence[str], message: str) -> str:
    """What to add to a message that proposes options which `mlpot data convert` has and the given command has not.

    Whoever reads a file names the options that answer its questions, and does not know who asked for the file.

    Args:
        commands, arguments: as for `command_of`.
        message: of an error.
    """
    command, _ = command_of(commands, arguments)
    of_data = commands.commands["data"].commands
    own, of_convert, of_export = (_options(c) for c in (command, of_data["convert"], of_data["export"]))
    if "--elements-from" not in own:  # of another thing than a file, such as a calculator
        own.discard("--elements")
    proposed = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", message))
    lacking = sorted((proposed & of_convert) - own)
    if not lacking or CONVERT in message:
        return ""
    if EXPORT in message:  # the whole command stands there
        return f"\nHere there is no {', '.join(lacking)}: run that command, and give the file that it writes here."
    bare = f" (of structures without labels: {EXPORT} FILE set.xyz)" if of_export.issuperset(lacking) else ""
    told = f"say it to {CONVERT} FILE set.h5{bare}, and give what it writes here."
    return f" Here there is no {', '.join(lacking)}: {told}"


def _options(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}
