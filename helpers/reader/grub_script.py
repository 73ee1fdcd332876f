# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs GRUB script: control flow, functions, files that source others, and the bodies of menu entries.

GRUB runs an entry's body when somebody chooses it. Here every body runs once, after the file, each in a scope of its
own, so that the whole menu is known at once. Nothing is written and nothing outside the forest is read.

Depth of blocks, calls and files is one number, bounded; work is paid for from the budget. Wildcards in words,
`eval` and `regexp` are not evaluated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from domward.protocol import limits
from domward.protocol.errors import DiskError, DiskReason

from .bls import read_entries
from .boot_paths import BootPaths, Location
from .grub_commands import COMMANDS
from .grub_menu import GrubMenu, MenuItem
from .grub_parser import Block, Command, For, Function, If, Statement, While, statements
from .grub_state import PendingItem, Scope, State

_OPTIONS_WITH_VALUE = frozenset((b"--class", b"--users", b"--hotkey", b"--id", b"--source"))


class _Break(Exception):
    """Leaves a loop."""


class _Continue(Exception):
    """Begins the next turn of a loop."""


class _Return(Exception):
    """Leaves a function, with the status that it is to have."""


class _Exit(Exception):
    """Leaves the script."""


class Script:
    """One run of a script with the menu that it declares; `levels` are the menus around it, `depth` all else."""

    def __init__(self, state: State, *, levels: int = 0, depth: int = 0) -> None:
        self._state = state
        self._levels = levels
        self._depth = depth
        self._chained: GrubMenu | None = None
        self._control = {
            b"menuentry": self._declare,
            b"submenu": self._declare,
            b"source": self._source,
            b".": self._source,
            b"configfile": self._configfile,
            b"blscfg": self._blscfg,
            b"return": self._return,
            b"break": self._break,
            b"continue": self._continue,
            b"exit": self._exit,
            b"normal_exit": self._exit,
        }

    def run(self, body: Iterable[Statement]) -> None:
        """Run a whole script. DiskError(BUDGET)."""
        try:
            self._block(body)
        except (_Exit, _Return, _Break, _Continue):
            return  # each of them ends a script when nothing inside it took it

    def menu(self) -> GrubMenu:
        """The menu that the script declared, every body run. DiskError(BUDGET)."""
        if self._chained is not None:
            return self._chained
        state = self._state
        menu = GrubMenu(
            default=state.get(b"default"),
            fallback=state.get(b"fallback"),
            timeout=state.get(b"timeout"),
        )
        for pending in state.pending:
            menu.items.append(self._finish(pending))
        if not menu.items and state.draft.kernel is not None:  # a script that just boots
            menu.items.append(MenuItem(state.draft.kernel.path, b"", state.draft))
        return menu

    def _finish(self, pending: PendingItem) -> MenuItem:
        item = MenuItem(pending.title, pending.id, pending.draft)
        if pending.draft is not None:
            return item
        if self._levels >= limits.SUBMENU_DEPTH:
            raise DiskError(DiskReason.BUDGET, f"the boot menu is more than {limits.SUBMENU_DEPTH} levels deep")
        scope = self._state.scope.exported_only() if pending.submenu else self._state.scope.copy()
        scope.assign(b"chosen", pending.id or pending.title)
        script = Script(State(self._state.paths, scope, pending.parameters), levels=self._levels + 1, depth=self._depth)
        script.run(pending.body)
        if pending.submenu or script.declared:
            item.children = script.menu()
        else:
            item.draft = script._state.draft
        return item

    @property
    def declared(self) -> bool:
        """Whether the script declared a menu."""
        return self._chained is not None or bool(self._state.pending)

    def _block(self, body: Iterable[Statement]) -> bool:
        self._depth += 1
        if self._depth > limits.CONFIG_NESTING:
            raise DiskError(DiskReason.BUDGET, "the boot configuration calls or nests too deeply")
        try:
            for statement in body:
                self._state.budget.step()
                self._state.status = self._statement(statement)
        finally:
            self._depth -= 1
        return self._state.status

    def _statement(self, statement: Statement) -> bool:
        match statement:
            case Command():
                return self._command(statement)
            case If():
                for condition, body in statement.branches:
                    if self._block(condition):
                        return self._block(body)
                return self._block(statement.otherwise)
            case While():
                return self._while(statement)
            case For():
                return self._for(statement)
            case Function():
                self._state.scope.functions[statement.name] = statement
                return True

    def _while(self, loop: While) -> bool:
        while self._block(loop.condition) is not loop.negated:
            if not self._turn(loop.body):
                break
        return True

    def _for(self, loop: For) -> bool:
        for value in self._state.expand(loop.words):
            self._state.scope.assign(loop.name, value)
            if not self._turn(loop.body):
                break
        return self._state.status

    def _turn(self, body: Block) -> bool:
        """One turn of a loop; False where it was the last."""
        self._state.budget.step()
        try:
            self._block(body)
        except _Break:
            return False
        except _Continue:
            pass
        return True

    def _command(self, command: Command) -> bool:
        words = self._state.expand(command.words)
        inverted = words[:1] == [b"!"]
        if inverted:
            words = words[1:]
        if not words:
            return not inverted
        return self._run_command(words[0], words[1:], command.block) is not inverted

    def _run_command(self, name: bytes, args: Sequence[bytes], block: Block | None) -> bool:
        """GRUB's own order: commands, then functions, then NAME=VALUE; anything else fails."""
        if control := self._control.get(name):
            return control(name, args, block)
        if builtin := COMMANDS.get(name):
            return builtin(self._state, args)
        if function := self._state.scope.functions.get(name):
            return self._call(function, args)
        variable, equals, value = name.partition(b"=")
        if equals and variable:
            self._state.scope.assign(variable, value)
            return True
        return False

    def _call(self, function: Function, args: Sequence[bytes]) -> bool:
        outer = self._state.parameters
        self._state.parameters = tuple(args)
        try:
            return self._block(function.body)
        except _Return:
            return self._state.status
        finally:
            self._state.parameters = outer

    def _declare(self, name: bytes, args: Sequence[bytes], block: Block | None) -> bool:
        """`menuentry` or `submenu`: TITLE, options, further arguments for the body, body."""
        identifier, positional = b"", []
        rest = iter(args)
        for arg in rest:
            option, equals, value = arg.partition(b"=")
            if option in _OPTIONS_WITH_VALUE:
                value = value if equals else next(rest, b"")
                if option == b"--id":
                    identifier = value
            elif arg != b"--unrestricted":
                positional.append(arg)
        if block is None or not positional:
            return False
        self._state.budget.entry()
        parameters = tuple(positional)
        item = PendingItem(positional[0], identifier, parameters, block, submenu=name == b"submenu")
        self._state.pending.append(item)
        return True

    def _locate(self, args: Sequence[bytes]) -> Location | None:
        return self._state.paths.locate(args[0], self._state.root) if args else None

    def _source(self, _name: bytes, args: Sequence[bytes], _block: Block | None) -> bool:
        location = self._locate(args)
        content = None if location is None else self._state.paths.read(location)
        if content is None:
            return False
        self._block(statements(content, self._state.budget))
        return True

    def _configfile(self, _name: bytes, args: Sequence[bytes], _block: Block | None) -> bool:
        """Another configuration takes over: its menu replaces this one, and this script ends."""
        location = self._locate(args)
        content = None if location is None else self._state.paths.read(location)
        if location is None or content is None:
            return False
        if self._levels >= limits.SUBMENU_DEPTH:
            raise DiskError(DiskReason.BUDGET, "the boot configuration passes control on too many times")
        scope = self._state.scope.exported_only()
        folder = location.path.rpartition(b"/")[0]
        scope.assign(b"config_directory", b"(%s)%s" % (self._state.paths.name(location.tree), folder))
        script = Script(State(self._state.paths, scope), levels=self._levels + 1, depth=self._depth + 1)
        script.run(statements(content, self._state.budget))
        self._chained = script.menu()
        raise _Exit

    def _blscfg(self, _name: bytes, _args: Sequence[bytes], _block: Block | None) -> bool:
        state = self._state
        tree = state.root_tree()
        if tree is None:
            return False
        folders = (state.get(b"blsdir"), b"/loader/entries", b"/boot/loader/entries")
        for folder in folders:
            entries = read_entries(tree, folder, state.get, state.budget) if folder.startswith(b"/") else []
            for entry in entries:
                state.pending.append(PendingItem(entry.title, entry.id, draft=entry.draft))
            if entries:
                return True
        return False

    def _return(self, _name: bytes, args: Sequence[bytes], _block: Block | None) -> bool:
        if args:
            self._state.status = args[0].strip(b"0") == b""
        raise _Return

    def _break(self, _name: bytes, _args: Sequence[bytes], _block: Block | None) -> bool:
        raise _Break

    def _continue(self, _name: bytes, _args: Sequence[bytes], _block: Block | None) -> bool:
        raise _Continue

    def _exit(self, _name: bytes, _args: Sequence[bytes], _block: Block | None) -> bool:
        raise _Exit


def run_configuration(paths: BootPaths, location: Location) -> GrubMenu:
    """The menu of the grub.cfg at `location`. DiskError where it cannot be read, or BUDGET."""
    content = paths.budget.read(location.tree, location.path)
    root = paths.name(location.tree)
    prefix = b"(%s)%s" % (root, location.path.rpartition(b"/")[0])
    script = Script(State(paths, Scope.at_start(root, prefix)))
    script.run(statements(content, paths.budget))
    return script.menu()
