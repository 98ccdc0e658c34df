"""The `resnext` command: its commands, exit codes and how errors look."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import traceback
import warnings
from types import FrameType
from typing import Any, NoReturn

import click
from click.shell_completion import get_completion_class, shell_complete

import resnext
from resnext.errors import ResNeXtError, closest

FAULT, ENVIRONMENT, INTERRUPTED, BROKEN_PIPE, TERMINATED = 1, 5, 130, 141, 143
_COMPLETE_VARIABLE = "_RESNEXT_COMPLETE"
# Each is a module of that name, imported when it is asked for: all of them take 30 ms.
_COMMANDS = (
    "predict", "explain", "embed", "index", "search", "finetune", "train", "recipes", "evaluate",
    "compare", "check", "verify", "benchmark", "models", "info", "convert", "quantize", "export",
    "cache",
)  # fmt: skip


class _Terminated(BaseException):
    """The process was asked to end."""


class _Group(click.Group):
    """Imports a command when it is needed; names the nearest where one is misspelt."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*_COMMANDS, *self.commands})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _COMMANDS and cmd_name not in self.commands:
            module = importlib.import_module(f"resnext.cli.{cmd_name}")
            self.add_command(getattr(module, cmd_name))
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            near = closest(args[0], self.list_commands(ctx))
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example:  resnext predict photo.jpg",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False,
              callback=lambda _ctx, _option, given: _print_version() if given else None,
              help="Print the version.")  # fmt: skip
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def app() -> None:
    """Classify pictures with ResNeXt: fast, offline, no torch needed.

    Results and reports that are there are replaced; models only with --force.

    Exit codes: 0 done, 1 a fault of ours, 2 usage, 3 input: some pictures failed (the rest are
    done), or none could be used, 4 model refused, 5 environment (network, disk, memory,
    missing extra).
    """


@app.command(
    short_help="Print the script for Tab in a shell.",
    epilog='Example:  eval "$(resnext completion bash)"',
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands, options and model names in a shell."""
    complete = get_completion_class(shell)
    assert complete is not None, "click knows all three"
    print(complete(app, {}, "resnext", _COMPLETE_VARIABLE).source())


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    if instruction := os.environ.get(_COMPLETE_VARIABLE):
        sys.exit(shell_complete(app, {}, "resnext", _COMPLETE_VARIABLE, instruction))
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by who started us
            setattr(sys, name, open(os.devnull, mode))
    signal.signal(signal.SIGTERM, _terminate)
    # One line to people, without the place in our code.
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    set_interpreter()
    code = run(sys.argv[1:])
    # Everything is written or undone. An orderly end would still wait for every thread, one
    # of which may be fetching a picture from a server that drips, and then take down the
    # engine's threads, which on a bad day aborts.
    sys.stderr.flush()
    os._exit(code)


def set_interpreter() -> None:
    """Set the interpreter for a quick start; folders are gone through as fast as before."""
    # Imports leave tens of thousands of objects and no garbage: collecting takes 12 ms of a start.
    gc.set_threshold(50_000, *gc.get_threshold()[1:])
    # While one thread imports, another that hashes waits this long each time it has a chunk.
    sys.setswitchinterval(0.0005)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; errors are one clear line on stderr."""
    debug = "--debug" in arguments
    # Wherever it stands: people add it to the end of the command that failed.
    arguments = [word for word in arguments if word != "--debug"]
    try:
        # Not `app.main`, which takes a reader that leaves for a fault.
        with app.make_context("resnext", arguments) as context:
            code: Any = app.invoke(context)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except _Terminated:
        return TERMINATED
    except BrokenPipeError:
        return BROKEN_PIPE  # whoever read our output has gone
    except ResNeXtError as error:
        return _report(error, error.exit_code, str(error), debug=debug)
    except OSError as error:  # such as a full disk behind stdout
        return _report(error, ENVIRONMENT, str(error), debug=debug)
    except MemoryError as error:
        text = f"out of memory\n\nhint: {_memory_hint(arguments)}"
        return _report(error, ENVIRONMENT, text, debug=debug)
    except Exception as error:
        text = f"unexpected {type(error).__name__}: {error}\n\nhint: run again with --debug"
        return _report(error, FAULT, text, debug=debug)


def _report(error: Exception, code: int, text: str, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    print(f"error: {text}", file=sys.stderr)
    return code


def _memory_hint(arguments: list[str]) -> str:
    """Say what makes this command take less memory, where it has such an option."""
    command = app.commands.get(arguments[0]) if arguments else None
    names = {option.name for option in command.params} if command else set()
    for name in ("batch_size", "limit"):
        if name in names:
            return f"try a smaller --{name.replace('_', '-')}"
    return "try a smaller model, or free some memory"


def _print_version() -> NoReturn:
    click.echo(f"resnext {resnext.__version__}")  # which flushes, and so meets a full disk here
    raise click.exceptions.Exit(0)


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise _Terminated
