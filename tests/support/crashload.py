#!/usr/bin/env python3
"""A write load whose every prefix can be told from everything else.

    crashload.py write DIR LOG SEED WRITERS [--kill-after-fsync N PID]   until the drive dies
    crashload.py verify DIR LOG SEED WRITERS                            prints what DIR shows, as JSON

Each writer has a directory of its own below DIR. Its load is a sequence of steps
drawn from SEED, so a verifier can play it again in memory. The directory is right if
it equals the model after some step, and that step is not before what an fsync has
acknowledged (a SEED that ends in "quiet" has none):

    step 1   2   3   ...   safe   ...   shown   ...   tried
                            |<--- may be shown --->|

An fsync promises everything before it, whoever wrote it: so what is safe of one
writer may be known from an fsync of another. LOG lies on another disk: of each writer
the step that was tried last, how many fsyncs were acknowledged, whether it was
within one, and the step of every writer up to which its last fsync made them safe.

Each step is one change of the tree, which a reader sees whole or not at all. Two are
not: of an append there may be the beginning, and a large file, written in many
requests at once, may hold anything until its fsync has returned.
"""

import hashlib
import json
import mmap
import os
import random
import signal
import stat
import struct
import sys

SMALL_BYTES_MAX = 60_000  # one WRITE request of the kernel
LARGE_BYTES = 5_000_000
# How often each operation is drawn.
WEIGHTS = {
    "create": 20, "append": 20, "overwrite": 6, "rename": 10, "replace": 6, "unlink": 6, "link": 3, "mkdir": 3,
    "movedir": 1, "truncate": 4, "symlink": 2, "xattr": 3, "chmod": 2, "fsync": 6, "fsyncdir": 3, "large": 0.5,
}
SYNCED = ("fsync", "fsyncdir", "large")


class Log:
    """One row of numbers a writer, in a mapped file: they survive whatever happens to the writers."""

    TRIED, FSYNCS, WITHIN, SAFE = range(4)

    def __init__(self, path, writers, fresh):
        self.writers, self.width = writers, self.SAFE + writers
        size = 8 * self.width * writers
        if fresh:
            with open(path, "wb") as file:
                file.write(bytes(size))
        self.file = open(path, "r+b")
        self.map = mmap.mmap(self.file.fileno(), size)

    def get(self, writer, column):
        return struct.unpack_from("<Q", self.map, 8 * (writer * self.width + column))[0]

    def put(self, writer, column, value):
        struct.pack_into("<Q", self.map, 8 * (writer * self.width + column), value)

    def begin(self, writer, step):
        """A step that may be an fsync begins. Returns what is safe if it is one and succeeds."""
        self.put(writer, self.TRIED, step)
        return [max(0, self.get(other, self.TRIED) - (other != writer)) for other in range(self.writers)]

    def fsynced(self, writer, promised):
        for other, step in enumerate(promised):
            self.put(writer, self.SAFE + other, step)
        self.put(writer, self.FSYNCS, self.get(writer, self.FSYNCS) + 1)

    def tried(self, writer):
        return self.get(writer, self.TRIED)

    def safe(self, writer):
        return max(self.get(other, self.SAFE + writer) for other in range(self.writers))

    def total(self, column):
        return sum(self.get(writer, column) for writer in range(self.writers))


def content(seed, step, size):
    return random.Random(f"{seed} {step}").randbytes(size)


def steps(seed):
    """The endless sequence of (operation, arguments). Knows what exists, so that each step succeeds."""
    generator = random.Random(seed)
    weights = {kind: weight for kind, weight in WEIGHTS.items() if kind not in SYNCED or not seed.endswith("quiet")}
    files, folders, number = [], [""], 0

    def new_name():
        nonlocal number
        number += 1
        return os.path.join(generator.choice(folders), f"{number:06}")

    while True:
        kind = generator.choices(list(weights), weights.values())[0]
        if kind == "create" or (not files and kind not in ("mkdir", "fsyncdir")):
            name = new_name()
            files.append(name)
            yield ("create", name)
            yield ("append", name, generator.randrange(1, SMALL_BYTES_MAX))
        elif kind == "append":
            yield ("append", generator.choice(files), generator.randrange(1, SMALL_BYTES_MAX))
        elif kind == "overwrite":
            yield ("overwrite", generator.choice(files), generator.randrange(1, 4096))
        elif kind == "rename":
            old, new = generator.choice(files), new_name()
            files[files.index(old)] = new
            yield ("rename", old, new)
        elif kind == "replace" and len(files) > 1:
            old, new = generator.sample(files, 2)
            files.remove(old)
            yield ("rename", old, new)
        elif kind == "unlink" and len(files) > 20:
            name = files.pop(generator.randrange(len(files)))
            yield ("unlink", name)
        elif kind == "link":
            name = new_name()
            yield ("link", generator.choice(files), name)
            files.append(name)
        elif kind == "mkdir" and len(folders) < 40:
            folders.append(new_name())
            yield ("mkdir", folders[-1])
        elif kind == "movedir" and len(folders) > 1:
            old = generator.choice(folders[1:])
            number += 1
            new = f"{number:06}"
            moved = lambda path: new + path[len(old):] if path == old or path.startswith(old + "/") else path
            files[:] = map(moved, files)
            folders[:] = map(moved, folders)
            yield ("rename", old, new)
        elif kind == "truncate":
            yield ("truncate", generator.choice(files), generator.randrange(0, 100_000))
        elif kind == "symlink":
            yield ("symlink", f"to {number}", new_name())
        elif kind in ("xattr", "chmod"):
            yield (kind, generator.choice(files), generator.randrange(0o400, 0o777))
        elif kind == "fsync":
            yield ("fsync", generator.choice(files))
        elif kind == "fsyncdir":
            yield ("fsync", generator.choice(folders))
        elif kind == "large":
            name = new_name()
            files.append(name)
            yield ("create", name)
            yield ("large", name)


