"""Groups of options: a parameter of a command that stands for several, so that no option is written twice."""

import inspect
from collections.abc import Callable
from copy import copy
from functools import wraps
from typing import Annotated, Any, ClassVar, get_args, get_type_hints

import msgspec

_OPTION = inspect.Parameter.KEYWORD_ONLY


class OptionGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Options that belong together, a field each, annotated as parameters of a typer command are.

    Attributes:
        panel: Title of the group in the help.
    """

    panel: ClassVar[str] = "Options"


def flat(
    function: Callable[..., Any], every: type[OptionGroup], begin: Callable[[Any], None]
) -> Callable[..., Any]:
    """Return a command as typer wants it: with the options of its groups in place of the groups.

    Args:
        function: The command.
        every: A group that every command has.
        begin: Is called with that group before the command.
    """
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, type[OptionGroup]] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        kind = hints[name]
        if isinstance(kind, type) and issubclass(kind, OptionGroup):
            groups[name] = kind
            parameters += _options(kind)
        else:
            parameters.append(parameter.replace(annotation=kind, kind=_OPTION))
    parameters += _options(every)
    for parameter in parameters:
        for option in getattr(parameter.annotation, "__metadata__", ()):
            option.readable = False  # who opens the file says so, as an error of the file

    @wraps(function)
    def command(**values: Any) -> Any:
        begin(every(**{field: values.pop(field) for field in every.__struct_fields__}))
        for name, kind in groups.items():
            values[name] = kind(**{field: values.pop(field) for field in kind.__struct_fields__})
        return function(**values)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _options(kind: type[OptionGroup]) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    options = []
    for field in msgspec.structs.fields(kind):
        annotation, option = get_args(hints[field.name])
        option = copy(option)
        option.rich_help_panel = kind.panel
        options.append(
            inspect.Parameter(
                field.name, _OPTION, default=field.default, annotation=Annotated[annotation, option]
            )
        )
    return options
