# SPDX-License-Identifier: GPL-3.0-or-later
"""Every limit that both sides know: name, unit and the reason for the number.

Defaults of a configurable budget are here too; :mod:`domward.supervisor.config` lets an administrator
change those named in :class:`Budgets` there.
"""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# --- messages ---------------------------------------------------------------------------------------------------
MESSAGE_BYTES = 64 * KIB  # bytes: largest message; SEQPACKET itself ends near 208 KiB
MESSAGE_FDS = 8  # fds: most fds with one message; the kernel's own bound is 253
MESSAGE_ITEMS = 256  # items: longest array or map in a message
TEXT_BYTES = 4 * KIB  # bytes: longest diagnostic text in a message
PATH_BYTES = 4 * KIB  # bytes: PATH_MAX

# --- results ----------------------------------------------------------------------------------------------------
KERNEL_BYTES = 256 * MIB  # bytes: largest kernel
RAMDISK_BYTES = 1 * GIB  # bytes: largest ramdisk, all initrds together
CMDLINE_BYTES = 1024 - 1  # bytes without the NUL: Xen's MAX_GUEST_CMDLINE is 1024 with it
ANSWER_ITEM_BYTES = 2 * PATH_BYTES  # bytes: what libxl's buffer for an item of a bootloader's answer holds, and a NUL

# --- what the reader may take from a disk -----------------------------------------------------------------------
CONFIG_BYTES = 1 * MIB  # bytes: largest boot configuration file
CONFIG_TOTAL_BYTES = 8 * MIB  # bytes: all configuration files of a disk together
METADATA_BYTES = 512 * MIB  # bytes: everything read from the disk that is not a kernel or a ramdisk
ENTRIES = 512  # entries: boot entries of one disk
CONFIG_STEPS = 400_000  # steps: tokens read and commands run of all boot configuration; grub-mkconfig's take some 5,000
CONFIG_EXPANDED_BYTES = 16 * MIB  # bytes: all words after expansion of variables, so that a=$a$a ends
CONFIG_VARIABLES = 2048  # variables alive at once in a configuration; each submenu copies them
CONFIG_NESTING = 48  # levels: blocks, function calls and sourced files within one another, of our own stack
SUBMENU_DEPTH = 8  # levels: nested submenus or sourced files
DIRECTORY_ENTRIES = 65_536  # entries: one folder
SYMLINKS = 40  # links followed in one path: Linux' MAXSYMLINKS
PATH_COMPONENTS = 256  # components in one path, links expanded
PARTITIONS = 128  # partitions: GPT's customary table size
FILESYSTEMS = 32  # file systems examined on one disk
INITRDS = 16  # files: initrds of one entry
TITLE_BYTES = 1024  # bytes: longest entry title kept
EXTENTS = 262_144  # extents of one file: 1 GiB in 4 KiB pieces
READER_STEPS = 2_000_000  # structures looked at on one disk, some 10 microseconds each: a third of HELPER_CPU