# ---------------------------------------------------------------- on the drive


def perform(top, seed, step, operation):
    """One step on the drive. Returns whether everything so far is now acknowledged."""
    kind, path = operation[0], os.path.join(top, operation[1])
    if kind == "create":
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    elif kind == "append":
        write(path, os.O_APPEND, content(seed, step, operation[2]))
    elif kind == "overwrite":
        write(path, 0, content(seed, step, operation[2]))
    elif kind == "rename":
        os.rename(path, os.path.join(top, operation[2]))
    elif kind == "unlink":
        os.unlink(path)
    elif kind == "link":
        os.link(path, os.path.join(top, operation[2]))
    elif kind == "mkdir":
        os.mkdir(path)
    elif kind == "truncate":
        os.truncate(path, operation[2])
    elif kind == "symlink":
        os.symlink(operation[1], os.path.join(top, operation[2]))
    elif kind == "xattr":
        os.setxattr(path, "user.step", b"%d" % step)
    elif kind == "chmod":
        os.chmod(path, operation[2])
    elif kind == "large":
        write(path, 0, content(seed, step, LARGE_BYTES), sync=True)
        return True
    elif kind == "fsync":
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
        return True
    return False


def write(path, flags, data, sync=False):
    file = os.open(path, os.O_WRONLY | flags)
    try:
        while data:
            data = data[os.write(file, data):]
        if sync:
            os.fsync(file)
    finally:
        os.close(file)


def run(top, log, writer, seed, kill_after_fsync, daemon):
    for step, operation in enumerate(steps(seed), 1):
        promised = log.begin(writer, step)
        log.put(writer, Log.WITHIN, operation[0] in ("fsync", "large"))
        try:
            done = perform(top, seed, step, operation)
        except OSError as error:
            if kill_after_fsync and writer == 0:
                raise SystemExit(f"step {step}, {operation}: {error}") from None
            return
        log.put(writer, Log.WITHIN, False)
        if done:
            log.fsynced(writer, promised)
            if writer == 0 and log.get(writer, Log.FSYNCS) == kill_after_fsync:
                os.kill(daemon, signal.SIGKILL)
                return


