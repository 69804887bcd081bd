"""`steersman`: fit, steer, evaluate and look, from the command line."""

import sys
import warnings

import typer

from steersman import __version__
from steersman.cli import (
    commands,
    eval_commands,
    report_commands,
    serve_commands,
    suite_commands,
    tuning_commands,
)
from steersman.cli.app import app
from steersman.cli.console import err
from steersman.core.errors import SteersmanError


def main() -> None:
    """Runs a verb; an error of ours is one message and exit status 1, never a traceback."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _say_warning
            app()
    except SteersmanError as error:
        err.print(f"[bold red]{type(error).__name__}[/]: ", end="")
        err.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("Stopped. What was done is kept; the same command goes on from here.")
        sys.exit(130)


def _say_warning(message: Warning | str, *_: object) -> None:
    sys.stderr.write(f"Warning: {message}\n")  # a progress bar redirects it, and stays whole


VERBS = (
    *(commands, eval_commands, report_commands, serve_commands, suite_commands),
    tuning_commands,
)
"""Modules whose import adds verbs to the app."""


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and stop."),
) -> None:
    """Steer a language or vision-language model while it runs, without retraining it."""
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


if __name__ == "__main__":
    main()
