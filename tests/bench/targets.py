"""The table of targets, as data: each row is measured from the results of one run.

A goal is `limit` times what `of` gives (1 without), and `measured` must be at least or at most that.
What cannot be measured raises `Missing`, which says why.
"""

import json
from dataclasses import dataclass
from pathlib import Path

PEERS = ("rclone-crypt", "gocryptfs-s3fs")
MIB = 1 << 20


class Missing(Exception):
    """A figure that the run did not give."""


class Results:
    """The result files of a run by the names of their parts."""

    def __init__(self, directory):
        self.files = {}
        for file in sorted(Path(directory).glob("*.json")):
            try:
                self.files[file.stem] = json.loads(file.read_text())
            except ValueError:
                pass  # its part was killed while it wrote
        self.parts = self.files.pop("parts", {})

    def part(self, name):
        if name not in self.files:
            raise Missing(f"{name}: {self.parts.get(name, {}).get('error') or 'not run'}")
        return self.files[name]

    def has(self, name, step):
        return "error" not in self.files.get(name, {}).get("workloads", {}).get(step, {"error": ""})

    def step(self, name, step):
        figures = self.part(name)["workloads"].get(step)
        if figures is None:
            raise Missing(f"{step} of {name}: {self.parts.get(name, {}).get('error') or 'not run'}")
        for error in ("error", "safe_error"):
            if error in figures:
                raise Missing(f"{step} of {name}: {figures[error]}"[:150])
        return figures

    def probe(self, name, *keys):
        found = self.part(name)
        for key in keys:
            if key not in found:
                raise Missing(f"{name}: {self.parts.get(name, {}).get('error') or f'no {key}'}"[:150])
            found = found[key]
        return found


@dataclass(frozen=True)
class Target:
    """One row. `key` names its text in shortfalls.md; rows of one key share it."""

    key: str
    what: str
    sign: str  # ">=" or "<="
    limit: float
    unit: str
    measured: object
    of: object = None
    of_name: str = ""

    def judge(self, results):
        """Goal, measured value, and what is to be said instead of them when they are missing."""
        try:
            goal = self.limit * (self.of(results) if self.of else 1)
            return goal, self.measured(results), None
        except Missing as missing:
            return None, None, str(missing)
        except (KeyError, IndexError, TypeError, ZeroDivisionError) as error:
            return None, None, f"{type(error).__name__}: {error}"

    def is_met(self, goal, value):
        return value >= goal if self.sign == ">=" else value <= goal


# ---------------------------------------------------------------- where figures come from


def step(part, name, metric):
    return lambda results: results.step(part, name)[metric]


def requests(name, *parts):
    """The most of these runs."""
    return lambda results: max(results.step(part, name)["s3"]["requests"] for part in parts or ("lidfs-0", "lidfs-20"))


def writes(name):
    def count(part, results):
        operations = results.step(part, name)["s3"]["by_operation"]
        return sum(n for operation, n in operations.items() if not operation.startswith(("Get", "Head", "List")))

    return lambda results: max(count(part, results) for part in ("lidfs-0", "lidfs-20"))


def raw(delay, kind):
    """The best of the numbers of requests at once, in MiB/s."""
    return lambda r: max(t["bytes_per_second"] for t in r.probe(f"raw-{delay}", "bench", "store", "throughput", kind)) / MIB


def one_put(delay):
    return lambda results: results.probe(f"raw-{delay}", "bench", "store", "latency", "put", "p50_ms")


def best_peer(delay, name, metric):
    def best(results):
        found = [results.step(f"{peer}-{delay}", name)[metric] for peer in PEERS if results.has(f"{peer}-{delay}", name)]
        if not found:
            raise Missing(f"no peer finished {name}")
        return max(found)

    return best


def per_file(name):
    """Seconds for each of the files."""
    return lambda results: results.step("lidfs-0", name)["t"] / results.step("lidfs-0", name)["done"] * 1e6


def compared(part, name, metric, other):
    return lambda results: results.step(part, name)[metric] / results.step(other, name)[metric]


