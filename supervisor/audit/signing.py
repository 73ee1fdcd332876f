# SPDX-License-Identifier: GPL-3.0-or-later
"""Signatures of checkpoints, made and verified by ssh-keygen(1) in its own format (PROTOCOL.sshsig of OpenSSH).

What is signed is the text of one checkpoint with its line feed, in the name space "domward-audit". So an auditor needs
nothing but OpenSSH to check it: ``ssh-keygen -Y verify -n domward-audit -I WHO -f ALLOWED -s FILE.sig < FILE``.
Done by commands of a person's, never by what supervises: the key is that person's, and so is the terminal on which its
passphrase is asked for.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from domward.protocol import limits
from domward.protocol.errors import AuditBroken, OperationFailed, printable
from domward.protocol.fds import Fd

from .. import paths
from .checkpoints import Checkpoints
from .head import Checkpoint

NAMESPACE = "domward-audit"
_SIGNATURE_BYTES = 64 * limits.KIB  # some 300 for Ed25519, 2,000 for the largest RSA key


def signed(checkpoint: Checkpoint, key: Path) -> bytes:
    """The signature of `checkpoint` by the private key in the file `key`. Raises OperationFailed."""
    arguments = ["-q", "-Y", "sign", "-n", NAMESPACE, "-f", str(key)]
    status, output = _run(arguments, _message(checkpoint))
    if status != 0 or not output.startswith(b"-----BEGIN SSH SIGNATURE-----"):
        raise OperationFailed(
            f"ssh-keygen did not sign with {printable(str(key))} (status {status}).",
            advice="Name the file of a private key, as ssh-keygen -t ed25519 makes it.",
        )
    return output


def require_signed(checkpoint: Checkpoint, signature: Path, signers: Path, who: str) -> None:
    """Raises AuditBroken where the file `signature` is not one of `checkpoint` by `who` of the file `signers`.

    `signers` is in the form that ssh-keygen(1) calls allowed signers.
    """
    words = ["-Y", "verify", "-n", NAMESPACE, "-I", who, "-f", str(signers), "-s", str(signature)]
    status, _output = _run(words, _message(checkpoint))
    if status != 0:
        raise AuditBroken(
            f"{printable(str(signature))} is no signature of that checkpoint by {printable(who)}.",
            advice="See that the allowed signers are the right ones.",
        )


def checkpoint_in(path: Path) -> Checkpoint:
    """The checkpoint in the file `path`. Raises OperationFailed."""
    try:
        with open(path, "rb") as file:
            found = Checkpoint.parse(file.read(limits.KIB).decode("ascii", "replace"))
    except (OSError, ValueError) as error:
        raise OperationFailed(f"{printable(str(path))} cannot be read: {error}.") from error
    if found is None:
        raise OperationFailed(f"{printable(str(path))} holds no checkpoint.")
    return found


def add_signed(checkpoints: Checkpoints, path: Path, signers: Path, who: str) -> None:
    """Adds the checkpoint in `path` once its signature in `path`.sig is right. Raises AuditBroken, OperationFailed."""
    checkpoint = checkpoint_in(path)
    require_signed(checkpoint, path.with_name(path.name + ".sig"), signers, who)
    checkpoints.add(checkpoint)


def _message(checkpoint: Checkpoint) -> bytes:
    return checkpoint.text().encode("ascii") + b"\n"


def _run(arguments: list[str], message: bytes) -> tuple[int, bytes]:
    """Runs ssh-keygen with `message` on its standard input: its status and what it printed. Raises OperationFailed."""
    program = os.fspath(paths.SSH_KEYGEN)
    if any("\0" in word for word in arguments):
        raise OperationFailed("A path must not contain a NUL byte.")
    with (
        Fd(os.memfd_create("domward-checkpoint", os.MFD_CLOEXEC), "checkpoint") as given,
        Fd(os.memfd_create("domward-signature", os.MFD_CLOEXEC), "signature") as printed,
    ):
        os.pwrite(given.fileno(), message, 0)
        try:
            pid = os.posix_spawn(
                program,
                [program, *arguments],
                {"LC_ALL": "C.UTF-8"},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, given.fileno(), 0),
                    (os.POSIX_SPAWN_DUP2, printed.fileno(), 1),
                ],
                setsigmask=[],
                setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
            )
        except OSError as error:
            raise OperationFailed(
                f"{program} could not be started: {error.strerror}.", advice="Install OpenSSH's client."
            ) from error
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return status, os.pread(printed.fileno(), _SIGNATURE_BYTES, 0)
