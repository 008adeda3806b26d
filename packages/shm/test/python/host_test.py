"""What examples/python/kvx_host.py promises to a host, with real Node processes over `shm`. python.test.ts runs it."""

import base64
import ctypes
import os
import secrets
import select
import signal
import subprocess
import sys
import unittest
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[4] / "examples" / "python"
sys.path.insert(0, str(EXAMPLES))

import kvx_host as kvx  # noqa: E402

WAIT = 30
PAGES, PAGE_TOKENS, ROW = 8, 4, 16
PAGE = PAGE_TOKENS * ROW
TOKEN = secrets.token_hex(16)
IDS = list(range(10))


def opened(kind, **options):
    tensor = {"layer": 0, "part": "k", "dtype": "u8", "units": 1, "unitBytes": ROW}
    at = {"component": "kv", "layer": 0, "part": "k", "region": 0, "base": 0, "pageBytes": PAGE, "order": "NHD"}
    return kind(
        **{
            "backend": "shm",
            "token": TOKEN,
            "shape": {
                "model": "test",
                "layers": 1,
                "components": [{"name": "kv", "addressed": "tokens", "tensors": [tensor]}],
            },
            "place": {"components": {"kv": {"pageTokens": PAGE_TOKENS, "pages": PAGES}}, "tensors": [at]},
            "memory": [kvx.HostMemory(PAGES * PAGE)],
            **options,
        }
    )


def prefill(**options):
    return opened(kvx.Prefill, serve={"host": "127.0.0.1", "port": 0}, **options)


def decode(**options):
    return opened(kvx.Decode, **options)


def gone(process):
    """Whether the process of that number ends."""
    try:
        pidfd = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], WAIT)[0])
    finally:
        os.close(pidfd)


