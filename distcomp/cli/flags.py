"""Flags of the console programs: each is also a `DISTCOMP_…` variable, and says so in `--help`.

Below the variables stand the settings files, see `distcomp.settings_file`.

A program is a function from parsed flags to an exit code; `run` turns what it raises into one line on
stderr and an exit code. The codes are the same everywhere: see `EXIT_CODES`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from distcomp import __version__
from distcomp.cli import logs
from distcomp.errors import ConfigError, ConnectError, DistcompError
from distcomp.settings_file import surroundings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

EXIT_ENDED = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NO_CONNECTION = 3
EXIT_INTERRUPTED = 130

EXIT_CODES = """\
exit codes:
  0    ended in order
  1    something failed; stderr says what
  2    a flag, a variable or a file says something that cannot be followed
  3    no scheduler could be reached, or it will never let this program in
  130  interrupted before there was anything to end in order
"""

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})


class Flags(argparse.ArgumentParser):
    """A parser whose flags fall back to variables and whose errors are one line.

    Args:
        prog: the program's name, as errors begin with it.
        about: what it does, for the top of `--help`.
        examples: lines to type, for its end; empty for none.
        arguments: what stands before the flags, for the usage line.
        environment: where the variables are looked up; the process's own and its settings files unless given.
    """

    def __init__(
        self,
        prog: str,
        about: str,
        examples: str = "",
        *,
        arguments: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        epilog = f"examples:\n{examples.rstrip()}\n\n{EXIT_CODES}" if examples else EXIT_CODES
        super().__init__(
            prog=prog,
            usage=f"{prog} [flags]" if arguments is None else f"{prog} {arguments} [flags]",
            description=about,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._misfits: list[str] = []
        self.environment = self._told() if environment is None else environment
        self._groups: dict[str, Any] = {}
        self._place: Any = self

    def _told(self) -> Mapping[str, str]:
        try:
            return surroundings()
        except ConfigError as error:
            self._misfits.append(str(error))
            return os.environ

    def group(self, title: str | None) -> None:
        """Put the flags that follow under this title of `--help`; None ends that."""
        if title is None:
            self._place = self
        else:
            self._place = self._groups.get(title) or self.add_argument_group(title)
            self._groups[title] = self._place

    def value(
        self,
        flag: str,
        help: str,  # noqa: A002 - argparse's own word
        *,
        default: Any = None,
        parse: Callable[[str], Any] = str,
        metavar: str | None = None,
        is_secret: bool = False,
        variable: str | None = None,
    ) -> None:
        """Add a flag that takes a value. `default` is the value itself, never text to be parsed.

        Args:
            flag: with its dashes, e.g. `--port`.
            help: a sentence; the default and the variable are added to it.
            default: used when neither flag nor variable is given.
            parse: turns text into the value; raises `ValueError` with what was wanted.
            metavar: what `--help` shows for the value.
            is_secret: the variable holds a secret, the flag only names its source: see `secret_text`.
            variable: the environment variable behind it, if not the one of its name.
        """
        name = variable or variable_of(flag)
        shown = "" if default is None or default == "" else f"default {default}; "
        self._place.add_argument(
            flag,
            metavar=metavar or flag.lstrip("-").upper().replace("-", "_"),
            default=default if is_secret else self._fallback(name, parse, default),
            type=_named(parse),
            help=f"{help} [{shown}{name}]".replace("%", "%%"),
        )

    def switch(self, flag: str, help: str) -> None:  # noqa: A002 - argparse's own word
        """Add a flag without a value; its variable may say 1, true, yes, on or their opposites."""
        name = variable_of(flag)
        self._place.add_argument(
            flag,
            action="store_true",
            default=self._fallback(name, truth, default=False),
            help=f"{help} [{name}]",
        )

    def gateway(self) -> None:
        """Add the flag that says which gateway is meant; `publishing.find_gateway` takes its value."""
        self.value(
            "--gateway",
            "http://host:port; the one that runs on this host if not given; DISTCOMP_TOKEN holds the token",
            variable="DISTCOMP_GATEWAY_ADDRESS",
        )

    def common(self, log_level: str = "warning") -> None:
        """Add what every program has: log flags, `--debug` and `--version`.

        Args:
            log_level: the default of `--log-level`.
        """
        self.value(
            "--log-level",
            "how much to say on stderr: debug, info, warning or error",
            default=log_level,
            parse=one_of("debug", "info", "warning", "error"),
        )
        self.value("--log-file", "write the log to this file instead of stderr", metavar="FILE")
        self.value("--log-format", "text or json", default="text", parse=one_of("text", "json"))
        self.switch("--debug", "show tracebacks of errors, and log at level debug")
        self.add_argument(
            "--version",
            action="version",
            version=f"distcomp {__version__}",
            help="print the version and exit",
        )

    def error(self, message: str) -> NoReturn:
        """End the program with one line and exit code 2."""
        self.exit(EXIT_USAGE, f"{self.prog}: {message}; `{self.prog} --help` lists the flags\n")

    def _fallback(self, variable: str, parse: Callable[[str], Any], default: Any) -> Any:
        text = self.environment.get(variable)
        if text is None:
            return default
        try:
            return parse(text)
        except ValueError as error:
            return _Misfit(f"{variable}={text!r}: {error}")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, then refuse files that cannot be followed, and variables that no flag replaced."""
        parsed = super().parse_args(args, namespace)
        if self._misfits:
            self.error(self._misfits[0])
        for value in vars(parsed).values():
            if isinstance(value, _Misfit):
                self.error(value.text)
        return parsed


