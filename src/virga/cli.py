"""The `virga` command: a group of subcommands, each in a module of its own (cli_*.py) that is imported only when it is called.

`up` and `controller` compose a cloud (serve.py); every other command talks to a running one over HTTP or reads its state folder.
Every command has --help, shows progress when it takes a while, and exits non-zero with one clear line on stderr when it fails.
"""
from __future__ import annotations

import importlib
import sys
from typing import Any

import click

# name -> (module, one line of help); the module has a click command called `command`
COMMANDS = {
    "up": ("virga.cli_up", "Start a whole cloud in this process."),
    "demo": ("virga.cli_demo", "Run the founding case on a fresh cloud and print the result."),
    "draw": ("virga.cli_draw", "Draw what happened to a server as a sequence diagram."),
    "explain": ("virga.cli_explain", "Tell what a server waits for, since when, and what ends it."),
    "sim": ("virga.cli_sim", "Run the whole cloud under virtual time with faults, seed by seed."),
    "race": ("virga.cli_race", "Replay Kilo's failure, both remedies and the cure, counted."),
    "controller": ("virga.cli_controller", "Start the controller alone; hosts join it."),
    "token": ("virga.cli_token", "Make a token that lets one host join."),
    "host": ("virga.cli_host", "Run the agent of this host."),
}


class Lazy(click.Group):
    """Imports a subcommand's module only when it is called, so that `virga --help` and `virga up` start quickly."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(cls=Lazy)
@click.version_option(package_name="virga-cloud", prog_name="virga")
def main(**_: Any) -> None:
    """Virga: a small real cloud that speaks the OpenStack APIs and moves a VM there and back without losing it."""


def fail(message: str) -> None:
    """One clear line on stderr, exit code 1."""
    click.echo(f"virga: {message}", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
