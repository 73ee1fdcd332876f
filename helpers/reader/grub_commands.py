# SPDX-License-Identifier: GPL-3.0-or-later
"""GRUB's commands, as far as they decide what boots.

Each takes the state and its arguments and returns whether it succeeded. A command that only changes how GRUB looks
or which modules it has succeeds and does nothing; one that is not known here fails, as a command whose module
is missing does in GRUB: grub-mkconfig's files are written to survive that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from domward.protocol.errors import printable

from .boot_draft import Draft, NamedFile
from .boot_paths import Location
from .grub_state import State
from .grub_test import ConditionTest, number
from .grubenv import parse_environment
from .interface import Tree

Command = Callable[[State, Sequence[bytes]], bool]

_HEX_ESCAPE_OR_SPECIAL = re.compile(rb"\\x[0-9A-Fa-f]{2}|[\\'\"]")


def command_line(args: Sequence[bytes]) -> bytes:
    """`args` as one kernel command line, quoted as GRUB quotes: what holds a space goes into double quotes."""
    return b" ".join(_quoted(arg) for arg in args)


def _quoted(arg: bytes) -> bytes:
    escaped = _HEX_ESCAPE_OR_SPECIAL.sub(lambda m: m.group() if len(m.group()) > 1 else b"\\" + m.group(), arg)
    return b'"' + escaped + b'"' if b" " in arg else escaped


def _named(state: State, path: bytes) -> NamedFile:
    location = state.paths.locate(path, state.root)
    return NamedFile(None, path) if location is None else NamedFile(location.tree, location.path)


def _without_options(args: Sequence[bytes]) -> Sequence[bytes]:
    for index, arg in enumerate(args):
        if not arg.startswith(b"--"):
            return args[index:]
    return ()


def _linux(state: State, args: Sequence[bytes]) -> bool:
    args = _without_options(args)
    if not args:
        return False
    state.draft = Draft(_named(state, args[0]), args=command_line(args[1:]))
    return True


def _initrd(state: State, args: Sequence[bytes]) -> bool:
    args = _without_options(args)
    if any(arg.startswith(b"newc:") for arg in args):
        state.draft.problem = "it has GRUB build a ramdisk (newc:), which is not supported"
    state.draft.initrds = [_named(state, arg) for arg in args]
    return True


def _multiboot(state: State, args: Sequence[bytes]) -> bool:
    """Xen itself as the kernel: the guest is to be dom0. The Linux in its first module boots as a guest instead."""
    args = _without_options(args)
    if not args:
        return False
    state.hypervisor = args[0]
    state.draft = Draft(problem=f"it boots {printable(args[0])}, which is neither Linux nor Xen with a Linux module")
    return True


def _module(state: State, args: Sequence[bytes]) -> bool:
    args = _without_options(args)
    if not args or not state.hypervisor.rpartition(b"/")[2].startswith(b"xen"):
        return False
    if state.draft.kernel is None:
        words = args[1:]
        state.draft = Draft(
            _named(state, args[0]), args=command_line(words[1:] if words[:1] == [b"placeholder"] else words)
        )
    else:
        state.draft.initrds.append(_named(state, args[0]))
    return True


def _chainloader(state: State, args: Sequence[bytes]) -> bool:
    state.draft = Draft(problem=f"it starts another boot loader ({printable(b' '.join(args))})")
    return True


def _test(state: State, args: Sequence[bytes]) -> bool:
    return ConditionTest(args, state.paths, state.root).result()


def _bracket(state: State, args: Sequence[bytes]) -> bool:
    return bool(args) and args[-1] == b"]" and _test(state, args[:-1])


def _set(state: State, args: Sequence[bytes]) -> bool:
    for arg in args:
        name, equals, value = arg.partition(b"=")
        if not equals or not name:
            return False
        state.scope.assign(name, value)
    return True


def _unset(state: State, args: Sequence[bytes]) -> bool:
    for arg in args:
        state.scope.variables.pop(arg, None)
    return True


def _export(state: State, args: Sequence[bytes]) -> bool:
    for arg in args:
        name, equals, value = arg.partition(b"=")
        if equals:
            state.scope.assign(name, value)
        if name in state.scope.variables:
            state.scope.exported.add(name)
    return True


def _add(step: int) -> Command:
    def increment(state: State, args: Sequence[bytes]) -> bool:
        for arg in args:
            state.scope.assign(arg, b"%d" % (number(state.get(arg)) + step))
        return bool(args)

    return increment


def _load_env(state: State, args: Sequence[bytes]) -> bool:
    path, wanted = b"", set()
    rest = iter(args)
    for arg in rest:
        if arg in (b"-f", b"--file"):
            path = next(rest, b"")
        elif arg.startswith(b"--file="):
            path = arg[len(b"--file=") :]
        elif not arg.startswith(b"-"):
            wanted.add(arg)
    location = state.paths.locate(path or state.get(b"prefix") + b"/grubenv", state.root)
    content = None if location is None else state.paths.read(location)
    if content is None:
        return False
    for name, value in parse_environment(content, state.budget).items():
        if not wanted or name in wanted:
            state.scope.assign(name, value)
    return True


_SEARCH_ARGUMENT = frozenset(
    b"--hint --hint-bios --hint-efi --hint-baremetal --hint-ieee1275 --hint-arc --hint-xen".split()
)
_SEARCH_KIND = {
    b"-u": b"uuid",
    b"--fs-uuid": b"uuid",
    b"-l": b"label",
    b"--label": b"label",
    b"--fs-label": b"label",
    b"-f": b"file",
    b"--file": b"file",
}


def _search(state: State, args: Sequence[bytes]) -> bool:
    """`search`: hints are left aside, as there is one disk and every file system on it is known."""
    kind, variable, names = b"file", b"", []
    rest = iter(args)
    for arg in rest:
        name, equals, value = arg.partition(b"=")
        if name in _SEARCH_KIND:
            kind = _SEARCH_KIND[name]
        elif name in (b"--set", b"-s"):
            variable = value or b"root"
        elif name in _SEARCH_ARGUMENT:
            if not equals:
                next(rest, None)
        elif not arg.startswith(b"-"):
            names.append(arg)
    if len(names) > 1 and variable == b"root" and b"--set" in args:  # the old form: --set NAME
        variable, names = names[0], names[1:]
    return bool(names) and _found(state, _search_for(state, kind, names[0]), variable)


def _search_dotted(kind: bytes) -> Command:
    """`search.fs_uuid NAME [VARIABLE [HINTS]]` and its sisters."""

    def search(state: State, args: Sequence[bytes]) -> bool:
        return bool(args) and _found(state, _search_for(state, kind, args[0]), args[1] if len(args) > 1 else b"root")

    return search


def _search_for(state: State, kind: bytes, name: bytes) -> Tree | None:
    state.budget.look_up()
    if kind == b"uuid":
        return state.paths.forest.by_uuid(name)
    if kind == b"label":
        return state.paths.forest.by_label(name)
    return next(_trees_with(state, name), None)


def _trees_with(state: State, path: bytes) -> Iterator[Tree]:
    for tree in state.paths.forest.trees:
        if path.startswith(b"/") and state.paths.exists(Location(tree, path)):
            yield tree


def _found(state: State, tree: Tree | None, variable: bytes) -> bool:
    if tree is None:
        return False
    if variable:
        state.scope.assign(variable, state.paths.name(tree))
    return True


def _probe(state: State, args: Sequence[bytes]) -> bool:
    """`probe --set=VARIABLE -u|-l|-f DEVICE`."""
    variable, kind, device = b"", "", b""
    kinds = {b"-u": "uuid", b"--fs-uuid": "uuid", b"-l": "label", b"--label": "label", b"-f": "kind", b"--fs": "kind"}
    rest = iter(args)
    for arg in rest:
        if arg in kinds:
            kind = kinds[arg]
        elif arg.startswith(b"--set="):
            variable = arg[len(b"--set=") :]
        elif arg in (b"-s", b"--set"):
            variable = next(rest, b"")
        else:
            device = arg
    tree = state.paths.device(device)
    if tree is None or not kind or not variable:
        return False
    facts = {"uuid": tree.fs.uuid.encode(), "label": tree.fs.label, "kind": tree.fs.kind.encode()}
    state.scope.assign(variable, facts[kind])
    return True


def _shift(state: State, args: Sequence[bytes]) -> bool:
    count = number(args[0]) if args else 1
    if not 0 <= count <= len(state.parameters):
        return False
    state.budget.expand(len(state.parameters))  # they are copied
    state.parameters = state.parameters[count:]
    return True


def _setparams(state: State, args: Sequence[bytes]) -> bool:
    state.parameters = tuple(args)
    return True


def _succeed(_state: State, _args: Sequence[bytes]) -> bool:
    return True


# Without effect on what boots. `save_env` is here too: the disk is never written.
_HARMLESS = (
    b"true : boot insmod rmmod echo terminal_input terminal_output terminfo serial loadfont background_image "
    b"background_color gettext clear sleep play save_env list_env password password_pbkdf2 devicetree cryptomount cpuid"
).split()

COMMANDS: dict[bytes, Command] = dict.fromkeys(_HARMLESS, _succeed) | {
    b"linux": _linux,
    b"linux16": _linux,
    b"linuxefi": _linux,
    b"initrd": _initrd,
    b"initrd16": _initrd,
    b"initrdefi": _initrd,
    b"multiboot": _multiboot,
    b"multiboot2": _multiboot,
    b"xen_hypervisor": _multiboot,
    b"module": _module,
    b"module2": _module,
    b"xen_module": _module,
    b"chainloader": _chainloader,
    b"test": _test,
    b"[": _bracket,
    b"set": _set,
    b"unset": _unset,
    b"export": _export,
    b"increment": _add(1),
    b"decrement": _add(-1),
    b"load_env": _load_env,
    b"search": _search,
    b"search.fs_uuid": _search_dotted(b"uuid"),
    b"search.fs_label": _search_dotted(b"label"),
    b"search.file": _search_dotted(b"file"),
    b"search_fs_uuid": _search_dotted(b"uuid"),
    b"search_label": _search_dotted(b"label"),
    b"search_fs_file": _search_dotted(b"file"),
    b"probe": _probe,
    b"shift": _shift,
    b"setparams": _setparams,
}
