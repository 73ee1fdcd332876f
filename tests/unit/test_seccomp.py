# SPDX-License-Identifier: GPL-3.0-or-later
"""Seccomp policies: the texts, the compiler, and the filters at work on real system calls.

A filter is tried in a child of its own, since there is no way back from one. Running it needs no root: no_new_privs
is enough.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import struct
from collections.abc import Sequence
from pathlib import Path

import pyseccomp
import pytest

from domward.helpers import kernel
from domward.helpers.policies import policy_text
from domward.protocol.errors import UsageError
from domward.protocol.messages import HelperKind
from domward.protocol.seccomp import Rule, compile_denials, compile_filter, lint, parse, reachable
from domward.protocol.syscall_numbers import NUMBERS

MACHINE = os.uname().machine
# A bootloader program is anybody's: it gets what ordinary programs use, and no more.
MOST_CALLS = {HelperKind.BOOTLOADER: 30, HelperKind.DATACOPIER: 20, HelperKind.PTY: 25, HelperKind.PROGRAM: 160}
SYSCALL = ctypes.CDLL(None, use_errno=True).syscall
# What the child itself needs to report and end.
NEEDED = "write -- the report\nexit_group -- the end\n"
PROT_READ, PROT_EXEC, MAP_PRIVATE_ANONYMOUS = 1, 4, 0x22
MAP_HUGETLB = 0x40000
MAP_SHARED, MAP_PRIVATE = 1, 2


def privileged_rules() -> tuple[Rule, ...]:
    text = (Path(__file__).parents[2] / "protocol" / "policy" / "privileged.policy").read_text(encoding="ascii")
    return parse(text, "privileged")


def rules_of(kind: HelperKind) -> tuple[Rule, ...]:
    return parse(policy_text(kind), kind.value)


@pytest.mark.parametrize("machine", sorted(NUMBERS))
def test_the_numbers_are_libseccomps(machine: str) -> None:
    architecture = {"x86_64": pyseccomp.Arch.X86_64, "aarch64": pyseccomp.Arch.AARCH64}[machine]
    theirs = {name: pyseccomp.resolve_syscall(architecture, name) for name in NUMBERS[machine]}
    assert NUMBERS[machine] == theirs


def test_a_call_is_left_out_for_one_machine_only_where_that_machine_has_none() -> None:
    for name in NUMBERS["x86_64"].keys() - NUMBERS["aarch64"].keys():
        assert pyseccomp.resolve_syscall(pyseccomp.Arch.AARCH64, name) < 0, name


@pytest.mark.parametrize("kind", list(HelperKind))
def test_a_policy_is_clean_and_short(kind: HelperKind) -> None:
    rules = rules_of(kind)
    assert lint(rules) == []
    assert len(reachable(rules)) <= MOST_CALLS[kind]
    assert all(rule.reason for rule in rules)


@pytest.mark.parametrize("kind", list(HelperKind))
def test_no_policy_lets_a_helper_out(kind: HelperKind) -> None:
    forbidden = {"ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "seccomp", "chroot", "setns"}
    forbidden |= {"mount", "umount2", "pivot_root", "open_tree", "move_mount", "fsopen", "fsmount", "mount_setattr"}
    forbidden |= {"unshare", "clone3", "execveat", "socket", "socketpair", "connect", "bind", "memfd_create", "capset"}
    forbidden |= {"setuid", "setresuid", "setgid", "setgroups", "personality", "keyctl", "add_key", "request_key"}
    forbidden |= {"bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "open_by_handle_at", "modify_ldt"}
    assert not reachable(rules_of(kind)) & forbidden


@pytest.mark.parametrize("kind", [kind for kind in HelperKind if kind is not HelperKind.PROGRAM])
def test_no_policy_lets_a_helper_execute_connect_or_change_what_it_is(kind: HelperKind) -> None:
    forbidden = {"execve", "execveat", "clone", "clone3", "fork", "vfork", "ptrace", "socket", "connect", "bind"}
    forbidden |= {"mprotect", "prctl", "kill", "tgkill", "unlinkat", "mount", "setuid", "capset", "memfd_create"}
    assert not reachable(rules_of(kind)) & forbidden
    if kind is not HelperKind.PTY:
        assert not reachable(rules_of(kind)) & {"open", "openat", "openat2", "ioctl"}


@pytest.mark.parametrize("machine", sorted(NUMBERS))
@pytest.mark.parametrize("kind", list(HelperKind))
def test_every_jump_of_a_compiled_filter_stays_inside_and_every_path_returns(kind: HelperKind, machine: str) -> None:
    code = list(struct.iter_unpack("=HBBI", compile_filter(rules_of(kind), machine)))
    assert 0 < len(code) <= 4096
    for place, (instruction, if_true, if_false, operand) in enumerate(code):
        if instruction & 7 == 5:
            assert place + 1 + max(if_true, if_false) < len(code)
        elif instruction & 7 == 0:
            assert operand % 4 == 0
            assert operand < 64
        elif instruction & 7 == 6:
            assert operand in (0x7FFF0000, 0x80000000) or operand >> 16 == 5
    assert code[-1] == (6, 0, 0, 0x80000000)


def test_no_helper_may_call_what_the_launcher_is_refused_because_it_inherits_the_refusal() -> None:
    refused = {rule.call: rule.conditions for rule in privileged_rules()}
    for kind in HelperKind:
        for rule in rules_of(kind):
            if not rule.errno:  # that is refused either way
                assert rule.call not in refused or (rule.conditions and refused[rule.call] != rule.conditions), (
                    rule.call
                )


def test_the_policy_of_the_privileged_processes_is_clean() -> None:
    rules = privileged_rules()
    assert lint(rules) == []
    assert all(rule.reason for rule in rules)


def test_what_is_conditional_looks_at_no_more_of_an_argument_than_the_kernel_does() -> None:
    assert {condition.mask for rule in privileged_rules() for condition in rule.conditions} == {0xFFFFFFFF}


@pytest.mark.parametrize("machine", sorted(NUMBERS))
def test_every_path_of_the_refusals_returns(machine: str) -> None:
    code = list(struct.iter_unpack("=HBBI", compile_denials(privileged_rules(), machine)))
    for place, (instruction, if_true, if_false, operand) in enumerate(code):
        if instruction & 7 == 5:
            assert place + 1 + max(if_true, if_false) < len(code)
        elif instruction & 7 == 6:
            assert operand in (0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM)
    assert code[-1] == (6, 0, 0, 0x7FFF0000)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("read", "CALL"),
        ("read --", "CALL"),
        ("read -- ", "CALL"),
        ("read-- no space", "CALL"),
        ("read if -- nothing", "CALL"),
        ("READ -- capitals", "CALL"),
        ("  read -- indented", "CALL"),
        ("read write -- two", "CALL"),
        ("stime -- not in the table", "stime is not in the table"),
        ("read if arg0 = 1 -- one sign", "argN"),
        ("read if arg6 == 1 -- a seventh", "argN"),
        ("read if arg0 == 1 and -- half", "argN"),
        ("read if arg0 < 1 -- less", "argN"),
        ("read if arg0 & 1 -- no value", "argN"),
        ("read if arg0 == PROT_NOTHING -- unknown", "PROT_NOTHING is neither"),
        ("read if arg0 == 0x -- no number", "neither a number"),
        ("read if arg0 == 0x10000000000000000 -- 65 bits", "64 bits"),
        ("read if arg0 & 1 == 2 -- never true", "never"),
    ],
)
def test_a_malformed_line_is_named(line: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        parse(f"# a policy\n\nwrite -- good\n{line}\n", "test.policy")
    assert "test.policy, line 4" in str(caught.value)


def test_the_linter_finds_lines_that_make_others_pointless() -> None:
    twice = parse("read -- one\nread -- two\n", "t")
    both = parse("read -- one\nread if arg0 == 1 -- two\n", "t")
    same = parse("read if arg0 == 1 -- one\nread if arg0 == 1 -- two\n", "t")
    fine = parse("read if arg0 == 1 -- one\nread if arg0 == 2 -- two\n", "t")
    assert [len(lint(rules)) for rules in (twice, both, same, fine)] == [1, 1, 1, 0]


def test_more_alternatives_than_a_jump_can_pass_are_refused() -> None:
    text = "".join(f"read if arg0 == {number} -- one of many\n" for number in range(60))
    with pytest.raises(UsageError, match="read has too many"):
        compile_filter(parse(text, "t"), "x86_64")


def test_a_machine_without_numbers_is_refused() -> None:
    with pytest.raises(UsageError, match="riscv64"):
        compile_filter(parse(NEEDED, "t"), "riscv64")


# --- filters at work --------------------------------------------------------------------------------------------


def call(number: int, *arguments: int) -> None:
    SYSCALL(ctypes.c_long(number), *(ctypes.c_ulong(argument) for argument in arguments))


def survives(policy: str, number: int, *arguments: int) -> bool:
    """Whether a process under `policy` is alive after a system call. The other outcome is a kill by SIGSYS."""
    program = compile_filter(parse(policy + NEEDED, "t"), MACHINE)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        kernel.set_no_new_privs()
        kernel.load_seccomp_filter(program)
        call(number, *arguments)
        os.write(writer, b"alive")
        os._exit(0)
    os.close(writer)
    said = os.read(reader, 10)
    os.close(reader)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert (said, status) in ((b"alive", 0), (b"", -signal.SIGSYS))
    return said == b"alive"


def number_of(name: str) -> int:
    return NUMBERS[MACHINE][name]


def test_what_is_not_listed_kills() -> None:
    assert survives("getpid -- listed\n", number_of("getpid"))
    assert not survives("", number_of("getpid"))
    assert not survives("getpid -- listed\n", number_of("gettid"))


BIG = 0xFFFFFFFF_00000001


@pytest.mark.parametrize("arg", range(6))
@pytest.mark.parametrize(
    ("condition", "value", "allowed"),
    [
        ("== 1", 1, True),
        ("== 1", 0, False),
        ("== 1", 1 << 32 | 1, False),  # the upper half counts
        (f"== {BIG:#x}", BIG, True),
        (f"== {BIG:#x}", 1, False),
        ("& 0x4 == 0", 3, True),
        ("& 0x4 == 0", 7, False),
        ("& 0x4 == 0", 1 << 34, True),  # another bit of the upper half
        (f"& {1 << 34:#x} == {1 << 34:#x}", 1 << 34 | 5, True),
        (f"& {1 << 34:#x} == {1 << 34:#x}", 5, False),
        ("!= 1", 1, False),
        ("!= 1", 0, True),
        ("!= 1", 1 << 32 | 1, True),
        (f"!= {BIG:#x}", BIG, False),
        (f"!= {BIG:#x}", 1, True),
        ("& 0xffffffff != 1", BIG, False),
        ("& 0xffffffff != 1", 2, True),
    ],
)
def test_a_condition_on_each_argument_on_all_64_bits(arg: int, condition: str, value: int, allowed: bool) -> None:
    arguments = [0] * 6
    arguments[arg] = value
    assert survives(f"getpid if arg{arg} {condition} -- tried\n", number_of("getpid"), *arguments) is allowed


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [((1, 2), True), ((3, 4), True), ((1, 4), False), ((3, 2), False), ((0, 0), False), ((5, 0), True)],
)
def test_lines_are_alternatives_and_conditions_of_a_line_go_together(arguments: Sequence[int], allowed: bool) -> None:
    policy = (
        "getpid if arg0 == 1 and arg1 == 2 -- one\n"
        "getpid if arg0 == 3 and arg1 == 4 -- other\n"
        "getpid if arg0 == 5 -- last\n"
    )
    assert survives(policy, number_of("getpid"), *arguments) is allowed


def test_memory_that_can_be_executed_is_killed_and_other_memory_is_not() -> None:
    policy = "mmap if arg2 & PROT_EXEC == 0 -- memory\n"
    anonymous = (MAP_PRIVATE_ANONYMOUS, 2**64 - 1, 0)
    assert survives(policy, number_of("mmap"), 0, 4096, PROT_READ, *anonymous)
    assert not survives(policy, number_of("mmap"), 0, 4096, PROT_READ | PROT_EXEC, *anonymous)


@pytest.mark.skipif(MACHINE != "x86_64", reason="this machine has no x32 system calls")
def test_x32_calls_are_killed_even_where_the_number_is_allowed() -> None:
    assert not survives("getpid -- listed\n", 0x40000000 | number_of("getpid"))
    assert not survives("getpid -- listed\n", 0x40000000)


@pytest.mark.skipif(MACHINE != "x86_64", reason="this machine has no i386 system calls")
def test_a_filter_of_another_architecture_kills_everything() -> None:
    program = compile_filter(parse("getpid -- listed\n" + NEEDED, "t"), "aarch64")
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        kernel.set_no_new_privs()
        kernel.load_seccomp_filter(program)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGSYS


# Calls with arguments that do nothing, or fail, where they are allowed: what counts is who lives.
TRIED = {
    "read": (2**32 - 1, 0, 0),
    "close": (2**32 - 1,),
    "socket": (1, 1, 0),
    "execve": (0, 0, 0),
    "clone": (0x800, 0, 0, 0, 0),  # CLONE_SIGHAND without CLONE_VM
    "ptrace": (0, 0, 0, 0),
    "openat": (2**32 - 1, 0, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, 0),
    "mprotect": (0, 0, 0),
    "kill": (0, 0),
    "unlinkat": (2**32 - 1, 0, 0),
    "setuid": (0,),
    "mount": (0, 0, 0, 0, 0),
    "bpf": (0, 0, 0),
    "io_uring_setup": (0, 0),
    "keyctl": (0, 0, 0, 0, 0),
    "userfaultfd": (0,),
    "perf_event_open": (0, 0, 0, 0, 0),
}


@pytest.mark.parametrize("kind", list(HelperKind))
@pytest.mark.parametrize("name", sorted(TRIED))
def test_the_real_policies_let_real_calls_through_or_kill(kind: HelperKind, name: str) -> None:
    architecture = pyseccomp.Arch.NATIVE
    allowed = name in {rule.call for rule in rules_of(kind)}  # or refused with an error: it lives
    lines = [line for line in policy_text(kind).splitlines() if not line.startswith(("write ", "exit_group "))]
    policy = "\n".join(lines) + "\n"
    assert survives(policy, pyseccomp.resolve_syscall(architecture, name), *TRIED[name]) is allowed


@pytest.mark.parametrize("kind", list(HelperKind))
def test_no_helper_gets_of_the_hosts_huge_pages(kind: HelperKind) -> None:
    lines = [line for line in policy_text(kind).splitlines() if not line.startswith(("write ", "exit_group "))]
    policy = "\n".join(lines) + "\n"
    plain, huge = (MAP_PRIVATE_ANONYMOUS, 2**64 - 1, 0), (MAP_PRIVATE_ANONYMOUS | MAP_HUGETLB, 2**64 - 1, 0)
    assert survives(policy, number_of("mmap"), 0, 4096, PROT_READ, *plain)
    refused = kind is HelperKind.PROGRAM  # with ENOMEM, as where there are none, and not killed
    assert survives(policy, number_of("mmap"), 0, 4096, PROT_READ, *huge) is refused


@pytest.mark.parametrize("kind", [kind for kind in HelperKind if kind is not HelperKind.PROGRAM])
def test_no_helper_of_ours_maps_a_file_whose_pages_somebody_else_may_keep_back(kind: HelperKind) -> None:
    lines = [line for line in policy_text(kind).splitlines() if not line.startswith(("write ", "exit_group "))]
    for flags in (MAP_PRIVATE, MAP_SHARED):
        assert not survives("\n".join(lines) + "\n", number_of("mmap"), 0, 4096, PROT_READ, flags, 0, 0)


@pytest.mark.parametrize("flags", [os.O_CREAT, os.O_TRUNC, os.O_TMPFILE, os.O_PATH, os.O_DIRECTORY])
def test_opening_is_allowed_to_the_pty_helper_only_as_it_opens_ptmx(flags: int) -> None:
    policy = policy_text(HelperKind.PTY).replace("exit_group ", "# ")
    nowhere, plain = 2**32 - 1, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
    assert survives(policy, number_of("openat"), nowhere, 0, plain, 0)
    assert not survives(policy, number_of("openat"), nowhere, 0, plain | flags, 0)


@pytest.mark.parametrize(("name", "number"), [("TIOCSTI", 0x5412), ("TIOCSCTTY", 0x540E), ("TIOCLINUX", 0x541C)])
def test_no_other_request_of_a_terminal_is_allowed_to_the_pty_helper(name: str, number: int) -> None:
    policy = policy_text(HelperKind.PTY).replace("exit_group ", "# ")
    assert survives(policy, number_of("ioctl"), 2**32 - 1, 0x5401, 0)
    assert not survives(policy, number_of("ioctl"), 2**32 - 1, number, 0), name