def million(results):
    """The last point of the volume that grows in files."""
    point = results.probe("growth-files", "points")[-1]
    if point["files"] < 1_000_000 and not results.probe("growth-files", "quick"):
        raise Missing(f"only {point['files']:,} files: {results.parts.get('growth-files', {}).get('error') or 'time limit'}")
    return point


def largest_rss(results):
    point = million(results)
    return max(point["rss_write_MB"], point["rss_read_MB"]) * 1e6 / MIB


def rss(*parts):
    return lambda results: max(results.part(part)["rss_peak_MB"] for part in parts) * 1e6 / MIB


def all_done(results):
    """Steps that failed with little memory."""
    return sum("error" in s or "safe_error" in s for s in results.part("lidfs-128m")["workloads"].values())


def requests_per_mib(name):
    return lambda results: results.step("lidfs-0", name)["s3"]["requests"] / results.step("lidfs-0", name)["MiB"]


def cpu(name):
    return lambda results: results.step("lidfs-0", name)["cpu_s"] / (results.step("lidfs-0", name)["MiB"] / 1024)


def idle(results):
    return results.probe("idle", "s3", "requests") / results.probe("idle", "seconds")


def down_mib(results):
    return results.step("lidfs-0", "randwrite")["s3"]["down_MB"] * 1e6 / MIB


def up_mib(results):
    return results.step("lidfs-0", "randwrite")["s3"]["up_MB"] * 1e6 / MIB


def find_per_file(results):
    point = million(results)
    return point["find"]["s3"]["requests"] / (point["files"] / 2000)


def at(delay):
    return "nothing added" if delay == 0 else f"{delay} ms"


# ---------------------------------------------------------------- the rows


def sequential():
    for key, name, metric, kind, title in (
        ("write", "seqwrite", "MiBps_safe", "put", "1 GiB written, until in the bucket"),
        ("read", "seqread", "MiBps", "get", "1 GiB read cold"),
    ):
        for delay in (0, 20):
            ours = step(f"lidfs-{delay}", name, metric)
            yield Target(f"{key} {delay}", f"{title}, {at(delay)}", ">=", 0.8, "MiB/s", ours, raw(delay, kind), f"raw {kind.upper()}")
            best = best_peer(delay, name, metric)
            yield Target(f"{key} peer {delay}", f"{title}, {at(delay)}", ">=", 1.5, "MiB/s", ours, best, "best peer")


def from_memory():
    rows = (
        ("warm", "1 GiB read again, warm", 0.8, "seqread_warm", "MiBps", "MiB/s"),
        ("cached", "cached 4 KiB random reads", 0.8, "randread_cached", "iops", "/s"),
        ("mem create", "files created, in memory", 0.5, "mem_create", "per_s", "/s"),
        ("mem stat", "stat of files, in memory", 0.5, "mem_stat", "per_s", "/s"),
        ("mem unlink", "unlink of files, in memory", 0.5, "mem_unlink", "per_s", "/s"),
    )
    for key, what, limit, name, metric, unit in rows:
        yield Target(key, what, ">=", limit, unit, step("lidfs-0", name, metric), step("memfs", name, metric), "memfs")


def fsyncs():
    for delay in (0, 20):
        part, put = f"lidfs-{delay}", one_put(delay)
        what = f"fsync of 4 KiB appends, one after another, median, {at(delay)}"
        yield Target(f"fsync {delay}", what, "<=", 1.3, "ms", step(part, "fsync", "median_ms"), put, "one PUT")
        what = f"100 fsyncs at once, until the last, {at(delay)}"
        yield Target(f"fsync at once {delay}", what, "<=", 5, "ms", step(part, "fsync_parallel", "median_ms"), put, "one PUT")


def overwritten():
    """The file after random overwrites, by the large file that was written once."""
    what, fresh = "that overwritten file read cold, every byte right", "the cold read above"
    rates = [step("lidfs-0", name, "MiBps") for name in ("overread", "seqread")]
    yield Target("overwrite read", what, ">=", 0.5, "MiB/s", *rates, fresh)
    counts = [requests_per_mib(name) for name in ("overread", "seqread")]
    yield Target("overwrite layout", "that read: requests for each MiB", "<=", 1.5, "requests/MiB", *counts, fresh)


