#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the completions of bash, zsh and fish from the commands' own parsers: `generate.py` in this folder.

What is completed: commands and their commands, options, values with a fixed set, files and folders by the names that
the help gives them (DISK, FILE, PATH, DIR), and ids of operations (OP), which the daemon is asked for.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from domward.supervisor import cli, daemon

HERE = Path(__file__).parent
NOTE = (
    "SPDX-License-Identifier: GPL-3.0-or-later\n# Made by packaging/completions/generate.py from the commands' parsers."
)
IDS = "{program} list --all 2>/dev/null | awk 'NR > 1 {{ print $1 }}'"


@dataclass(frozen=True)
class Word:
    """An option or an argument: its `flags` (none for an argument), what it is for, and what its value is.

    `value` is "" for none, "files", "folders", "operations", "text", or the words to choose from.
    """

    flags: tuple[str, ...]
    help: str
    value: str


@dataclass(frozen=True)
class Node:
    """A command: the words that lead to it, what it is for, and what may follow."""

    path: tuple[str, ...]
    help: str
    options: tuple[Word, ...]
    arguments: tuple[Word, ...]
    children: tuple[str, ...]


def value_of(action: argparse.Action) -> str:
    """See `Word`."""
    if action.nargs == 0:
        return ""
    if action.choices:
        return " ".join(action.choices)
    metavar = str(action.metavar or "")
    if "OP" in metavar.split("|"):
        return "operations files" if "FILE" in metavar else "operations"
    if metavar == "DIR":
        return "folders"
    if {"DISK", "FILE", "PATH", "CONFIG"} & set(metavar.split("|")):
        return "files"
    return "text"


def nodes(parser: argparse.ArgumentParser, path: tuple[str, ...] = (), what: str = "") -> Iterator[Node]:
    """The command of `parser` and all below it."""
    options, words, below = [], [], {}
    helps: dict[str, str] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            below = dict(action.choices)
            helps = {str(choice.dest): str(choice.help or "") for choice in action._choices_actions}
        elif action.option_strings:
            options.append(Word(tuple(action.option_strings), str(action.help or ""), value_of(action)))
        else:
            words.append(Word((), str(action.help or ""), value_of(action)))
    yield Node(path, what, tuple(options), tuple(words), tuple(below))
    for name, child in below.items():
        yield from nodes(child, (*path, name), helps.get(name, ""))


def bash(program: str, found: list[Node]) -> str:
    """The function for bash and what binds it."""
    name = program.replace("-", "_")
    lines = [
        f"# {NOTE}",
        f"_{name}() {{",
        "    local word path='' index=1 cur=${COMP_WORDS[COMP_CWORD]} value='' options=''",
    ]
    lines += [
        "    while ((index < COMP_CWORD)); do",
        "        word=${COMP_WORDS[index]}",
        '        case "$path $word" in',
    ]
    for node in found:
        for child in node.children:
            lines.append(f'        "{" ".join(node.path)} {child}") path="{" ".join((*node.path, child))}" ;;')
    lines += ["        esac", "        index=$((index + 1))", "    done"]
    lines += ['    case "$path ${COMP_WORDS[COMP_CWORD - 1]}" in']
    for node in found:
        for option in node.options:
            if option.value:
                flags = "|".join(f'"{" ".join(node.path)} {flag}"' for flag in option.flags)
                lines.append(f"    {flags}) value='{option.value}' ;;")
    lines += ["    esac", '    if [ -z "$value" ]; then', '        case "$path" in']
    for node in found:
        flags = " ".join(flag for option in node.options for flag in option.flags)
        value = " ".join([*node.children, *(word.value for word in node.arguments)])
        lines.append(f"        \"{' '.join(node.path)}\") options='{flags}' value='{value}' ;;")
    lines += [
        "        esac",
        "    fi",
        "    COMPREPLY=()",
        "    if [[ $cur == -* && -n $options ]]; then",
        '        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")',
        "        return",
        "    fi",
        "    for word in $value; do",
        "        case $word in",
        '        files) mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$cur") ;;',
        '        folders) mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -d -- "$cur") ;;',
        "        operations)",
        '            mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(',
        f'                compgen -W "$({IDS.format(program=program)})" -- "$cur"',
        "            ) ;;",
        "        text) ;;",
        '        *) [[ $word == "$cur"* ]] && COMPREPLY+=("$word") ;;',
        "        esac",
        "    done",
        "}",
        f"complete -o filenames -F _{name} {program}",
    ]
    return "\n".join(lines) + "\n"


