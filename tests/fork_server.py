"""A process that has imported the libraries and forks for each command, which then starts in 0.2 s instead of 2 s.

`start_server` writes the commands `identity-mappings`, `snakemake` and `python` into a folder. Each sends arguments,
environment, folder and standard streams to the server, and ends as the forked process ends. The project's own code is
imported after the fork, from the caller's PYTHONPATH, so that a copy of the project runs its own code; where its
sources are the server's, the modules need not be executed again. All forks of a server share Python's
hash seed; a command with PYTHONHASHSEED in its environment is started as a user does, without the server.
"""

import atexit
import builtins
import collections
import contextlib
import functools
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import json
import os
import pkgutil
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

SHARED = "FORK_SERVER"
PROJECT = "identity_mappings"
LIBRARIES = (
    "torch",
    "torch.distributed.run",
    "torch.utils.data",
    "torch.optim",
    "torchvision",
    "numpy",
    "pandas",
    "tabulate",
    "pydantic",
    "jinja2",
    "matplotlib.pyplot",
    "rich.progress",
    "snakemake.cli",
    "snakemake.workflow",
    "snakemake.report.html_reporter",
    "snakemake_logger_plugin_rich.handler",
    "torch.utils.flop_counter",
    "requests",
    "smart_open",
    "yte",
    "sklearn.datasets",
)
# Runs without site-packages, so that it starts in a few hundredths of a second; by a shell, for paths with spaces.
CLIENT = """#!/bin/sh
'''exec' "{python}" -ISE "$0" "$@"
' '''
import json, os, signal, socket, sys
name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
command = words[words[:1] == ["-u"]:]
is_forked = name != "python" or command[:1] == ["-m"] or command[:1] and command[0].endswith(".py")
if "PYTHONHASHSEED" in os.environ or not is_forked:
    program = os.path.join(os.path.dirname({python!r}), name)
    os.execv(program, [program, *words])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
call = json.dumps([name, command, os.getcwd(), dict(os.environ), os.getpgrp(), os.umask(0)]).encode()
socket.send_fds(server, [len(call).to_bytes(4, "big")], [0, 1, 2])
server.sendall(call)
answers = server.makefile()
pid = int(answers.readline())
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, lambda number, frame: os.kill(pid, number))
status = int(answers.readline() or -9)
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if status != -9 else None
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


@functools.cache
def find_commands() -> Path:
    """The folder of the commands of this process's server, which ends with the process, or of the one that
    `share_server` started; elsewhere than on Linux, of the environment's own commands."""
    if not hasattr(os, "pidfd_open"):
        return Path(sys.executable).parent
    if SHARED in os.environ:
        return Path(os.environ[SHARED])
    folder = Path(tempfile.mkdtemp(prefix="commands-", dir="/tmp"))  # a socket's path may have 107 letters
    server = start_server(folder)
    atexit.register(shutil.rmtree, folder)
    atexit.register(server.communicate)  # closes its standard input
    return folder


def share_server() -> None:
    """Start a server for the processes that this process will start."""
    os.environ[SHARED] = str(find_commands())


def start_server(folder: Path) -> subprocess.Popen:
    """Start a server and write its commands to `folder`; the server ends with its standard input."""
    address = folder / "socket"
    for name in ("identity-mappings", "snakemake", "python"):
        path = folder / name
        path.write_text(CLIENT.format(python=sys.executable, address=str(address)))
        path.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen(64)  # calls wait until the server is ready
        words = [sys.executable, __file__, str(listener.fileno()), str(folder)]
        return subprocess.Popen(words, stdin=subprocess.PIPE, pass_fds=[listener.fileno()])


def serve(listener: socket.socket, commands: Path) -> None:
    """Import the libraries, then answer calls until standard input ends."""
    sys.dont_write_bytecode = True
    for library in LIBRARIES:
        importlib.import_module(library)
    importlib.import_module("snakemake.cli").get_argument_parser()  # looks for Snakemake's plugins
    finder = Finder()
    gc.collect()
    gc.freeze()  # a fork's collections leave these objects, and their memory pages, alone
    waiting = selectors.DefaultSelector()
    waiting.register(listener, selectors.EVENT_READ)
    waiting.register(0, selectors.EVENT_READ)
    running = {}  # {file descriptor of a child or of its caller: (child, file descriptor of the child, caller)}
    while True:
        for key, _ in waiting.select():
            if key.fileobj == 0:
                return
            if key.fileobj is listener:
                caller, _ = listener.accept()
                child = fork(caller, [listener, *(entry[2] for entry in running.values())], commands, finder)
                with contextlib.suppress(OSError):
                    caller.sendall(b"%d\n" % child)
                entry = (child, os.pidfd_open(child), caller)
                for descriptor in (entry[1], caller.fileno()):
                    running[descriptor] = entry
                    waiting.register(descriptor, selectors.EVENT_READ)
            elif key.fd in running:
                child, descriptor, caller = running[key.fd]
                if key.fd != descriptor:  # the caller was killed
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                with contextlib.suppress(OSError):
                    caller.sendall(b"%d\n" % status)
                for each in (descriptor, caller.fileno()):
                    waiting.unregister(each)
                    del running[each]
                os.close(descriptor)
                caller.close()