def large_directory():
    for key, what, name in (("create", "create", "dir2k"), ("ls", "`ls -f` cold", "dir2k_ls")):
        big = name.replace("dir2k", "bigdir")
        yield Target(f"bigdir {key}", f"100,000 files in one directory: {what}, for each", "<=", 1.5, "us", per_file(big), per_file(name), "with 2,000")
    stat = [step("lidfs-0", name, "median_ms") for name in ("bigdir_stat", "dir2k_stat")]
    yield Target("bigdir stat", "100,000 files in one directory: random stat cold", "<=", 1.5, "ms", *stat, "with 2,000")


TARGETS = [
    *sequential(),
    *from_memory(),
    Target("create", "2,000 files of 4 KiB created and safe", "<=", 6, "requests", requests("create")),
    Target("untar", "5,000 files, 33 MB, unpacked and safe", "<=", 12, "write requests", writes("untar")),
    Target("untar time", "that unpacking at 20 ms, by the time with nothing added", "<=", 2, "x", compared("lidfs-20", "untar", "t_safe", "lidfs-0")),
    Target("tree", "the 5,000 files read cold, in directory order", "<=", 30, "requests", requests("treecheck")),
    Target("tree time", "the 5,000 files read cold, at 20 ms", "<=", 3, "s", step("lidfs-20", "treecheck", "t")),
    Target("ls", "`ls -lR` of 2,000 files cold", "<=", 6, "requests", requests("stat")),
    Target("rename", "rename of the directory of 2,000 files", "<=", 3, "requests", requests("rename")),
    Target("unlink", "unlink of 2,000 files", "<=", 6, "requests", requests("unlink")),
    *fsyncs(),
    Target("fsync beside", "fsync beside a stream, 20 ms and 20 MB/s, p95", "<=", 1000, "ms", step("lidfs-fsync", "fsync_mixed", "p95_ms")),
    Target("overwrite up", "2,048 random 4 KiB overwrites, cold: sent", "<=", 24, "MiB", up_mib),
    Target("overwrite down", "2,048 random 4 KiB overwrites, cold: fetched (metadata alone)", "<=", 2, "MiB", down_mib),
    Target("overwrite groups", "2,048 random 4 KiB overwrites, cold: groups of changes", "<=", 1, "group", step("lidfs-0", "randwrite", "groups")),
    *overwritten(),
    *large_directory(),
    Target("million mount", "1,000,000 files: cold mount to first byte", "<=", 10, "requests", lambda r: million(r)["first_byte"]["s3"]["requests"]),
    Target("million rss", "1,000,000 files: peak RSS", "<=", 400, "MiB", largest_rss),
    Target("million find", "1,000,000 files: `find`, for each 2,000 files", "<=", 1, "requests", find_per_file),
    Target("opening", "cold mount to first byte", "<=", 10, "round trips in a row", lambda r: r.probe("opening", "round_trips", "0 to 40 ms")),
    Target("remount", "remount, disk cache kept: cached data read", "<=", 0, "requests", lambda r: r.probe("remount", "s3", "requests")),
    Target("cpu write", "CPU time for each GiB written", "<=", 3.0, "s", cpu("seqwrite")),
    Target("cpu read", "CPU time for each GiB read cold", "<=", 2.5, "s", cpu("seqread")),
    Target("idle", "idle", "<=", 0.1, "requests/s", idle),
    Target("idle price", "`status` names the monthly price of idling", ">=", 1, "line", lambda r: len(r.probe("idle", "price"))),
    Target("rss", "peak RSS at defaults, all workloads", "<=", 600, "MiB", rss("lidfs-0", "lidfs-20")),
    Target("rss 128", "peak RSS with memory = \"128 MiB\"", "<=", 256, "MiB", rss("lidfs-128m")),
    Target("rss 128 works", "steps that fail with memory = \"128 MiB\"", "<=", 0, "steps", all_done),
]
