"""Kernels that are born with their libraries: copies of one process that imported them once.

A kernel spends seconds of processor time on importing PyTorch and the rest, for every page anew.
On Linux, where a process without threads can be copied safely, one server imports what the
notebooks ask for, and every kernel is a copy of it.
"""

import multiprocessing
import os
import re
import sys
from collections.abc import Iterable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, cast

from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

NAME = "forked-provisioner"
IMPORTED = re.compile(r"^(?:from|import) ([\w.]+)", re.MULTILINE)
ON_FIRST_USE = {"torch": "torch._dynamo"}
"""What the first optimizer or ``vmap`` of PyTorch imports: 2.7 of its 5 seconds."""


def fork_kernels(sources: Iterable[str]) -> None:
    """Let every kernel from now on have what these cells import; elsewhere than on Linux, nothing.

    Has to be called before the first kernel is started.
    """
    if sys.platform != "linux":
        return
    modules = {name for source in sources for name in IMPORTED.findall(source)}
    modules |= {late for name, late in ON_FIRST_USE.items() if name in modules}
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload(["__main__", "ipykernel.kernelapp", *sorted(modules)])
    factory = KernelProvisionerFactory.instance()
    factory.provisioners[NAME] = EntryPoint(
        NAME, f"{__name__}:{ForkedProvisioner.__name__}", factory.GROUP_NAME
    )
    factory.default_provisioner_name = NAME


class ForkedProvisioner(LocalProvisioner):
    """Starts kernels as copies of the process that has the libraries."""

    process: Any = None

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Start a kernel; return how to reach it."""
        arguments = cmd[cmd.index("-f") :]
        kernel = ForkedKernel(arguments, kwargs["env"], kwargs.get("cwd") or Path.cwd())
        self.process, self.pid, self.pgid = kernel, kernel.pid, kernel.pid
        return self.connection_info


class ForkedKernel:
    """A kernel with what Jupyter calls of :class:`subprocess.Popen`."""

    stdin = stdout = stderr = None

    def __init__(self, arguments: list[str], env: dict[str, str], cwd: str | Path) -> None:
        forkserver = multiprocessing.get_context("forkserver")
        self._process = forkserver.Process(target=_run, args=(arguments, env, str(cwd)))
        try:
            self._process.start()
        except (EOFError, ConnectionError) as error:
            raise RuntimeError("something the notebooks import fails, as said above") from error
        self.pid = cast(int, self._process.pid)

    def poll(self) -> int | None:
        """Return the exit code, None while the kernel runs."""
        return self._process.exitcode

    def wait(self) -> int | None:
        """Wait for the end; return the exit code."""
        self._process.join()
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal to the kernel alone."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()


def _run(arguments: list[str], env: dict[str, str], cwd: str) -> None:
    """Be a kernel: a session of its own, that ends when the server does."""
    os.setsid()
    os.chdir(cwd)
    os.environ.update(env)
    multiprocessing.set_start_method(None, force=True)
    if pandas := sys.modules.get("pandas"):  # outside of a kernel it took this for a terminal
        pandas.set_option("display.max_columns", 20)
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance(argv=[*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"])