# --- control socket ---------------------------------------------------------------------------------------------
CONTROL_VERSION = 1  # the newest version of the control protocol, and the only one
CONTROL_CLIENTS = 1024  # connections at once, over all users
CONTROL_CLIENTS_PER_UID = 128  # connections at once of one user; root's count only against all
CONTROL_MESSAGES_PER_SECOND = 5_000  # messages: beyond it a client's messages wait unread; some 0.1 ms of the loop each
CONTROL_MESSAGES_AT_ONCE = 32  # messages of one client that are read before the others have their turn
CONTROL_REQUESTS = 256  # requests of one client without their last answer; the next are refused
CONTROL_QUEUE = 1024  # messages that wait for one client; beyond it nothing more is read from it
CONTROL_STUCK_SECONDS = 60.0  # seconds in which a client takes none of what waits for it: then it is disconnected
LIVE_OPERATIONS = 4096  # operations that wait or run, over all users: some 4 fds each
LIVE_OPERATIONS_PER_UID = 64  # the same for one user; root's count only against all
RUNNING_OPERATIONS = 64  # operations that have processes; the others wait for their turn, uid by uid
RUNNING_OPERATIONS_PER_UID = 16  # of one user, so that no single one holds all places; root may hold all
STEPS = 256  # steps of one operation that are kept: others have some 10, a guest that reboots 10 more each time
FINISHED_OPERATIONS = 512  # operations that are over and still listed
RESULT_SECONDS = 60.0  # seconds that a detached operation's kernel and ramdisk are kept for somebody to fetch them
LABEL_BYTES = 256  # bytes: what a client calls its operation, the guest's name for instance
SCREEN = 1000  # columns or rows of a console: more than any screen has
CONSOLE_MESSAGE_BYTES = 16 * KIB  # bytes of console output in one message
CONSOLE_KEYS_BYTES = 4 * KIB  # bytes of keys in one message
CONSOLE_REPLAY_BYTES = 64 * KIB  # bytes of console output that are shown to who attaches later: several menus' worth
CONSOLE_BACKLOG_BYTES = 256 * KIB  # bytes that wait for one viewer; beyond it they are skipped, and it is told so
CONSOLE_BYTES_PER_SECOND = 4 * MIB  # bytes: beyond it a console waits, so that it does not keep the loop busy
CONSOLE_VIEWERS = 32  # viewers of one console
LOGS_KEPT_BY_DAEMON = 1000  # files: console logs that the daemon keeps; 1 GiB at most at LOG_BYTES each
SETTINGS_BYTES = 256 * KIB  # bytes: one file of settings
SETTINGS_FILES = 64  # files in the folder of drop-ins

# --- helper processes -------------------------------------------------------------------------------------------
HELPER_ADDRESS_SPACE = 1 * GIB  # bytes: RLIMIT_AS
HELPER_CPU = 60  # seconds: RLIMIT_CPU
HELPER_FDS = 32  # fds: RLIMIT_NOFILE
LOG_BYTES = 1 * MIB  # bytes: console log of one operation
LOGS_KEPT = 10  # files: console logs in one directory; the oldest go
REMOVED_DEPTH = 64  # levels of a tree that is removed: one fd each is open meanwhile
PTYS = 4  # ptys in one request: two fds each, MESSAGE_FDS in all

# --- bootloader programs ----------------------------------------------------------------------------------------
PROGRAM_PROCESSES = 16  # processes: RLIMIT_NPROC, the collector's own included; a shell script needs some five
PROGRAM_FILES = 4096  # inodes: files and folders in a program's private /tmp
PROGRAM_OUTPUT_BYTES = 32 * KIB  # bytes: the output file; three items of the next line, and some
PROGRAM_ITEM_BYTES = 8 * KIB - 1  # bytes: one item of it; libxl drops longer ones
PROGRAM_OPTIONS = 8  # options that are our own: kernel, ramdisk, args, entry, offset
PROGRAM_ARGUMENTS = 32  # words given on to a program
PROGRAM_ARGUMENT_BYTES = 1024  # bytes: longest of those words, so that all fit one message
PROGRAM_LAST_ROWS = 3  # rows: what an error repeats of what a program showed last
PROGRAM_ROW_BYTES = 200  # characters of each of those rows

# --- xenstore: xen/include/public/io/xs_wire.h ---------------------------------------------------------------------
XENSTORE_PAYLOAD_BYTES = 4096  # bytes of a message behind its header: beyond it xenstored ends the connection
XENSTORE_PATH_BYTES = 3072  # bytes: longest absolute path
XENSTORE_TRIES = 20  # times that a transaction is begun anew after a conflict
XENSTORE_SECONDS = 10.0  # seconds: a request to its answer, which takes xenstored well below a millisecond

