"""Workloads on large files, and fsync."""

import os
import random
import subprocess
import threading
import time

from context import MIB, WorkloadError, copy_in, fio, latencies, now

FSYNCS = 100
ROUNDS = 5
OVERWRITES = 2048
OVERWRITE_BYTES = 4096


def seqwrite(context):
    """Writes the random file in 1 MiB pieces, then fsync."""
    return copy_in(context, "random.bin", "seq", context.seq_mib)


def seqread(context):
    """Reads it back in 1 MiB pieces."""
    buffer = bytearray(MIB)
    amount = 0
    start = now()
    with open(context.path("seq"), "rb", buffering=0) as file:
        while (count := file.readinto(buffer)) and not context.expired():
            amount += count
    return {"t": now() - start, "MiB": amount / MIB}


def seqread_warm(context):
    """The same right after it, nothing dropped: the caches of the peer and of the kernel."""
    return seqread(context)


def verify(context):
    """Compares every byte with the source."""
    start = now()
    with open(context.path("seq"), "rb") as stored, open(context.source("random.bin"), "rb") as source:
        for number in range(context.seq_mib):
            if stored.read(MIB) != source.read(MIB):
                raise WorkloadError(f"content differs in MiB {number}")
        if stored.read(1):
            raise WorkloadError("file is longer than written")
    return {"t": now() - start, "MiB": context.seq_mib}


def randprep(context):
    """Writes the file for the random reads and writes; other content than `seq`, so deduplication gains nothing."""
    return copy_in(context, "random2.bin", "rnd", context.rand_mib)


def randmiss(context):
    """Single 4 KiB reads far apart on a cold cache, timed one by one: what a miss costs."""
    spots = random.Random(3).sample(range(context.rand_mib), min(64, context.rand_mib))
    times = []
    start = now()
    with open(context.path("rnd"), "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for spot in spots:
            if context.expired():
                break
            begin = now()
            os.pread(file.fileno(), 4096, spot * MIB)
            times.append(now() - begin)
    return {"t": now() - start, "done": len(times), "of": len(spots), **latencies(times)}


def randread1_cold(context):
    """Random 4 KiB reads for 8 s, cold at first. A blend: peers that fetch whole files are soon warm."""
    return fio(context, "randread", seconds=8)


def randread1_warm(context):
    return fio(context, "randread", seconds=4, options=["--invalidate=0"])


def randread4_cold(context):
    """The same with four processes."""
    return fio(context, "randread", seconds=8, jobs=4)


def randread4_warm(context):
    return fio(context, "randread", seconds=4, jobs=4, options=["--invalidate=0"])


def randread_cached(context):
    """Random 4 KiB reads for 4 s of a file that has just been read whole."""
    with open(context.path("rnd"), "rb", buffering=0) as file:
        while file.read(MIB):
            pass
    return fio(context, "randread", seconds=4, options=["--invalidate=0"])


def overwrites(context):
    """Where, in 4 KiB blocks, and what: the same for each run."""
    generator = random.Random(7)
    blocks = context.rand_mib * MIB // OVERWRITE_BYTES
    spots = generator.sample(range(blocks), min(OVERWRITES, blocks))
    return [(spot * OVERWRITE_BYTES, generator.randbytes(OVERWRITE_BYTES)) for spot in spots]


def randwrite(context):
    """2048 random 4 KiB overwrites (8 MiB), cold, then one fsync."""
    changes = overwrites(context)
    done = 0
    start = now()
    file = os.open(context.path("rnd"), os.O_WRONLY)
    for offset, content in changes:
        if context.expired():
            break
        os.pwrite(file, content, offset)
        done += 1
    os.fsync(file)
    elapsed = now() - start
    os.close(file)
    return {"t": elapsed, "done": done, "of": len(changes)}


def overread(context):
    """Reads that file whole, cold, and compares it with what it must be now."""
    start = now()
    found = context.path("rnd").read_bytes()
    elapsed = now() - start
    wanted = bytearray(context.source("random2.bin").read_bytes()[: context.rand_mib * MIB])
    for offset, content in overwrites(context):
        wanted[offset : offset + OVERWRITE_BYTES] = content
    if found != wanted:
        raise WorkloadError("the file is not what was written")
    return {"t": elapsed, "MiB": context.rand_mib}


# ---------------------------------------------------------------- fsync


def fsync(context):
    """100 appends of 4 KiB, each followed by fsync."""
    return append_and_fsync(context, "log")


def fsync_mixed(context):
    """The same while another process streams a large file into the same file system; ends with that stream."""
    stream = context.path("stream")
    writer = subprocess.Popen(["cp", context.source("random.bin"), stream])
    try:
        while writer.poll() is None and not (stream.exists() and stream.stat().st_size >= 16 * MIB):
            time.sleep(0.005)  # let it get going
        before = stream.stat().st_size
        figures = append_and_fsync(context, "log-mixed", stop=lambda: writer.poll() is not None)
        figures["stream_MiBps"] = round((stream.stat().st_size - before) / MIB / figures["t"], 1)
    finally:
        writer.kill()
        writer.wait()
        stream.unlink()  # nobody waits for its upload
    return figures


def append_and_fsync(context, name, stop=lambda: False):
    block = os.urandom(4096)
    times = []
    file = os.open(context.path(name), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    start = now()
    while len(times) < FSYNCS and not context.expired() and not stop():
        begin = now()
        os.write(file, block)
        os.fsync(file)
        times.append(now() - begin)
    elapsed = now() - start
    os.close(file)
    if not times:
        raise WorkloadError("not one fsync before the stream ended")
    return {"t": elapsed, "done": len(times), "of": FSYNCS, **latencies(times)}


def fsync_parallel(context):
    """100 files appended to and fsynced at the same moment; median of five rounds until the last has returned."""
    block = os.urandom(4096)
    files = [os.open(context.path(f"at-once-{n}"), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644) for n in range(FSYNCS)]
    times = []

    def append(file, barrier):
        barrier.wait()
        os.write(file, block)
        os.fsync(file)

    while len(times) < ROUNDS and not context.expired():
        barrier = threading.Barrier(FSYNCS + 1)
        threads = [threading.Thread(target=append, args=(file, barrier)) for file in files]
        for thread in threads:
            thread.start()
        barrier.wait()
        start = now()
        for thread in threads:
            thread.join()
        times.append(now() - start)
    for file in files:
        os.close(file)
    return {"t": sum(times), "done": len(times), "of": ROUNDS, **latencies(times)}