def _zsh_action(value: str, program: str) -> str:
    kinds = {"files": "_files", "folders": "_files -/", "text": " ", "operations": f"_{program}_operations"}
    if value == "operations files":
        return f"_alternative 'id:operation:_{program}_operations' 'file:file:_files'"
    return kinds.get(value, f"({value})")


def _within(text: str) -> str:
    """`text` within single quotes."""
    return text.replace("'", "'\\''")


def _zsh_quoted(text: str) -> str:
    return text.replace("'", "").replace("[", "(").replace("]", ")").replace(":", " -").replace("%", "%%")


def zsh(program: str, found: list[Node]) -> str:
    """The file `_PROGRAM` of zsh's function path."""
    lines = [f"#compdef {program}", f"# {NOTE}", f"_{program}_operations() {{", "    local -a found"]
    lines += [f'    found=(${{(f)"$({IDS.format(program=program)})"}})', "    compadd -a found", "}"]
    for node in reversed(found):
        name = "_".join((f"_{program}", *node.path))
        lines += [f"{name}() {{", "    local curcontext=$curcontext state line", "    _arguments -C \\"]
        for option in node.options:
            value = f":value:{_zsh_action(option.value, program)}" if option.value else ""
            lines += [f"        '{flag}[{_zsh_quoted(option.help)}]{_within(value)}' \\" for flag in option.flags]
        for word in node.arguments:
            action = _within(_zsh_action(word.value, program))
            lines.append(f"        '*:{_zsh_quoted(word.help) or 'argument'}:{action}' \\")
        if node.children:
            lines += ["        '1:command:->command' '*::argument:->argument'", "    case $state in"]
            described = " ".join(
                f"'{child}:{_zsh_quoted(next(one.help for one in found if one.path == (*node.path, child)))}'"
                for child in node.children
            )
            lines += [f"    command) local -a commands=({described}); _describe command commands ;;"]
            lines += ["    argument) case $line[1] in"]
            lines += [f"        {child}) {name}_{child} ;;" for child in node.children]
            lines += ["        esac ;;", "    esac"]
        else:
            lines[-1] = lines[-1].removesuffix(" \\")
        lines += ["}"]
    return "\n".join([*lines, f'_{program} "$@"']) + "\n"


def fish(program: str, found: list[Node]) -> str:
    """The file `PROGRAM.fish`."""

    def quoted(text: str) -> str:
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

    paths = " ".join(quoted(" ".join(node.path)) for node in found if node.path)
    lines = [
        f"# {NOTE}",
        f"function __{program}_at -d 'Whether the line so far leads to these commands, and no further'",
        "    set -l path ''",
        "    for word in (commandline -opc)[2..-1]",
        '        set -l longer (string trim -- "$path $word")',
        f"        contains -- $longer {paths or quoted('')}; and set path $longer",
        "    end",
        '    test "$path" = "$argv"',
        "end",
        f"complete -c {program} -f",
    ]
    for node in found:
        start = f"complete -c {program} -n {quoted(' '.join((f'__{program}_at', *node.path)))}"
        for child in node.children:
            what = next(one.help for one in found if one.path == (*node.path, child))
            lines.append(f"{start} -a {child} -d {quoted(what)}")
        for option in node.options:
            flags = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags)
            lines.append(f"{start} {flags}{_fish_value(option.value, program)} -d {quoted(option.help)}")
        for word in node.arguments:
            for kind in word.value.split() if word.value.startswith(("files", "folders", "operations")) else ():
                if kind == "operations":
                    lines.append(f'{start} -a "({IDS.format(program=program).replace("$", chr(92) + "$")})"')
                else:
                    lines.append(f"{start} -F")
            if word.value not in ("text", "files", "folders") and not word.value.startswith("operations"):
                lines.append(f"{start} -a {quoted(word.value)}")
    return "\n".join(lines) + "\n"


def _fish_value(value: str, program: str) -> str:
    match value:
        case "":
            return ""
        case "files":
            return " -r -F"
        case "folders":
            return " -x -a '(__fish_complete_directories)'"
        case "text":
            return " -x"
        case "operations":
            return f' -x -a "({IDS.format(program=program).replace("$", chr(92) + "$")})"'
        case choices:
            return f" -x -a '{choices}'"


def files() -> dict[str, str]:
    """Every file of this folder that is made, by its name."""
    made = {}
    for program, parser in (("domward", cli._parser()), ("domwardd", daemon._parser())):
        found = [*nodes(parser)]
        made[f"{program}.bash"] = bash(program, found)
        made[f"_{program}"] = zsh(program, found)
        made[f"{program}.fish"] = fish(program, found)
    return made


if __name__ == "__main__":
    for file, content in files().items():
        (HERE / file).write_text(content)