class _Misfit:
    """The value of a variable that could not be parsed; an error only if no flag replaces it."""

    def __init__(self, text: str) -> None:
        self.text = text


def variable_of(flag: str) -> str:
    """The environment variable behind a flag.

    Example:
        >>> variable_of("--log-level")
        'DISTCOMP_LOG_LEVEL'
    """
    return "DISTCOMP_" + flag.lstrip("-").upper().replace("-", "_")


def _named(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Hand argparse the text of a `ValueError`, which it would drop."""

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def truth(text: str) -> bool:
    """A yes or no as people write it."""
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError("say 1, true, yes, on or 0, false, no, off")


def one_of(*words: str) -> Callable[[str], str]:
    """A parser that takes only these words."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is none of {', '.join(words)}")
        return text

    return parse


def whole(low: int, high: int) -> Callable[[str], int]:
    """A parser for an integer between two bounds, both included."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a whole number") from None
        if not low <= number <= high:
            raise ValueError(f"{number} is not between {low} and {high}")
        return number

    return parse


def seconds(text: str) -> float:
    """A time in seconds, 0 or more."""
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number of seconds") from None
    if not 0 <= number < float("inf"):
        raise ValueError(f"{text} is not a time: 0 or more seconds")
    return number


def slot_count(text: str) -> int | None:
    """A number of slots, or None for `auto`: as many as cores may be used."""
    return None if text == "auto" else whole(1, 4096)(text)


def secret_text(source: str | None, variable: str, environment: Mapping[str, str]) -> str | None:
    """What a flag that names the source of a secret stands for, stripped; None if there is no source.

    Args:
        source: the flag's value: `-` for standard input, or a file; None if it was not given.
        variable: holds the secret itself, or again `-` or a file.
        environment: where the variable is looked up.

    Raises:
        ConfigError: the secret itself was put on the command line, or the file cannot be read.
    """
    if source is not None and source.startswith("distcomp-join-"):
        raise ConfigError(
            "a join string holds a secret, and everybody on this host can read command lines: "
            f"hand it over by standard input (-), a file, or {variable}"
        )
    source = source if source is not None else environment.get(variable) or None
    if source is None or source.startswith("distcomp-join-"):
        return source
    if source == "-":
        return sys.stdin.readline().strip()
    try:
        return Path(source).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"no join string can be read from {source}: {error}") from None


def run(parser: Flags, program: Callable[[Any], int], argv: Sequence[str] | None = None) -> int:
    """Parse, open the log, run `program`, and turn what it raises into a line and an exit code."""
    flags = parser.parse_args(argv)
    if flags.debug:
        flags.log_level = "debug"
    try:
        with logs.opened(flags.log_level, flags.log_file, flags.log_format):
            return program(flags)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return _reader_left()
    except (DistcompError, OSError) as error:
        if flags.debug:
            raise
        print(f"{parser.prog}: {one_line(error)}", file=sys.stderr)
        return exit_code(error)


def exit_code(error: BaseException) -> int:
    """Which exit code an error ends a program with."""
    if isinstance(error, ConfigError):
        return EXIT_USAGE
    return EXIT_NO_CONNECTION if isinstance(error, ConnectError) else EXIT_FAILED


def one_line(error: BaseException) -> str:
    """An error's text without line breaks; its type where it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


def _reader_left() -> int:
    """Whoever read our output went away (`distcomp status | head`): nothing is left to say."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_FAILED