class Host(unittest.TestCase):
    def fails(self, code, future_or_call):
        with self.assertRaises(kvx.KvxError) as caught:
            if callable(future_or_call):
                future_or_call()
            else:
                future_or_call.result(WAIT)
        self.assertEqual(caught.exception.code, code, str(caught.exception))
        return caught.exception

    def pair(self, **options):
        source, target = prefill(**options), decode(**options)
        self.addCleanup(source.close)
        self.addCleanup(target.close)
        return source, target

    def test_pages_and_what_prefill_says_with_them_arrive(self):
        source, target = self.pair()
        sender = source.send(2**64 - 1, IDS)
        receiver = target.receive(2**64 - 1, IDS, source=source.bootstrap)
        self.assertEqual(receiver.reserve(pages=[5, 1, 7]).result(WAIT), {"prefixTokens": 0})
        self.assertEqual(sender.reserved().result(WAIT)["prefixTokens"], 0)
        pool = source._memory[0].map
        for page, value in ((2, 1), (0, 2), (3, 3)):
            pool[page * PAGE : (page + 1) * PAGE] = bytes([value]) * PAGE
        sender.write(tokens=(0, 4), pages=[2]).result(WAIT)
        sender.write(tokens=(4, 10), pages=[0, 3]).result(WAIT)
        report = sender.finish(aux={"firstToken": 42, "blob": b"\x00\xff"}).result(WAIT)
        received = receiver.done.result(WAIT)
        self.assertEqual(received, {"aux": {"firstToken": 42, "blob": b"\x00\xff"}, "report": report})
        self.assertEqual((report["pages"], report["chunks"]), (3, 2))
        sender.settled.result(WAIT)
        receiver.settled.result(WAIT)
        landed = target._memory[0].map
        first = [landed[page * PAGE] for page in range(PAGES)]
        self.assertEqual(first, [0, 2, 0, 0, 0, 1, 0, 3])
        self.fails("ERR_KVX_INVALID_STATE", sender.write(tokens=(0, 4), pages=[2]))
        sender.abort()

    def test_pages_may_be_given_late(self):
        source, target = self.pair()
        sender = source.send(1, IDS)
        receiver = target.receive(1, IDS, source=source.bootstrap)
        receiver.reserve().result(WAIT)
        sender.ready().result(WAIT)
        receiver.wanted().result(WAIT)
        receiver.provide(pages=[0, 1, 2]).result(WAIT)
        sender.reserved().result(WAIT)
        sender.write(tokens=(0, 10), pages=[0, 1, 2]).result(WAIT)
        sender.finish().result(WAIT)
        self.assertEqual(receiver.done.result(WAIT)["aux"], {})

    def test_errors_are_those_of_kvx(self):
        source, target = self.pair()
        source.send(1, IDS)
        self.fails("ERR_KVX_ROOM_IN_USE", lambda: source.send(1, IDS))
        receiver = target.receive(1, IDS[::-1], source=source.bootstrap)
        refused = self.fails("ERR_KVX_PROMPT_MISMATCH", receiver.reserve(pages=[0, 1, 2]))
        self.assertEqual((refused.phase, refused.retryable), ("reserve", False))
        self.assertIn("prefill", refused.peer)
        self.fails("ERR_KVX_PROMPT_MISMATCH", receiver.done)
        receiver.settled.result(WAIT)
        self.fails("ERR_KVX_INVALID_OPTION", lambda: decode(token="short"))
        self.fails("ERR_KVX_BACKEND_NOT_INSTALLED", lambda: decode(backend="carrier-pigeon"))
        self.fails("ERR_KVX_INVALID_OPTION", lambda: decode(surprise=1))
        self.fails("ERR_KVX_MEMORY", lambda: decode(memory=[Unsealed()]))

    def test_an_abort_ends_the_request_on_both_sides(self):
        source, target = self.pair()
        sender = source.send(1, IDS)
        receiver = target.receive(1, IDS, source=source.bootstrap)
        receiver.reserve(pages=[0, 1, 2]).result(WAIT)
        sender.reserved().result(WAIT)
        receiver.abort("nobody wants the answer any more")
        self.fails("ERR_KVX_ABORTED", receiver.done)
        receiver.settled.result(WAIT)
        sender.settled.result(WAIT)
        self.assertIn("nobody wants", str(self.fails("ERR_KVX_ABORTED", sender.write(tokens=(0, 4), pages=[0]))))

    def test_a_deadline_ends_a_wait(self):
        source, _ = self.pair()
        sender = source.send(1, IDS, deadlines={"pairing": 100})
        self.fails("ERR_KVX_TIMEOUT", sender.reserved())

    def test_a_node_process_that_dies_fails_all_that_waits_here_and_at_the_peer(self):
        source, target = self.pair()
        sender = source.send(1, IDS)
        receiver = target.receive(1, IDS, source=source.bootstrap)
        receiver.reserve(pages=[0, 1, 2]).result(WAIT)
        sender.reserved().result(WAIT)
        target._process.kill()
        self.fails("ERR_KVX_CLOSED", receiver.done)
        self.fails("ERR_KVX_CLOSED", receiver.settled)
        self.fails("ERR_KVX_CLOSED", receiver.wanted())
        self.fails("ERR_KVX_CLOSED", lambda: target.receive(2, IDS, source=source.bootstrap))
        sender.settled.result(WAIT)
        self.fails("ERR_KVX_PEER_LOST", sender.finish())

    def test_a_node_process_that_is_frozen_is_killed(self):
        source, _ = self.pair()
        sender = source.send(1, IDS)
        os.kill(source._process.pid, signal.SIGSTOP)
        self.addCleanup(setattr, kvx, "SILENT_SECONDS", kvx.SILENT_SECONDS)
        kvx.SILENT_SECONDS = 1
        self.fails("ERR_KVX_CLOSED", sender.reserved())
        self.assertEqual(source._process.wait(WAIT), -signal.SIGKILL)

    def test_the_node_process_ends_when_the_manager_is_closed(self):
        manager = decode()
        manager.close()
        self.assertEqual(manager._process.returncode, 0)
        manager.close()

    def test_the_node_process_ends_with_a_python_that_is_killed(self):
        for forks in ("", "forks"):
            with self.subTest(forks), Child(forks) as child:
                os.kill(child.python, signal.SIGKILL)
                self.assertTrue(gone(child.node))

    def test_a_peer_learns_that_a_python_was_killed(self):
        source = prefill()
        self.addCleanup(source.close)
        sender = source.send(1, IDS)
        with Child("receives", TOKEN, source.bootstrap) as child:
            sender.reserved().result(WAIT)
            os.kill(child.python, signal.SIGKILL)
            sender.settled.result(WAIT)
            failure = self.fails("ERR_KVX_CLOSED", sender.finish())
            self.assertIn("The decode manager was closed", str(failure))

    def test_a_fork_is_told_to_open_its_own(self):
        manager = decode()
        self.addCleanup(manager.close)
        child = os.fork()
        if child == 0:
            try:
                manager.drain(1)
            except kvx.KvxError as error:
                os._exit(7 if error.code == "ERR_KVX_INVALID_STATE" else 8)
            os._exit(9)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 7)

    def test_a_node_that_cannot_be_started_is_named(self):
        failure = self.fails("ERR_KVX_BACKEND_UNAVAILABLE", lambda: decode(node="/nowhere/node"))
        self.assertIn("/nowhere/node", str(failure))

    def test_gpu_memory_is_named_by_the_handle_of_its_allocation_and_an_offset(self):
        driver = self.driver()
        memory = kvx.CudaMemory(BASE + 512, 4096, 1)
        handle = base64.b64encode(bytes(range(64))).decode()
        expected = {"kind": "cuda", "device": 1, "address": str(BASE + 512), "bytes": 4096}
        self.assertEqual(memory.description, {**expected, "handle": handle, "offset": 512})
        self.assertEqual(driver.contexts, [])

    def test_gpu_memory_that_cannot_be_shared_is_refused(self):
        driver = self.driver(refuses="cuIpcGetMemHandle")
        failure = self.fails("ERR_KVX_MEMORY", lambda: kvx.CudaMemory(BASE, 4096, 0))
        self.assertIn("expandable segments", str(failure))
        self.assertEqual(driver.contexts, [])
        self.driver(refuses="cuInit")
        self.fails("ERR_KVX_MEMORY", lambda: kvx.CudaMemory(BASE, 4096, 0))
        self.driver()
        failure = self.fails("ERR_KVX_MEMORY", lambda: kvx.CudaMemory(BASE + SIZE - 4095, 4096, 0))
        self.assertIn("after 4095 of 4096 bytes", str(failure))

    def test_gpu_memory_that_the_engine_cannot_take_is_refused(self):
        self.driver()
        nowhere = 4095  # a device that no machine has
        for kind in (prefill, decode):
            self.fails("ERR_KVX_MEMORY", lambda kind=kind: kind(memory=[kvx.CudaMemory(BASE, PAGES * PAGE, nowhere)]))

    def driver(self, **does):
        """In the place of libcuda, which this machine need not have."""
        driver = Driver(**does)
        self.addCleanup(setattr, kvx.ctypes, "CDLL", kvx.ctypes.CDLL)
        kvx.ctypes.CDLL = lambda name: driver
        return driver


