"""Kernels that start with their libraries: forks of one process that has imported them.

A kernel spends seconds of processor time on importing PyTorch and other libraries, for every page
anew. On Linux, where a process without threads can be forked safely, one server imports what the
notebooks need, and every kernel is a fork of it.
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
"""Modules that PyTorch imports with the first optimizer or ``vmap``: 2.7 of its 5 seconds."""


def fork_kernels(sources: Iterable[str]) -> None:
    """Let every new kernel start with the imports of these cells; does nothing except on Linux.

    This has to be called before the first kernel is started.
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
    """Start kernels as forks of the process that has the libraries."""

    process: Any = None

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Start a kernel; return its connection information."""
        arguments = cmd[cmd.index("-f") :]
        kernel = ForkedKernel(arguments, kwargs["env"], kwargs.get("cwd") or Path.cwd())
        self.process, self.pid, self.pgid = kernel, kernel.pid, kernel.pid
        return self.connection_info


class ForkedKernel:
    """A kernel with the methods of :class:`subprocess.Popen` that Jupyter calls."""

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
        """Wait until the kernel ends; return the exit code."""
        self._process.join()
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal only to the kernel."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End the kernel immediately (SIGKILL)."""
        self._process.kill()

    def terminate(self) -> None:
        """Ask the kernel to end (SIGTERM)."""
        self._process.terminate()


def _run(arguments: list[str], env: dict[str, str], cwd: str) -> None:
    """Run as a kernel, in a session of its own, that ends when the server ends."""
    os.setsid()
    os.chdir(cwd)
    os.environ.update(env)
    multiprocessing.set_start_method(None, force=True)
    if pandas := sys.modules.get("pandas"):  # imported outside a kernel, it assumed a terminal
        pandas.set_option("display.max_columns", 20)
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance(argv=[*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"])
