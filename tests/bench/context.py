"""What every workload has: where to work and how much, and the parts that several share."""

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20

now = time.perf_counter


@dataclass
class Context:
    """Where to work, on what data, and how much."""

    mnt: str  # absolute, as is `data`
    data: str
    seq_mib: int
    rand_mib: int
    files: int
    bigdir: int
    timeout: float
    deadline: float = 0.0  # on the clock of `now`, set in the child

    def path(self, name):
        return Path(self.mnt, name)

    def source(self, name):
        return Path(self.data, name)

    def expired(self):
        """Workloads that count stop here and report how far they came."""
        return now() > self.deadline


class WorkloadError(Exception):
    """The file system gave a wrong result, or a tool failed on it."""


def copy_in(context, source, target, mib):
    amount = 0
    start = now()
    with open(context.source(source), "rb") as reader:
        with open(context.path(target), "wb", buffering=0) as writer:
            while amount < mib * MIB and not context.expired():
                piece = reader.read(MIB)
                if not piece:
                    raise WorkloadError(f"{source} is smaller than {mib} MiB: run `bench.py prepare` for that size")
                if writer.write(piece) != len(piece):
                    raise WorkloadError("short write")
                amount += len(piece)
            os.fsync(writer.fileno())
    return {"t": now() - start, "MiB": amount / MIB, "done": amount // MIB, "of": mib}


def fsync_directory(directory):
    """fsync of a directory; some file systems refuse it, which is noted and not an error."""
    file = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(file)
        return None
    except OSError as error:
        return f"fsync of directory: {error.strerror}"
    finally:
        os.close(file)


def latencies(times):
    if not times:
        return {}
    ordered = sorted(times)
    at = lambda part: round(ordered[min(len(ordered) - 1, int(part * len(ordered)))] * 1e3, 3)
    return {"median_ms": at(0.5), "p95_ms": at(0.95), "max_ms": at(1.0)}


def command(words, cwd=None):
    """Runs a program to its end, however long that takes: bench.py kills what overstays."""
    done = subprocess.run(list(map(str, words)), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise WorkloadError(f"{words[0]}: exit {done.returncode}: {(done.stderr or done.stdout)[-300:]}")
    return done.stdout


def fio(context, pattern, seconds=0, jobs=1, options=()):
    """4 KiB random I/O at queue depth 1 per job on the file of `randprep`."""
    file = context.path("rnd")
    if file.stat().st_size != context.rand_mib * MIB:  # fio would quietly write it anew
        raise WorkloadError(f"{file.name} has {file.stat().st_size} bytes")
    words = ["fio", "--name=job", f"--filename={file}", f"--rw={pattern}", "--bs=4k", f"--size={context.rand_mib}M"]
    words += [f"--numjobs={jobs}", "--iodepth=1", "--ioengine=psync", "--group_reporting", "--output-format=json"]
    if seconds:
        words += ["--time_based", f"--runtime={seconds}"]
    output = command(words + list(options))
    job = json.loads(output[output.index("{") :])["jobs"][0]
    side = job["write" if "write" in pattern else "read"]
    percentiles = side["clat_ns"].get("percentile", {})
    return {
        "iops": round(side["iops"], 1),
        "mean_us": round(side["lat_ns"]["mean"] / 1e3, 1),
        "p99_us": round(percentiles.get("99.000000", 0) / 1e3, 1),
        "ios": side["total_ios"],
        "errors": job["error"],
    }
