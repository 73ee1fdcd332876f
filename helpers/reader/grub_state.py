# SPDX-License-Identifier: GPL-3.0-or-later
"""What a running GRUB script knows: variables, functions, parameters, and the menu and entry that it builds."""

from __future__ import annotations

from collections.abc import Iterable

from domward.protocol import limits
from domward.protocol.errors import DiskError, DiskReason
from domward.protocol.records import field, frozen, mutable

from .boot_draft import Draft
from .boot_paths import BootPaths
from .grub_lexer import PartKind, Word
from .grub_parser import Block, Function
from .interface import Tree

# What a GRUB of today has before it reads its configuration. The platform is "pc": grub-mkconfig's files ask for
# "efi" or "xen" only to add firmware set-up entries and modules, which mean nothing to a guest that we load.
BUILT_IN = {
    b"grub_platform": b"pc",
    b"grub_cpu": b"x86_64",
    b"feature_menuentry_id": b"y",
    b"feature_menuentry_options": b"y",
    b"feature_platform_search_hint": b"y",
    b"feature_timeout_style": b"y",
    b"feature_all_video_module": b"y",
    b"feature_default_font_path": b"y",
    b"feature_chainloader_bpb": b"y",
    b"feature_ntldr": b"y",
    b"feature_nativedisk_cmd": b"y",
    b"feature_200_final": b"y",
}


@mutable
class Scope:
    """The variables of one context; functions are shared by all, as in GRUB."""

    variables: dict[bytes, bytes]
    exported: set[bytes]
    functions: dict[bytes, Function] = field(default_factory=dict)

    @classmethod
    def at_start(cls, root: bytes, prefix: bytes) -> Scope:
        """What holds before the first line of a configuration in the folder `prefix` of the device `root`."""
        variables = BUILT_IN | {b"root": root, b"prefix": prefix, b"config_directory": prefix}
        return cls(variables, set(variables))

    def copy(self) -> Scope:
        """The scope of an entry: it sees everything, and what it sets is gone afterwards."""
        return Scope(dict(self.variables), set(self.exported), self.functions)

    def exported_only(self) -> Scope:
        """The scope of a submenu or of a configuration file of its own."""
        seen = {name: value for name, value in self.variables.items() if name in self.exported}
        return Scope(seen, set(self.exported), self.functions)

    def assign(self, name: bytes, value: bytes) -> None:
        """Set a variable. DiskError(BUDGET) where there are too many."""
        if name not in self.variables and len(self.variables) >= limits.CONFIG_VARIABLES:
            raise DiskError(
                DiskReason.BUDGET, f"the boot configuration has more than {limits.CONFIG_VARIABLES} variables"
            )
        self.variables[name] = value


@frozen
class PendingItem:
    """A menu item that was declared and whose body has not run yet; `draft` where there is no body to run."""

    title: bytes
    id: bytes
    parameters: tuple[bytes, ...] = ()
    body: Block = ()
    submenu: bool = False
    draft: Draft | None = None


class State:
    """One running script. `draft` collects what an entry loads; `pending` the items of the menu, in order."""

    def __init__(self, paths: BootPaths, scope: Scope, parameters: tuple[bytes, ...] = ()) -> None:
        self.paths = paths
        self.budget = paths.budget
        self.scope = scope
        self.parameters = parameters
        self.status = True
        self.pending: list[PendingItem] = []
        self.draft = Draft()
        self.hypervisor = b""

    def get(self, name: bytes) -> bytes:
        """The value of a variable or parameter; empty where it has none."""
        if name == b"?":
            return b"0" if self.status else b"1"
        if name == b"#":
            return b"%d" % len(self.parameters)
        if name in (b"@", b"*"):
            return b" ".join(self.parameters)
        if name.isdigit():
            index = int(name[:9])
            return self.parameters[index - 1] if 1 <= index <= len(self.parameters) else b""
        return self.scope.variables.get(name, b"")

    @property
    def root(self) -> bytes:
        """The device of paths that name none."""
        return self.get(b"root")

    def root_tree(self) -> Tree | None:
        """The tree that $root names."""
        return self.paths.device(self.root)

    def expand(self, words: tuple[Word, ...]) -> list[bytes]:
        """The words after expansion of variables: an unquoted value is split at blanks, an empty one vanishes."""
        result: list[bytes] = []
        for word in words:
            for expanded in self._expand_word(word):
                self.budget.expand(len(expanded) + 1)
                result.append(expanded)
        return result

    def _expand_word(self, word: Word) -> list[bytes]:
        if len(word) == 1 and word[0].kind in (PartKind.LITERAL, PartKind.QUOTED):
            return [word[0].text]  # the common case
        fields = _Fields()
        for part in word:
            if part.kind in (PartKind.LITERAL, PartKind.QUOTED):
                fields.add(part.text)
            elif part.kind is PartKind.QUOTED_VARIABLE and part.text == b"@":
                fields.add_each(self.parameters)
            else:
                value = self.get(part.text)
                self.budget.expand(len(value))
                if part.kind is PartKind.QUOTED_VARIABLE:
                    fields.add(value)
                else:
                    fields.split(value)
        return fields.finish()


class _Fields:
    """Gathers the words that one word of the script becomes."""

    def __init__(self) -> None:
        self._done: list[bytes] = []
        self._current: list[bytes] | None = None

    def add(self, text: bytes) -> None:
        """`text`, even where it is empty, belongs to the current word."""
        if self._current is None:
            self._current = []
        self._current.append(text)

    def add_each(self, words: Iterable[bytes]) -> None:
        """The first of `words` belongs to the current word, each other begins one."""
        for index, word in enumerate(words):
            if index:
                self._end_word()
            self.add(word)

    def split(self, value: bytes) -> None:
        """The blanks in `value` end words."""
        if value[:1].isspace():
            self._end_word()
        self.add_each(value.split())
        if value[-1:].isspace():
            self._end_word()

    def finish(self) -> list[bytes]:
        self._end_word()
        return self._done

    def _end_word(self) -> None:
        if self._current is not None:
            self._done.append(b"".join(self._current))
        self._current = None
