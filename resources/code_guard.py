"""Runs one program that is not trusted, locked down as far as this system lets it. Started by app.quality.code_run as
``python -I -S -B -c <this text> FD SECONDS MEMORY``; the program and a secret come as JSON on the standard input.

Its answer goes to file descriptor FD, a JSON object a line: first what is locked, at the end whether the program ran
to its end, with the secret, so that a program which leaves early is not taken for one that passed.
"""

import json
import os
import sys

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, SIGKILL = 1, 38, 9
NOBODY = 65534
FILE_BYTES, OPEN_FILES = 1 << 20, 32

REFUSED_IMPORTS = {"ctypes", "_ctypes", "_posixsubprocess"}
REFUSED = {
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "os.fork",
    "os.forkpty",
    "os.kill",
    "os.killpg",
    "os.chown",
    "os.chmod",
    "os.link",
    "os.symlink",
    "os.chflags",
    "os.setxattr",
    "os.removexattr",
    "os.chroot",
    "os.lockf",
    "os.fchdir",
    "resource.setrlimit",
    "resource.prlimit",
    "signal.pthread_kill",
    "pty.spawn",
    "webbrowser.open",
    "subprocess.Popen",
}
REFUSED_GROUPS = (
    "socket.",
    "ctypes.",
    "fcntl.",
    "winreg.",
    "syslog.",
    "sys.remote_exec",
    "ftplib.",
    "http.",
    "smtplib.",
)
PATHS_WRITTEN = {"os.mkdir": 1, "os.remove": 1, "os.rename": 2, "os.rmdir": 1, "os.truncate": 1, "os.utime": 1}
PATHS_READ = {"os.listdir": 1, "os.scandir": 1, "os.chdir": 1, "os.getxattr": 1, "os.listxattr": 1, "os.walk": 1}


def lock_system(locks):
    """What needs the system's own calls: no network, no parentless life, and another user where we are root."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "linux":
        flags = CLONE_NEWNET if os.geteuid() == 0 else CLONE_NEWUSER | CLONE_NEWNET
        if libc.unshare(flags) == 0:
            locks.append("network")
        if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
            locks.append("privileges")
    if os.geteuid() == 0 and become_nobody():
        locks.append("user")
    if sys.platform == "linux":
        libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    for name in ("ctypes", "_ctypes", "ctypes._endian"):
        sys.modules.pop(name, None)


def become_nobody():
    """Another user owns none of our files. Not where it could not even read Python's own library."""
    os.seteuid(NOBODY)
    try:
        with open(json.__file__, "rb"):
            pass
        readable = os.access(os.getcwd(), os.W_OK, effective_ids=True)
    except OSError:
        readable = False
    os.seteuid(0)
    if readable:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    return readable


def lock_resources(locks, seconds, memory):
    import resource

    for name, limit in (
        ("RLIMIT_CPU", seconds),
        ("RLIMIT_AS", memory),
        ("RLIMIT_FSIZE", FILE_BYTES),
        ("RLIMIT_NOFILE", OPEN_FILES),
        ("RLIMIT_NPROC", 0),
        ("RLIMIT_CORE", 0),
    ):
        try:
            resource.setrlimit(getattr(resource, name), (limit, limit))
        except (AttributeError, OSError, ValueError):
            continue
        locks.append(name)


def lock_interpreter(locks):
    """Files outside the own folder and Python's library, sockets, processes and native code are refused by a hook
    that Python asks before each of them. Only native code could take it away."""
    own = os.path.realpath(os.getcwd())
    readable = tuple(os.path.realpath(part) for part in (own, *sys.path) if part)
    write_flags = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    realpath, fsdecode, refused_error = os.path.realpath, os.fsdecode, PermissionError

    def inside(path, roots):
        if isinstance(path, int) or path is None:
            return path is None
        real = realpath(fsdecode(path))
        return any(real == root or real.startswith(root + os.sep) for root in roots)

    def hook(event, arguments):
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, int):
                return
            writing = bool((flags or 0) & write_flags)
            if not inside(path, (own,) if writing else readable):
                raise refused_error(f"this file may not be opened: {path!r}")
        elif event == "import":
            if arguments[0] in REFUSED_IMPORTS:
                raise refused_error(f"{arguments[0]} may not be imported")
        elif event in PATHS_WRITTEN or event in PATHS_READ:
            count = PATHS_WRITTEN.get(event) or PATHS_READ[event]
            roots = (own,) if event in PATHS_WRITTEN else readable
            if not all(inside(path, roots) for path in arguments[:count]):
                raise refused_error(f"{event} outside the own folder")
        elif event in REFUSED or event.startswith(REFUSED_GROUPS):
            raise refused_error(f"{event} is not allowed")

    sys.addaudithook(hook)
    locks.append("interpreter")


def main():
    answer, seconds, memory = (int(each) for each in sys.argv[1:4])
    given = json.loads(sys.stdin.buffer.read())
    locks = []

    def tell(**facts):
        os.write(answer, json.dumps(facts).encode() + b"\n")

    code = problem = None
    try:
        code = compile(given["program"], "program.py", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        problem = f"{type(error).__name__}: {error}"
    lock_system(locks)
    lock_resources(locks, seconds, memory)
    secret = given.pop("secret")
    lock_interpreter(locks)
    tell(locks=locks)
    if problem is None:
        try:
            exec(code, {"__name__": "__main__", "__builtins__": __builtins__})
        except BaseException as error:  # noqa: BLE001 - whatever it was, it is the program's own end
            problem = f"{type(error).__name__}: {error}"
    if problem is None:
        tell(passed=True, secret=secret)
    else:
        tell(passed=False, reason=problem[:300])


main()
