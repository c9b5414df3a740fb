"""`kafka-http completion`: print the script that completes commands and flags in bash or zsh."""

import argparse

import shtab

from kafka_http.cli.main import full_parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("shell", choices=("bash", "zsh"), help="the shell that reads the script")


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    print(shtab.complete(full_parser(), arguments.shell))
    return 0