def run_all(top, log, seed, writers, *kill):
    """Every writer in a process of its own; says when they begin, ends when all have."""
    os.umask(0)
    children = []
    folders = [os.path.join(top, f"{writer}") for writer in range(writers)]
    for folder in folders:
        os.mkdir(folder)
    print("writing", flush=True)
    for writer, folder in enumerate(folders):
        child = os.fork()
        if not child:
            try:
                run(folder, log, writer, writer_seed(seed, writer), *kill)
            except BaseException as error:  # noqa: B036 - a child must not return into its parent's code
                print(f"writer {writer}: {error!r}", file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        children.append(child)
    if any([os.waitpid(child, 0)[1] for child in children]):
        raise SystemExit("a writer failed before the drive died")


def writer_seed(seed, writer):
    """A seed that ends in "quiet" still does."""
    return f"{writer} {seed}"


# ---------------------------------------------------------------- the model


class Node:
    """A file, a directory or a symbolic link of the model."""

    def __init__(self, kind, mode, data=b""):
        self.kind, self.mode, self.data, self.xattr, self.links = kind, mode, bytearray(data), None, 1
        self.digest = None

    def show(self):
        if self.digest is None:
            self.digest = hashlib.sha256(self.data).hexdigest()
        return (self.kind, self.mode, self.digest, self.xattr, self.links if self.kind == "file" else 0)


def apply(tree, seed, step, operation):
    """The same step in the model, a map from path to Node."""
    kind, path = operation[0], operation[1]
    node = tree.get(path)
    if kind == "create":
        tree[path] = Node("file", 0o644)
    elif kind == "append":
        node.data += content(seed, step, operation[2])
    elif kind == "overwrite":
        node.data[: operation[2]] = content(seed, step, operation[2])
    elif kind == "large":
        node.data = bytearray(content(seed, step, LARGE_BYTES)) + node.data[LARGE_BYTES:]
    elif kind == "rename":
        rename(tree, path, operation[2])
    elif kind == "unlink":
        tree.pop(path).links -= 1
    elif kind == "link":
        tree[operation[2]] = node
        node.links += 1
    elif kind == "mkdir":
        tree[path] = Node("dir", 0o777)
    elif kind == "truncate":
        size = operation[2]
        node.data = node.data[:size] + bytes(max(0, size - len(node.data)))
    elif kind == "symlink":
        tree[operation[2]] = Node("symlink", 0o777, operation[1].encode())
    elif kind == "xattr":
        node.xattr = b"%d" % step
    elif kind == "chmod":
        node.mode = operation[2]
    if node and kind in ("append", "overwrite", "large", "truncate"):
        node.digest = None


def rename(tree, old, new):
    if new in tree:
        if tree[new] is tree[old]:
            return  # two names of one file: POSIX says that nothing happens
        tree[new].links -= 1
    for path in [path for path in tree if path == old or path.startswith(old + "/")]:
        tree[new + path[len(old):]] = tree.pop(path)


def observe(top):
    """What the drive shows, in the form of Node.show."""
    seen = {}
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            mode, xattr, links = stat.S_IMODE(status.st_mode), None, 0
            if stat.S_ISLNK(status.st_mode):
                kind, data = "symlink", os.readlink(path).encode()
            elif stat.S_ISDIR(status.st_mode):
                kind, data = "dir", b""
            else:
                kind, links = "file", status.st_nlink
                with open(path, "rb") as file:
                    data = file.read()
                if "user.step" in os.listxattr(path):
                    xattr = os.getxattr(path, "user.step")
            seen[os.path.relpath(path, top)] = (kind, mode, hashlib.sha256(data).hexdigest(), xattr, links)
    return seen


def matches(top, tree, seen, seed, step, coming):
    """Whether the drive shows the model after `step`, with the step after it perhaps begun."""
    if tree.keys() != seen.keys():
        return False
    begun = tree[coming[1]] if coming[0] in ("append", "large") else None
    for path, node in tree.items():
        want, have = node.show(), seen[path]
        if want != have and not (
            node is begun and want[:2] + want[3:] == have[:2] + have[3:] and may_show(top, path, node, seed, step, coming)
        ):
            return False
    return True


def may_show(top, path, node, seed, step, coming):
    """One write() is several requests to the drive if the kernel wants it so. They come in their order."""
    if coming[0] == "large":
        return True
    with open(os.path.join(top, path), "rb") as file:
        data = file.read()
    after = bytes(node.data) + content(seed, step + 1, coming[2])
    return len(data) >= len(node.data) and after.startswith(data)


def replay(safe, tried, seed):
    """Every state that a writer's directory may show: step, tree, and the step that comes next."""
    tree = {}
    sequence = steps(seed)
    coming = next(sequence)
    for step in range(tried + 1):
        if step:
            apply(tree, seed, step, coming)
            coming = next(sequence)
        if step >= safe:
            yield step, tree, coming


def shown_step(top, safe, tried, seed):
    """The step that a writer's directory shows."""
    seen = observe(top)
    for step, tree, coming in replay(safe, tried, seed):
        if matches(top, tree, seen, seed, step, coming):
            return step
    nearest = min((differences(tree, seen), step) for step, tree, _ in replay(safe, tried, seed))
    raise SystemExit(
        f"{top}: no prefix: safe {safe}, tried {tried}; nearest is step {nearest[1]}, "
        f"where {nearest[0][0]} entries differ, (path, expected, found): {nearest[0][1]}"
    )


def verify(top, log, seed):
    """What was shown, and what was at risk: steps begun that no fsync had made safe."""
    shown = []
    for writer in range(log.writers):
        safe, tried = log.safe(writer), log.tried(writer)
        folder = os.path.join(top, f"{writer}")
        step = 0
        if os.path.isdir(folder) or safe:
            step = shown_step(folder, safe, tried, writer_seed(seed, writer))
        shown.append({"safe": safe, "shown": step, "tried": tried})
    print(json.dumps({
        "fsyncs": log.total(Log.FSYNCS),
        "within_fsync": log.total(Log.WITHIN),
        "at_risk": sum(each["tried"] - each["safe"] for each in shown),
        "dropped": sum(each["tried"] - each["shown"] for each in shown),
        "writers": shown,
    }))


def differences(tree, seen):
    shown = {path: node.show() for path, node in tree.items()}
    wrong = sorted(path for path in shown.keys() | seen.keys() if shown.get(path) != seen.get(path))
    return len(wrong), str([(path, shown.get(path), seen.get(path)) for path in wrong[:3]])


def main():
    command, top, log, seed, writers = sys.argv[1:6]
    log = Log(log, int(writers), fresh=command == "write")
    if command == "verify":
        verify(top, log, seed)
    else:
        kill = (int(sys.argv[7]), int(sys.argv[8])) if len(sys.argv) > 6 else (0, 0)
        run_all(top, log, seed, int(writers), *kill)


if __name__ == "__main__":
    main()