# --- guests ---------------------------------------------------------------------------------------------------------
GUEST_NAME_BYTES = 64  # bytes: longest name of a guest
GUEST_CONFIG_BYTES = 64 * KIB  # bytes: one configuration file of a guest; xl's own examples have 2
GUEST_CONFIG_ITEMS = 64  # words in one list of it
GUEST_DISKS = 6  # disks: an fd each, and one for the bootloader, in one message
GUEST_MEMORY_MIB = 16 * 1024 * 1024  # MiB: 16 TiB, the most that Xen gives a guest
GUEST_VCPUS = 512  # virtual processors: the most that Xen gives a guest
GUEST_STARTS = 5  # starts of one guest within the next line's time: it reboots in a circle then, and stays off
GUEST_START_SECONDS = 60.0  # seconds; a kernel alone takes some 2, a real system 10
GUEST_CONSOLE_CPU = 86_400  # seconds: RLIMIT_CPU of a guest's relay, which copies for as long as the guest lives
XL_SECONDS = (
    120.0  # seconds: one call of xl; libxl itself waits 40 s for devices, and building takes a second for a GiB
)
XL_OUTPUT_BYTES = 1 * MIB  # bytes of what xl writes that are read, the last ones: a line of a list for each domain
XEN_DYING_SECONDS = 20.0  # seconds that a destroyed domain may take to be gone: its memory, and who still maps it
XEN_DYING_PAUSE = 0.5  # seconds between two looks at it
XEN_CONSOLE_SECONDS = 20.0  # seconds until xenconsoled has named a new domain's console, which takes it milliseconds
XEN_LOCK_SECONDS = 0.2  # seconds between two looks whether the xl of a supervisor that is gone has ended
QMP_LINE_BYTES = 64 * KIB  # bytes: longest line of qemu's monitor; those that we ask for have some hundreds
QMP_BYTES_PER_SECOND = 1 * MIB  # bytes: beyond it a monitor waits, so that it does not keep the loop busy
QMP_SECONDS = 30.0  # seconds: a command of the monitor to its answer, also on a machine that is busy
EMULATOR_FDS = 256  # fds: RLIMIT_NOFILE of qemu, which has some 30
EMULATOR_OUTPUT_BYTES = 4 * KIB  # bytes of what qemu writes on standard error that are kept, the last ones

# --- time -------------------------------------------------------------------------------------------------------
WALL_SECONDS = 120.0  # seconds: a whole operation
TERM_GRACE_SECONDS = 1.0  # seconds between SIGTERM and SIGKILL
KILL_SECONDS = 5.0  # seconds after SIGKILL: longer, and the kernel holds the process in a wait that nothing ends
LAUNCHER_DEATHS = 5  # deaths of launchers within the next line's time: it is no accident then, and another dies as well
LAUNCHER_DEATH_SECONDS = 60.0  # seconds: five starts take less than one, so what dies at once is seen in any case
START_SECONDS = 10.0  # seconds: a launcher or helper to its first message

# --- the audit log ----------------------------------------------------------------------------------------------
AUDIT_TEXT = 4096  # characters of one text in a record, after escaping
AUDIT_RECORD_BYTES = 48 * KIB  # bytes of one record without its hashes: with journald's framing it fits one datagram
AUDIT_FILE_BYTES = 64 * MIB  # bytes of one file before the next is begun: some 90,000 records
AUDIT_SECONDS = 30.0  # seconds in which a record must be on the disk, before the operation is refused
AUDIT_LOCK_SECONDS = 10.0  # seconds to wait for other writers of one log: each holds its lock for milliseconds
AUDIT_PENDING = 8192  # records that wait for the disk; more mean that it has stopped
AUDIT_REPORT_OPERATIONS = 5000  # operations on one page of `domward audit report`; a browser opens some 10 MB at once
AUDIT_REPORT_RECORDS = 200  # records of one operation, or domains of one kernel, on that page: a run makes some 10
