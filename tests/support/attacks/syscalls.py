# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers of x86-64's system calls, <asm/unistd_64.h>, and constants of the kernel's headers that attacks use."""

from __future__ import annotations

NUMBERS = {
    "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "lstat": 6, "lseek": 8, "mmap": 9, "mprotect": 10,
    "rt_sigaction": 13, "ioctl": 16, "pread64": 17, "pwrite64": 18, "access": 21, "pipe": 22, "madvise": 28,
    "shmget": 29, "shmat": 30, "dup": 32, "pause": 34, "sendfile": 40, "socket": 41, "connect": 42, "sendto": 44,
    "recvfrom": 45, "sendmsg": 46, "socketpair": 53, "setsockopt": 54, "clone": 56, "fork": 57, "vfork": 58,
    "execve": 59, "kill": 62, "semget": 64, "msgget": 68, "fcntl": 72, "flock": 73, "truncate": 76, "ftruncate": 77,
    "chdir": 80, "fchdir": 81, "rename": 82, "mkdir": 83, "creat": 85, "link": 86, "unlink": 87, "symlink": 88,
    "readlink": 89, "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93, "ptrace": 101, "syslog": 103, "setuid": 105,
    "setgid": 106, "setgroups": 116, "setresuid": 117, "setresgid": 119, "setfsuid": 122, "capset": 126,
    "rt_sigqueueinfo": 129, "mknod": 133, "personality": 135, "setpriority": 141, "sched_setscheduler": 144,
    "mlock": 149, "mlockall": 151, "vhangup": 153, "modify_ldt": 154, "pivot_root": 155, "prctl": 157,
    "adjtimex": 159, "setrlimit": 160, "chroot": 161, "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166,
    "swapon": 167, "reboot": 169, "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173,
    "init_module": 175, "delete_module": 176, "quotactl": 179, "setxattr": 188, "fsetxattr": 190, "tkill": 200,
    "sched_setaffinity": 203, "getdents64": 217, "clock_settime": 227, "exit_group": 231, "tgkill": 234,
    "mq_open": 240, "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "ioprio_set": 251,
    "migrate_pages": 256, "openat": 257, "mknodat": 259, "newfstatat": 262, "unlinkat": 263, "renameat": 264,
    "linkat": 265, "symlinkat": 266, "readlinkat": 267, "fchmodat": 268, "faccessat": 269, "unshare": 272,
    "get_robust_list": 274, "splice": 275, "move_pages": 279, "utimensat": 280, "fallocate": 285,
    "epoll_create1": 291, "pipe2": 293, "inotify_init1": 294, "rt_tgsigqueueinfo": 297, "perf_event_open": 298,
    "fanotify_init": 300, "prlimit64": 302, "name_to_handle_at": 303, "open_by_handle_at": 304, "setns": 308,
    "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "sched_setattr": 314,
    "renameat2": 316, "seccomp": 317, "memfd_create": 319, "kexec_file_load": 320, "bpf": 321, "execveat": 322,
    "userfaultfd": 323, "statx": 332, "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fspick": 433, "pidfd_open": 434, "clone3": 435,
    "openat2": 437, "pidfd_getfd": 438, "mount_setattr": 442, "memfd_secret": 447, "process_mrelease": 448,
}  # fmt: skip

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
O_RDONLY, O_WRONLY, O_RDWR, O_CREAT, O_PATH, O_DIRECTORY, O_CLOEXEC = 0, 1, 2, 0x40, 0x200000, 0x10000, 0x80000
#: The one combination of flags with which the pty helper may open anything: O_RDWR, O_NOCTTY and O_CLOEXEC.
PTY_FLAGS = 0x80102

CLONE_VM, CLONE_FS, CLONE_FILES, CLONE_SIGHAND, CLONE_THREAD = 0x100, 0x200, 0x400, 0x800, 0x10000
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWTIME = 0x10000000, 0x20000000, 0x40000000, 0x80
SIGCHLD, SIGCONT, SIGKILL, SIGSTOP = 17, 18, 9, 19

PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MAP_HUGETLB = 1, 2, 0x20, 0x40000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC = 1, 32, 4096, 16384

TIOCSTI, TIOCSCTTY, TIOCCONS, TIOCLINUX, TIOCEXCL, TIOCSETD = 0x5412, 0x540E, 0x541D, 0x541C, 0x540C, 0x5423
TCGETS, TCSETS, TIOCSWINSZ, TIOCVHANGUP = 0x5401, 0x5402, 0x5414, 0x5437
F_DUPFD_CLOEXEC, F_SETFL, F_SETLEASE, F_SETOWN = 1030, 4, 1024, 8
F_ADD_SEALS = 1033
