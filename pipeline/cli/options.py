"""What commands share: their options, their errors, their answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from pipeline.params import Params

F = TypeVar("F", bound=Callable[..., Any])


class OneLineErrors(click.Group):
    """A group whose commands end with one line and exit code 1 where a person can fix the cause."""

    def invoke(self, ctx: click.Context) -> Any:
        from stages.entry import one_line_errors

        with one_line_errors():
            return super().invoke(ctx)


def reads_params(command: F) -> F:
    """Adds `--params FILE` and `--set key=value`; the command gets the checked `params`."""

    def load(ctx: click.Context, _: click.Parameter, overrides: tuple[str, ...]) -> "Params":
        from pipeline.params import load_params

        return load_params(ctx.params.pop("params_file"), overrides)

    command = click.option("--set", "params", multiple=True, metavar="KEY=VALUE", callback=load,
                           help="Override a params key for this run; may be repeated.")(command)
    return click.option("--params", "params_file", type=click.Path(path_type=Path), default="params.yaml",
                        show_default=True, is_eager=True, help="The params file.")(command)


def devices(command: F) -> F:
    """Adds `--devices N`."""
    return click.option("--devices", default="auto", show_default=True, metavar="N",
                        help="Processes on this machine, one per accelerator; torchrun and SLURM are noticed.")(command)


restart = click.option("--restart", is_flag=True,
                       help="Begin anew: delete what earlier runs with these inputs left, take over nothing.")

as_json = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")


def path_or_url(value: str) -> Path | str:
    """What names a store: a Path would make one slash of the two in a URL."""
    from storage import is_url

    return value if is_url(value) else Path(value)


def print_answer(answer: Any, as_json: bool, lines: Callable[[Any], list[str]] | None = None) -> None:
    """Prints a result to stdout, once for all processes: JSON for machines, `lines` of it for people."""
    from pipeline.inform import is_main_process

    if not is_main_process():
        return
    if as_json:
        click.echo(json.dumps(answer, indent=1))
    else:
        for line in (lines or _lines)(answer):
            click.echo(line)


def _lines(answer: Any, indent: str = "") -> list[str]:
    if isinstance(answer, dict):
        lines = []
        for key, value in answer.items():
            if isinstance(value, list) and all(isinstance(item, str | int) for item in value):
                value = ", ".join(map(str, value))
            if isinstance(value, dict | list) and value:
                lines += [f"{indent}{key}:", *_lines(value, indent + "  ")]
            else:
                shown = f"{value:.4g}" if isinstance(value, float) else "-" if value in (None, "", {}) else value
                lines.append(f"{indent}{key}: {shown}")
        return lines
    if isinstance(answer, list):
        return [line for item in answer for line in ([f"{indent}- {item}"] if not isinstance(item, dict | list)
                                                     else [*_lines(item, indent), ""])]
    return [f"{indent}{answer}"]
