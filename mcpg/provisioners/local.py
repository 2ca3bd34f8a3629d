"""
Gateways as detached processes on this machine. The engine calls it through engine/ports.py, which has the contracts.

What is true is on disk and in /proc, never only in memory: a control plane that was killed finds its gateways again (`start`),
and a repeated `apply` starts nothing twice. processes.py launches, replica.py keeps files, program.py says what is started.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from mcpg import faults
from mcpg.engine import config
from mcpg.engine.ports import Answer, Exited, Order, Placed, Removed
from mcpg.errors import BadConfig, PermanentError, TemporaryError
from mcpg.host import processes
from mcpg.host.binary import project_caches
from mcpg.host.checker import check
from mcpg.host.loopback import ask_health
from mcpg.host.processes import Watch
from mcpg.host.words import says_port_taken
from mcpg.provisioners import attachment, told
from mcpg.provisioners.locks import Locks
from mcpg.provisioners.program import Program
from mcpg.provisioners.replica import Ended, Replica, Shelf, delete, write

log = logging.getLogger("mcpg.provisioners")

SETTLE_S: Final = 0.5  # the real gateway listens after 0.015 to 0.07 s, and has exited by then on a config it refuses
SETTLE_STEP_S: Final = 0.02
PORT_ATTEMPTS: Final = 3


class Local:
    """
    See ports.Provisioner. The gateway's program is chosen at `start` (program.py).

    Several control planes of one machine share *gateways_dir*. `serves`: whether one lives at a gRPC URL that is not ours.
    """

    name = "local"
    observes = True

    def __init__(
        self,
        *,
        gateways_dir: Path,
        grpc_url: str,
        gateway_bin: str = "",
        stop_grace_s: float = 5.0,
        cache_dirs: tuple[Path, ...] = (),
        is_shared: bool = False,
    ) -> None:
        self.serves: Callable[[str], bool] = lambda _: False
        self._shelf = Shelf(gateways_dir)
        self._is_shared = is_shared
        self._grpc_url = grpc_url
        self._program = Program(gateway_bin, cache_dirs or project_caches())
        self._stop_grace_s = stop_grace_s
        self._on_exit: Callable[[Exited], None] | None = None
        self._watches: dict[tuple[str, int], Watch] = {}
        self._reserved: dict[tuple[str, int], socket.socket] = {}
        self._locks = Locks(self._shelf)

    @property
    def gateway_version(self) -> str:
        """What the program said last, "" before `start` and while it cannot be run; it follows an upgrade."""
        return self._program.version

    @property
    def gateway_path(self) -> str:
        """Where the real gateway is that was chosen; "" for our own agent, and while none was found."""
        return self._program.path

    @property
    def directory(self) -> Path:
        """Where its gateways' files are, by its real name: two that share it say the same."""
        return self._shelf.root.resolve()

    async def start(self, on_exit: Callable[[Exited], None]) -> None:
        """
        Adopt what lives; report what ended meanwhile, and again what was reported and not started since: whoever was told
        may have been killed before it was written down.
        """
        self._on_exit = on_exit
        await self._program.choose(self._shelf.everything())
        for replica in self._shelf.everything():
            if not self._locks.is_elsewhere(replica.instance_id):
                replica.forget_halves()
        ends = [(replica, replica.last_end()) for replica in self._shelf.everything() if not replica.launched()]
        await self.watch_all()
        for replica, ended in ends:
            if ended is not None and not self._locks.is_elsewhere(replica.instance_id):
                on_exit(Exited(replica.instance_id, replica.number, 0, ended.reason, replica.words(ended.log_offset)))
        await self.watch_all()  # and only now what is news: it would be among what was reported before

    def process(self, instance_id: str, number: int) -> tuple[int | None, str]:
        watch = self._watches.get((instance_id, number))
        return watch.identity.pid if watch else None, self._shelf.log_of(instance_id, number)

    async def watch_all(self) -> None:
        """Watch what another control plane started in this directory meanwhile; report what ended before we could."""
        for replica in self._shelf.everything():
            busy = self._locks.is_here(replica.instance_id) or self._locks.is_elsewhere(replica.instance_id)
            if replica.key not in self._watches and not busy:
                await self._living(replica)

    async def reach(self) -> str:
        """The state directory can be written, its disk is not full, and there is a program to start."""
        try:
            await self._program.find()
        except PermanentError as exc:
            return exc.what + (f": {exc.cause}" if exc.cause else "")
        if self._is_shared:
            await self.watch_all()
        return self._shelf.why_not()

    async def apply(self, order: Order) -> tuple[Placed, ...]:
        """Replicas in parallel; the first failure is raised after every one has come to an end."""
        async with self._locks.hold(order.instance_id):
            await order.check()
            known = self._shelf.replicas(order.instance_id)
            surplus = [self._discard(r) for r in known if order.stops and r.number > order.replicas]
            places = [self._place(order, number) for number in range(1, order.replicas + 1)]
            results = await asyncio.gather(*places, *surplus, return_exceptions=True)
        for result in results:
            if isinstance(result, OSError):
                raise TemporaryError(f"{order.name} cannot be started", cause=str(result)) from result
            if isinstance(result, BaseException):
                raise result
        return tuple(result for result in results if isinstance(result, Placed))

    async def probe(self, instance_id: str) -> tuple[Answer, ...]:
        """GET /health of each replica, in parallel, after a look at who listens there: it must be that replica."""
        return tuple(await asyncio.gather(*map(self._ask, self._shelf.replicas(instance_id))))

    async def alive(self, instance_id: str) -> frozenset[int] | None:
        """A look at the records and at /proc; takes no lock, so also while an apply is under way."""
        replicas = self._shelf.replicas(instance_id)
        return frozenset(r.number for r in replicas if r.running()) if replicas else None

    def dials(self, instance_id: str) -> dict[int, str]:
        replicas = self._shelf.replicas(instance_id)
        return {r.number: r.control_plane for r in replicas if r.control_plane and r.running()}

    def is_starting(self, instance_id: str, number: int) -> bool:
        return self._shelf.replica(instance_id, number).is_starting()

    async def keep(self, instance_id: str, config_text: str) -> None:
        """Rewrites the boot files. A running gateway does not read its file again: it got *config_text* by push."""
        async with self._locks.hold(instance_id):
            for replica in self._shelf.replicas(instance_id):
                try:
                    bind, control_plane = config.booted(replica.boot_file.read_text(encoding="utf-8"))
                except (OSError, BadConfig):
                    continue  # never started, or not as we wrote it: the next start writes it anew
                faults.reach("replica:before:keep")
                try:
                    write(replica.boot_file, config.boot(config_text, bind=bind, control_plane=control_plane))
                except OSError as exc:  # it serves that config; the next start writes the file anew, or says why not
                    log.warning("%s cannot be rewritten: %s", replica.boot_file, exc)
                faults.reach("replica:after:keep")

    async def remove(self, instance_id: str) -> Removed:
        """SIGTERM, after the grace SIGKILL, then the files. Raises TemporaryError for a process that will not die."""
        async with self._locks.hold(instance_id):
            replicas = self._shelf.replicas(instance_id)
            results = await asyncio.gather(*map(self._stop, replicas), return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result
            await asyncio.to_thread(delete, self._shelf.directory(instance_id))
            self._locks.forget(instance_id)
        ends = [result for result in results if isinstance(result, tuple)]
        return Removed(pids=tuple(pid for pid, _ in ends if pid), detail=told.summary([how for _, how in ends if how]))

    async def explain(self, config: str) -> str:
        """What `mcpg-config check` says, where the gateway comes with it."""
        try:
            gateway = await self._program.find()
        except PermanentError:
            return ""  # whom to ask is not there now
        return await check(Path(gateway.path), config) if gateway.kind == "mcpg" else ""

    async def stop(self) -> None:
        """Forget the watches and held ports; every gateway goes on running."""
        self._on_exit = None
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()
        for key in list(self._reserved):
            self._release(key)

    # -- starting ------------------------------------------------------------------------------------------------------

    async def _place(self, order: Order, number: int) -> Placed | None:
        replica = self._shelf.replica(order.instance_id, number)
        watch = await self._living(replica)
        if order.only is not None and number not in order.only:
            return told.placed(order, replica, watch, started=False) if watch is not None else None
        if watch is not None:
            deaf = processes.is_deaf(replica.port, watch.identity, watch.marker)
            if not deaf and self._is_heard(replica):
                return told.placed(order, replica, watch, started=False)
            await self._end_deaf(replica, watch)  # or it dials where no control plane is any more, and never learns
        elif ended := replica.ended(order.operation_id):
            raise told.died(order, number, ended.reason, replica.words(ended.log_offset))
        return await self._start(order, replica)

    def _is_heard(self, replica: Replica) -> bool:
        """Whether what its process dials is a control plane that lives; unknown is taken for yes."""
        url = replica.control_plane
        return url in ("", self._grpc_url) or self.serves(url)

    async def _start(self, order: Order, replica: Replica) -> Placed:
        """Launch until it listens, is on its way there, or has ended; on another port when the chosen one was taken."""
        gateway = await self._program.to_start(order.name, self._shelf.replicas(order.instance_id))
        text = await order.config(replica.number)
        url = await order.enrol(replica.number)
        reason, said, still = "", "", partial(self._locks.still, order.instance_id)
        for attempt in range(PORT_ATTEMPTS):
            offset = replica.prepare()
            held = told.reserved(replica.port if attempt == 0 else 0)
            self._release(replica.key)
            self._reserved[replica.key] = held
            port = int(held.getsockname()[1])
            replica.remember_port(port, still)
            replica.remember_control_plane(self._grpc_url, still)
            attach = attachment.control_plane(order, replica, gateway, self._grpc_url, url)
            faults.reach("replica:before:boot-file")
            write(replica.boot_file, config.boot(text, bind=f"127.0.0.1:{port}", control_plane=attach), still)
            faults.reach("replica:after:boot-file")
            replica.forget_ends()
            launched = await processes.launch(
                gateway.argv,
                record=replica.pid_file(order.operation_id),
                log=replica.log,
                log_offset=offset,
                cwd=replica.directory,
                env=attachment.environment(order, replica, gateway, self._grpc_url, url),
            )
            watch = await self._living(replica, expected=launched is not None)
            if launched is None and watch is not None:  # somebody launched it under this id before us
                return told.placed(order, replica, watch, started=False)
            outcome = await self._settle(replica, watch) if watch else "ended"
            if watch and outcome in {"listens", "starting"}:
                return told.placed(order, replica, watch, started=True)
            ended = watch is not None and watch.ended.done()
            code = watch.ended.result() if watch and ended else processes.collect(launched) if launched else None
            reason = told.reason_of(code)
            said = replica.words(offset)
            if watch and outcome == "other":
                reason, said = f"port {port} was taken", f"another process listens on 127.0.0.1:{port}"
                await self._end_deaf(replica, watch)
            elif says_port_taken(said):
                replica.forget_launch(order.operation_id)
            else:
                replica.mark_ended(order.operation_id, Ended(reason, offset))
                break
        self._release(replica.key)
        raise told.died(order, replica.number, reason, said)

    async def _settle(self, replica: Replica, watch: Watch) -> str:
        """
        "listens", "ended", "other" (another process has its port) or, after 0.5 s of neither, "starting".

        The real gateway does not exit when its port is taken: it stays, deaf, enrols and acknowledges configs, and says
        so only in its log at shutdown. So it is the listening socket's owner that is looked at.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SETTLE_S
        try:
            while not watch.ended.done():
                owner = processes.listener(replica.port, watch.identity, watch.marker)
                if owner == "ours":
                    self._release(replica.key)
                    return "listens"
                if owner == "other" or loop.time() >= deadline:
                    return owner or "starting"
                await asyncio.wait({watch.ended}, timeout=SETTLE_STEP_S)
            return "ended"
        finally:
            watch.expected = False  # also when apply is cancelled: from here on its end is news

    async def _end_deaf(self, replica: Replica, watch: Watch) -> None:
        """End a gateway that did not get its port, so that the same operation may launch it on another."""
        operation_id = replica.launched()
        await self._stop(replica)
        if watch.ended.done() and operation_id:
            replica.forget_launch(operation_id)

    # -- watching ------------------------------------------------------------------------------------------------------

    async def _living(self, replica: Replica, *, expected: bool = False) -> Watch | None:
        """The watch of the process on record, begun now if need be; None when none runs, its end then reported."""
        operation_id = replica.launched()
        if not operation_id:
            return None
        if watch := self._watches.get(replica.key):
            if processes.is_alive(watch.identity, watch.marker):
                return watch
            await asyncio.wait({watch.ended}, timeout=1.0)  # it is dead: the loop has not come round to it yet
            if self._watches.get(replica.key) or not self._is_replaced(replica, watch.identity.pid):
                return None
            operation_id = replica.launched()
        record = await replica.written(operation_id)
        if record is None:
            self._report(replica, operation_id, 0, "its launcher ended before it began", 0)
            return None

        def on_end(watch: Watch, code: int | None) -> None:
            self._watches.pop(replica.key, None)
            self._release(replica.key)
            if not watch.expected and not self._locks.is_elsewhere(replica.instance_id):  # else the next look finds it
                self._report(replica, operation_id, watch.identity.pid, told.reason_of(code), watch.log_offset)

        watch = Watch(record.identity, replica.marker, record.log_offset, on_end, expected=expected)
        if watch.open():
            self._watches[replica.key] = watch
            return watch
        if not expected:
            code = processes.collect(record.identity.pid)
            reason = told.reason_of(code) if code is not None else "ended while no control plane was watching"
            if record.identity.boot != processes.boot_id():
                reason = "not found after a restart of this machine"
            self._report(replica, operation_id, record.identity.pid, reason, record.log_offset)
        return None

    @staticmethod
    def _is_replaced(replica: Replica, pid: int) -> bool:
        """Whether the process on record is another one than *pid*: this one may have ended while we stood still."""
        record = replica.record()
        return record is not None and record.identity.pid != pid

    def _report(self, replica: Replica, operation_id: str, pid: int, reason: str, log_offset: int) -> None:
        """Tell, then note that it was told. Of what another control plane has started anew, an end is no news."""
        if self._is_replaced(replica, pid):
            log.info("replica %s (pid %d) ended, %s; another was started since", replica.marker, pid, reason)
            return
        words = replica.words(log_offset)
        faults.reach("replica:before:report")
        if self._on_exit is not None:
            self._on_exit(Exited(replica.instance_id, replica.number, pid, reason, words))
        faults.reach("replica:between:report")
        if replica.directory.is_dir() and not self._is_replaced(replica, pid):
            replica.mark_ended(operation_id, Ended(reason, log_offset))
        faults.reach("replica:after:report")

    async def _ask(self, replica: Replica) -> Answer:
        began = asyncio.get_running_loop().time()
        record = replica.running()
        if record is None:
            return Answer(replica.number, ok=False, detail="not running")
        owner = processes.listener(replica.port, record.identity, replica.marker)
        if owner != "ours":
            where = f"127.0.0.1:{replica.port}"
            detail = f"another process listens on {where}" if owner else f"does not listen on {where} yet"
            deaf = processes.is_deaf(replica.port, record.identity, replica.marker)
            return Answer(replica.number, ok=False, detail=detail, deaf=deaf)
        self._release(replica.key)
        ok, detail = await ask_health(replica.port)
        return Answer(
            replica.number, ok=ok, detail=detail, ms=round((asyncio.get_running_loop().time() - began) * 1000, 1)
        )

    def _release(self, key: tuple[str, int]) -> None:
        if held := self._reserved.pop(key, None):
            held.close()

    # -- ending --------------------------------------------------------------------------------------------------------

    async def _stop(self, replica: Replica) -> tuple[int, str]:
        """(pid, how) of the process that ran, (0, "") when none did. Nothing that carries its marker is left."""
        faults.reach("replica:before:stop")
        watch = await self._living(replica)
        how = ""
        if watch is not None:
            watch.expected = True
            gently = await watch.end(self._stop_grace_s)
            if not watch.ended.done():
                watch.expected = False
                raise TemporaryError(f"process {watch.identity.pid} does not end", cause="not even by SIGKILL")
            how = "SIGTERM" if gently else f"SIGKILL after {self._stop_grace_s:g} s"
        faults.reach("replica:between:stop")
        left = await processes.end_marked(replica.marker, partial(self._locks.still, replica.instance_id))
        faults.reach("replica:after:stop")
        return (watch.identity.pid if watch else 0), how or ("SIGKILL" if left else "")

    async def _discard(self, replica: Replica) -> None:
        await self._stop(replica)
        await asyncio.to_thread(delete, replica.directory)
