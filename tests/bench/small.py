"""Workloads on many small files, and on one big directory."""

import os
import random
from pathlib import Path

from context import WorkloadError, command, fsync_directory, latencies, now

SMALL_FILE_BYTES = 4096
MEMORY_FILES_BY_FILES = 5  # the more the steadier
SAMPLES = 200  # single operations timed one by one


def create(context):
    """Creates files of 4 KiB in one directory, then fsync of the directory."""
    directory = context.path("small")
    directory.mkdir()
    content = os.urandom(SMALL_FILE_BYTES)
    done = 0
    start = now()
    while done < context.files and not context.expired():
        (directory / f"f{done:05}").write_bytes(content)
        done += 1
    note = fsync_directory(directory)
    return {"t": now() - start, "done": done, "of": context.files, "note": note}


def stat(context):
    """`ls -lR` of that directory, cold."""
    start = now()
    listing = command(["ls", "-lR", context.path("small")])
    return {"t": now() - start, "done": listing.count("\n") - 2}


def readsmall(context):
    """Reads all of them, after the listing."""
    directory = context.path("small")
    done = 0
    start = now()
    names = os.listdir(directory)
    for name in names:
        if context.expired():
            break
        content = (directory / name).read_bytes()
        if len(content) != SMALL_FILE_BYTES:
            raise WorkloadError(f"{name}: {len(content)} bytes instead of {SMALL_FILE_BYTES}")
        done += 1
    return {"t": now() - start, "done": done, "of": len(names)}


def rename(context):
    """Renames the directory that holds them, then fsync of its parent."""
    old, new = context.path("small"), context.path("renamed")
    before = len(os.listdir(old))
    start = now()
    old.rename(new)
    note = fsync_directory(context.mnt)
    elapsed = now() - start
    after = len(os.listdir(new))
    if after != before:
        raise WorkloadError(f"{before} entries before, {after} after")
    return {"t": elapsed, "entries": after, "note": note}


def unlink(context):
    """Deletes them and their directory."""
    directory = next(path for path in (context.path("renamed"), context.path("small")) if path.is_dir())
    names = os.listdir(directory)
    done = 0
    start = now()
    for name in names:
        if context.expired():
            break
        (directory / name).unlink()
        done += 1
    if done == len(names):
        directory.rmdir()
    note = fsync_directory(context.mnt)
    return {"t": now() - start, "done": done, "of": len(names), "note": note}


def untar(context):
    """Unpacks the tree of small files with tar."""
    target = context.path("tree")
    target.mkdir()
    start = now()
    command(["tar", "xf", context.source("tree.tar"), "-C", target])
    note = fsync_directory(target)
    return {"t": now() - start, "note": note}


def treecheck(context):
    """SHA-256 of every file of that tree, cold."""
    sums = context.source("tree.sha256")
    start = now()
    command(["sha256sum", "-c", "--quiet", sums], cwd=context.path("tree"))
    return {"t": now() - start}


def gitclone(context):
    """git clone from a local repository, nothing hard-linked."""
    start = now()
    command(["git", "clone", "-q", "--no-hardlinks", context.source("repo.git"), context.path("clone")])
    return {"t": now() - start}


def gitstatus(context):
    """git status in that clone, cold."""
    start = now()
    changed = command(["git", "-C", context.path("clone"), "status", "--porcelain"])
    if changed:
        raise WorkloadError(f"git sees changes: {changed[:200]}")
    return {"t": now() - start}


# ---------------------------------------------------------------- answers from memory


def mem_create(context):
    """Creates empty files, nothing waited for: what the file system itself takes."""
    directory = context.path("memory")
    directory.mkdir()
    return timed(context, lambda name: os.close(os.open(directory / name, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644)))


def mem_stat(context):
    """stat of each; the kernel has forgotten their names, the file system has not."""
    Path("/proc/sys/vm/drop_caches").write_text("2\n")
    directory = context.path("memory")
    return timed(context, lambda name: os.stat(directory / name))


def mem_unlink(context):
    directory = context.path("memory")
    return timed(context, lambda name: os.unlink(directory / name))


def timed(context, operation):
    """Does it for many names."""
    names = [f"m{number:06}" for number in range(MEMORY_FILES_BY_FILES * context.files)]
    done = 0
    start = now()
    for name in names:
        if done % 100 == 0 and context.expired():
            break
        operation(name)
        done += 1
    return {"t": now() - start, "done": done, "of": len(names)}


# ---------------------------------------------------------------- one big directory, and one of 2,000


def bigdir(context):
    """Creates empty files in one directory (100,000 at full size)."""
    return fill(context, "big", context.bigdir)


def bigdir_ls(context):
    """`ls -f` of it, cold: names only, in directory order."""
    return list_names(context, "big")


def bigdir_stat(context):
    """stat of single random names in it, cold, without a listing before."""
    return stat_some(context, "big", context.bigdir)


def dir2k(context):
    """The same with as many files as `create` makes: what the large one is compared with."""
    return fill(context, "dir2k", context.files)


def dir2k_ls(context):
    return list_names(context, "dir2k")


def dir2k_stat(context):
    return stat_some(context, "dir2k", context.files)


def fill(context, name, count):
    directory = context.path(name)
    directory.mkdir()
    done = 0
    start = now()
    while done < count and not context.expired():
        os.close(os.open(directory / entry_name(done), os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644))
        done += 1
    note = fsync_directory(directory)
    return {"t": now() - start, "done": done, "of": count, "note": note}


def list_names(context, name):
    start = now()
    listing = command(["ls", "-f", context.path(name)])
    return {"t": now() - start, "done": len(set(listing.split())) - 2}


def stat_some(context, name, created):
    times = []
    missing = 0
    for number in random.Random(5).sample(range(created), min(SAMPLES, created)):
        if context.expired():
            break
        begin = now()
        try:
            os.stat(context.path(name) / entry_name(number))
        except FileNotFoundError:  # making them may have stopped at its deadline
            missing += 1
        times.append(now() - begin)
    return {"t": sum(times), "done": len(times), "absent": missing, **latencies(times)}


def entry_name(number):
    return f"entry-{number:06}"