def fork(caller: socket.socket, unused: list[socket.socket], commands: Path, finder: "Finder") -> int:
    """Fork a child that runs the caller's command; returns its process id."""
    size, streams, _, _ = socket.recv_fds(caller, 4, 3)
    with caller.makefile("rb", buffering=0) as stream:
        content = b""
        while len(content) < int.from_bytes(size, "big"):
            content += stream.read(int.from_bytes(size, "big") - len(content))
    name, words, folder, environment, group, mask = json.loads(content)
    child = os.fork()
    if child:
        for stream in streams:
            os.close(stream)
        return child
    for each in (caller, *unused):
        each.close()
    with contextlib.suppress(OSError):
        os.setpgid(0, group)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = io.TextIOWrapper(open(2, "wb", 0, closefd=False), write_through=True)  # noqa: SIM115
    os.chdir(folder)
    os.umask(mask)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    finder.install()
    os._exit(run(commands, name, words))


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Executes the modules of the project once; in a fork, Python's import then takes them as if from `sys.path`."""

    def __init__(self):
        self.imports = collections.defaultdict(list)  # {module: the project's modules that it imports}
        self.builtins_import, builtins.__import__ = builtins.__import__, self.record
        package = importlib.import_module(PROJECT)
        for found in pkgutil.walk_packages(package.__path__, f"{PROJECT}."):
            if not found.name.endswith("__main__"):
                importlib.import_module(found.name)
        builtins.__import__ = self.builtins_import
        names = [name for name in sys.modules if name.partition(".")[0] == PROJECT]
        self.modules = {name: sys.modules.pop(name) for name in names}
        for name, module in self.modules.items():
            parent, _, child = name.rpartition(".")
            if parent and getattr(self.modules[parent], child) is module:
                delattr(self.modules[parent], child)  # else `from package import module` would not import it
        self.source = Path(package.__file__).parents[1]
        paths = [Path(module.__file__) for module in self.modules.values()]
        self.contents = {path.relative_to(self.source): path.read_bytes() for path in paths}

    def record(self, name, globals=None, locals=None, fromlist=(), level=0):
        """Python's `__import__`, which notes what is imported."""
        module = self.builtins_import(name, globals, locals, fromlist, level)
        importer = (globals or {}).get("__name__", "")
        if importer.partition(".")[0] == PROJECT:
            base = importlib.util.resolve_name("." * level + name, globals["__package__"])
            names = [base, *(f"{base}.{each}" for each in fromlist or ())]
            self.imports[importer] += [each for each in names if each.startswith(PROJECT) and each in sys.modules]
        return module

    def install(self) -> None:
        """Take over the project's imports where the sources that Python would import are those that were executed."""
        found = importlib.machinery.PathFinder.find_spec(PROJECT)
        self.folder = found and Path(found.origin).parents[1]
        with contextlib.suppress(OSError):
            if found and all((self.folder / path).read_bytes() == content for path, content in self.contents.items()):
                sys.meta_path.insert(0, self)

    def find_spec(self, name, path, target=None):
        if name not in self.modules:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        spec.loader = self
        return spec

    def create_module(self, spec):
        module = self.modules[spec.name]
        for key, value in list(vars(module).items()):
            if isinstance(value, Path) and value.is_relative_to(self.source):
                setattr(module, key, self.folder / value.relative_to(self.source))
        module.__file__ = spec.origin
        if spec.submodule_search_locations:
            module.__path__ = spec.submodule_search_locations
        return module

    def exec_module(self, module):
        content = dict(vars(module))
        for name in self.imports[module.__name__]:
            importlib.import_module(name)
        vars(module).update(content)  # an import may have put a module in the place of its function


def run(commands: Path, name: str, words: list[str]) -> int:
    """Run a command as Python does, and return its exit status."""
    sys.executable = str(commands / "python")  # of torchrun's workers; Snakemake's jobs take commands from its folder
    sys.argv = [str(commands / name), *words]
    status = 0
    try:
        try:
            if name == "python":
                module = words[0] == "-m"
                sys.argv = words[module:]
                sys.path.insert(0, str(Path.cwd() if module else Path(words[0]).resolve().parent))
                run_main = functools.partial(runpy.run_module, alter_sys=True) if module else runpy.run_path
                run_main(sys.argv[0], run_name="__main__")
            elif name == "snakemake":
                import snakemake.cli

                snakemake.cli.main()
            else:
                cli = importlib.import_module("identity_mappings.cli")
                sys.exit(cli.main())
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1 if error.code else 0
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
        threading._shutdown()
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
        status = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return status


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2]))