BASE, SIZE = 0x7F00_0000_0000, 1 << 20  # of the only allocation


class Driver:
    """The part of a CUDA driver that gives handles out."""

    def __init__(self, refuses=None):
        self.contexts = []  # those that are retained, and the current one
        number, address, bytes_, pointer, one, handle = (
            *(ctypes.c_int, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p),
            *(ctypes.POINTER, ctypes.POINTER(ctypes.c_ubyte * 64)),
        )
        functions = {
            "cuInit": (lambda flags: 0, number),
            "cuDeviceGet": (lambda to, ordinal: self._set(to, ordinal), one(number), number),
            "cuDevicePrimaryCtxRetain": (lambda to, device: self._begins("retained"), one(pointer), number),
            "cuCtxPushCurrent": (lambda context: self._begins("current"), pointer),
            "cuMemGetAddressRange": (
                lambda base, size, at: self._set(base, BASE) or self._set(size, SIZE),
                *(one(address), one(bytes_), address),
            ),
            "cuIpcGetMemHandle": (lambda to, at: self._set(to, tuple(range(64))), handle, address),
            "cuCtxPopCurrent": (lambda to: self._ends("current"), one(pointer)),
            "cuDevicePrimaryCtxRelease": (lambda device: self._ends("retained"), number),
        }
        if refuses is not None:
            functions[refuses] = (lambda *_: 1, *functions[refuses][1:])
        self._functions = {
            name.encode(): ctypes.CFUNCTYPE(number, *types)(function) for name, (function, *types) in functions.items()
        }

    def cuGetProcAddress_v2(self, name, found, version, flags, status):
        found._obj.value = ctypes.cast(self._functions[name], ctypes.c_void_p).value
        return 0

    def _begins(self, what):
        self.contexts.append(what)
        return 0

    def _ends(self, what):
        self.contexts.remove(what)
        return 0

    @staticmethod
    def _set(to, value):
        to[0] = value
        return 0


class Unsealed:
    def __init__(self):
        self._file = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
        os.ftruncate(self._file, PAGES * PAGE)
        self.description = {"kind": "cpu", "bytes": PAGES * PAGE, "fd": self._file}

    def __del__(self):
        os.close(self._file)


class Child:
    """This file as another process: `python`, with a manager and so a process `node`. It ends with its standard input."""

    def __init__(self, *arguments):
        self._process = subprocess.Popen(
            [sys.executable, __file__, "child", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.python = self._process.pid
        self.node = int(self._process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(WAIT)
        self._process.stdout.close()


def child(does, token=TOKEN, bootstrap=None):
    global TOKEN
    TOKEN = token
    manager = decode()
    if does == "receives":
        receiver = manager.receive(1, IDS, source=bootstrap)
        receiver.reserve(pages=[0, 1, 2]).result(WAIT)
    if does == "forks" and os.fork() == 0:
        os.close(1)
        sys.stdin.read()
        os._exit(0)
    print(manager._process.pid, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(*sys.argv[2:])
    else:
        unittest.main()
