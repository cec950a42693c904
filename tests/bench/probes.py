#!/usr/bin/env python3
"""What is measured of lidfs besides the workloads. Each writes one JSON file.

    probes.py NAME --json OUT [--delay-ms N] [--quick]

    raw       the store alone, by lidfs's own store layer (`lidfs bench`), through the proxy: what a mount could reach
    opening   round trips in a row from the start of a cold mount to the first byte, from how the time grows with the delay
    remount   requests for data that the disk cache has kept over an unmount
    idle      requests of a mount that nobody uses
    cpu       where CPU time goes while a large file is written and read, by sampling with perf
    growth-files, growth-bytes   what more files and more bytes cost, in one volume that grows
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import bench
import dataset
import peers
import workloads
from context import MIB, Context
from meter import MemorySampler, cpu_seconds, now, traffic

FILES_IN_DIRECTORY = 1000
GIB = 1 << 30
DISK_SPARE = 4 * GIB


class Probe:
    """What all of them have: options, the data, and a place for the result, which is saved as it grows."""

    def __init__(self, options):
        self.options = options
        self.quick = options.quick
        self.data = options.dir / "data"
        self.result = {"probe": options.name, "date": time.strftime("%Y-%m-%d %H:%M"), "quick": options.quick}

    def save(self, **figures):
        self.result.update(figures)
        self.options.json.parent.mkdir(parents=True, exist_ok=True)
        self.options.json.write_text(json.dumps(self.result, indent=1) + "\n")
        print(json.dumps(figures), flush=True)

    def site(self, delay_ms=None):
        if delay_ms is not None:
            self.options.delay_ms = delay_ms
        return bench.site(self.options, "lidfs")

    def context(self, peer):
        facts = dataset.load(self.data)
        return Context(str(peer.mnt), str(self.data), facts["seq_mib"], facts["rand_mib"], 2000, 0, timeout=300)

    def work(self, peer, name):
        """A workload in a process of its own, as in a run."""
        workload = next(workload for workload in workloads.WORKLOADS if workload.name == name)
        child = subprocess.run(workloads.child_command(workload, self.context(peer)), stdout=subprocess.PIPE, text=True)
        figures = json.loads(child.stdout.strip().splitlines()[-1])
        if "error" in figures:
            raise RuntimeError(f"{name}: {figures['error']}")
        return figures


def first_byte(peer, proxy, file):
    """Cold mount until the first byte of a file has been read: seconds and requests."""
    peer.cold_umount()
    before, start = proxy.counters(), now()
    peer.mount()
    with open(file, "rb", buffering=0) as opened:
        opened.read(1)
    seconds = now() - start
    return {"t": round(seconds, 4), "s3": traffic(before, proxy.counters())}


# ---------------------------------------------------------------- store, mount, idleness


def raw(probe):
    size, object_size = ("64 MiB", "1 MiB") if probe.quick else ("1 GiB", "16 MiB")
    with probe.site() as (peer, _):
        words = ["lidfs", "bench", peer.conf, "--json", "--size", size, "--object-size", object_size]
        probe.save(delay_ms=probe.options.delay_ms, bench=json.loads(peer.call(words, timeout=300)))


def opening(probe):
    delays = (0, 20, 40)
    runs = {}
    for delay in delays:
        with probe.site(delay) as (peer, proxy):
            peer.mount()
            probe.work(peer, "untar")
            file = peer.mnt / "first"
            file.write_bytes(os.urandom(MIB))
            peer.wait_safe()
            runs[delay] = [first_byte(peer, proxy, file) for _ in range(3)]
            peer.umount()
        probe.save(runs=runs)
    median = {delay: statistics.median(run["t"] for run in runs[delay]) for delay in delays}
    trips = {f"0 to {delay} ms": round((median[delay] - median[0]) / (delay / 1e3), 1) for delay in delays[1:]}
    requests = statistics.median(run["s3"]["requests"] for run in runs[0])
    probe.save(seconds=median, round_trips=trips, requests=requests)


def remount(probe):
    with probe.site() as (peer, proxy):
        peer.mount()
        probe.work(peer, "untar")
        (peer.mnt / "large").write_bytes(os.urandom(64 * MIB))
        peer.wait_safe()
        peer.cold()
        amount = read_all(peer.mnt)
        peer.umount()
        peers.drop_page_cache()
        peer.mount()
        time.sleep(5)  # what mounting itself still asks for
        before, start = proxy.counters(), now()
        again = read_all(peer.mnt)
        seconds = round(now() - start, 3)
        figures = traffic(before, proxy.counters())
        peer.umount()
    if again != amount:
        raise RuntimeError(f"{again} bytes read after the remount, {amount} before")
    probe.save(bytes=amount, seconds=seconds, s3=figures)


def read_all(top):
    amount = 0
    for directory, _, names in os.walk(top):
        for name in names:
            amount += len(Path(directory, name).read_bytes())
    return amount


def idle(probe):
    seconds = 20 if probe.quick else 240
    with probe.site() as (peer, proxy):
        peer.mount()
        probe.work(peer, "untar")
        peer.wait_safe()
        time.sleep(5 if probe.quick else 15)
        pids = peer.pids()
        before, cpu = proxy.counters(), cpu_seconds(pids)
        time.sleep(seconds)
        figures, cpu = traffic(before, proxy.counters()), cpu_seconds(pids) - cpu
        status = peer.call(["lidfs", "status", peer.mnt])
        peer.umount()
    price = [line.strip() for line in status.splitlines() if re.search(r"month", line, re.I)]
    probe.save(seconds=seconds, s3=figures, cpu_s=round(cpu, 2), price=price)


# ---------------------------------------------------------------- CPU time

# Group of a sample: of the first frame, from the innermost, that one of these names. The kernel has
# frames of its callers, so that a copy in it counts for who asked; of the program there is the innermost.
GROUPS = [
    ("fresh pages", r"page_fault|clear_page|madvise|munmap|mprotect"),
    ("copies and allocation in the daemon", r"^__mem(move|cpy|set|cmp)_|_mi_|malloc|realloc|\bc?free\b"),
    ("SHA-256 and CRC", r"sha2|sha256|hmac|md5|crc"),
    ("sealing", r"aes|ghash|polyval|gcm|ctr32|hybrid_array|universal_hash|hkdf|seal"),
    ("compression", r"zstd|huf_|fse_|hist_|xxh"),
    ("FUSE", r"fuse"),
    ("HTTP and network", r"tcp_|sock|inet|hyper|aws_|smithy|http|rustls|skb_|net_rx|\bip_|epoll|\bmio"),
    ("disk cache", r"ext4|xfs|btrfs|vfs_|do_sys_open|pwrite|pread|jbd2|filemap|disk_cache"),
    ("metadata", r"slatedb|lidfs::meta|moka"),
    ("threads and waiting", r"futex|sched|tokio|parking|task_switch"),
]


def cpu(probe):
    if not shutil.which("perf"):
        raise RuntimeError("perf is not installed")
    with probe.site() as (peer, _):
        peer.mount()
        for name in ("seqwrite", "seqread"):
            if name == "seqread":
                peer.cold()
            pids = peer.pids()
            with tempfile.NamedTemporaryFile(dir=peer.dir) as samples:
                words = ["perf", "record", "-q", "-F", "397", "-g", "-o", samples.name, "-p", ",".join(map(str, pids))]
                recorder = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                time.sleep(0.5)
                before = cpu_seconds(pids)
                moved = probe.work(peer, name)["MiB"]
                peer.wait_safe()
                spent = cpu_seconds(pids) - before
                recorder.send_signal(signal.SIGINT)
                recorder.wait(timeout=60)
                shares, count, names = classify(samples.name)
            per_gib = spent / (moved / 1024)
            probe.save(**{name: {"cpu_s_per_GiB": round(per_gib, 2), "samples": count, "shares": shares, "names": names}})
        peer.umount()


def classify(file):
    """Share of each group among the samples, how many there are, and the innermost names most often seen in each."""
    words = ["perf", "script", "-i", file, "-F", "comm,ip,sym"]
    text = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace").stdout
    patterns = [(name, re.compile(pattern, re.I)) for name, pattern in GROUPS]
    groups = Counter()
    names = {}
    for sample in text.split("\n\n"):
        frames = [line.split(None, 1)[-1] for line in sample.splitlines() if re.match(r"\s+[0-9a-f]+ ", line)]
        if frames:
            found = next((name for frame in frames for name, pattern in patterns if pattern.search(frame)), "rest")
            groups[found] += 1
            names.setdefault(found, Counter())[frames[0][:80]] += 1
    count = groups.total()
    shares = {name: round(number / count, 3) for name, number in groups.most_common()}
    return shares, count, {group: dict(seen.most_common(6)) for group, seen in names.items()}


# ---------------------------------------------------------------- growth


def growth_files(probe):
    counts = (100, 1_000, 10_000) if probe.quick else (1_000, 10_000, 100_000, 1_000_000)
    limit = probe.options.timeout
    with probe.site() as (peer, proxy):
        memory = MemorySampler(peer)
        peer.mount()
        first = peer.mnt / "first"
        first.write_bytes(os.urandom(4096))
        made, points = 0, []
        for count in counts:
            memory.begin()
            before, start, begun = proxy.counters(), now(), made
            made = make_files(peer.mnt, made, count, start + limit)
            peer.wait_safe()
            point = {"files": made, "new": made - begun, "t": round(now() - start, 2)}
            point.update(s3=traffic(before, proxy.counters()), rss_write_MB=memory.peak_mb())
            point["bucket_MB"] = peer.bucket_size()["MB"]
            point["first_byte"] = first_byte(peer, proxy, first)
            memory.begin()
            before, start = proxy.counters(), now()
            found = subprocess.run(["find", peer.mnt], stdout=subprocess.PIPE, check=True).stdout.count(b"\n")
            point["find"] = {"t": round(now() - start, 2), "found": found, "s3": traffic(before, proxy.counters())}
            point["rss_read_MB"] = memory.peak_mb()
            points.append(point)
            probe.save(points=points)
            if made < count:
                break  # at the time limit
        peer.umount()


def make_files(top, made, count, deadline):
    """Empty files in directories of a thousand, from number `made` to `count`."""
    while made < count and now() < deadline:
        directory = f"{top}/d{made // FILES_IN_DIRECTORY:06}"
        os.makedirs(directory, exist_ok=True)
        end = min(count, (made // FILES_IN_DIRECTORY + 1) * FILES_IN_DIRECTORY)
        for number in range(made, end):
            os.mknod(f"{directory}/f{number:07}", 0o644)
        made = end
    return made


def growth_bytes(probe):
    totals = (10 * MIB, 50 * MIB, 100 * MIB) if probe.quick else (GIB // 10, GIB, 10 * GIB)
    with probe.site() as (peer, proxy):
        memory = MemorySampler(peer)
        peer.mount()
        written, points = 0, []
        for number, total in enumerate(totals):
            file = peer.mnt / f"part{number}"
            free = shutil.disk_usage(probe.options.dir).free
            if free < total - written + DISK_SPARE:
                raise RuntimeError(f"{free >> 30} GiB of disk left, too little for {total >> 30} GiB and the cache")
            memory.begin()
            before, start, begun = proxy.counters(), now(), written
            written += write_distinct(file, total - written, probe.data / "random.bin", number, start + probe.options.timeout)
            peer.wait_safe()
            moved = written - begun
            point = {"bytes": written, "new": moved, "t": round(now() - start, 2), "s3": traffic(before, proxy.counters())}
            point.update(rss_write_MB=memory.peak_mb(), bucket_MB=peer.bucket_size()["MB"])
            point["first_byte"] = first_byte(peer, proxy, file)
            memory.begin()
            before, start = proxy.counters(), now()
            amount = read_through(file)
            point["read"] = {"t": round(now() - start, 2), "bytes": amount, "s3": traffic(before, proxy.counters())}
            point["rss_read_MB"] = memory.peak_mb()
            if amount != moved:
                raise RuntimeError(f"{amount} bytes read of {moved}")
            points.append(point)
            probe.save(points=points)
            if written < total:
                break  # at the time limit
        peer.umount()


def write_distinct(file, amount, source, number, deadline):
    """The random file again and again, with a mark in each 4 KiB, so that no piece comes twice."""
    done = 0
    with open(file, "wb", buffering=0) as writer:
        while done < amount and now() < deadline:
            with open(source, "rb") as reader:
                while done < amount and now() < deadline and (piece := bytearray(reader.read(min(MIB, amount - done)))):
                    mark = (number << 40 | done >> 12).to_bytes(8, "little")
                    for at, byte in enumerate(mark):
                        piece[at::4096] = bytes([byte]) * len(range(at, len(piece), 4096))
                    writer.write(piece)
                    done += len(piece)
        os.fsync(writer.fileno())
    return done


def read_through(file):
    buffer, amount = bytearray(MIB), 0
    with open(file, "rb", buffering=0) as reader:
        while count := reader.readinto(buffer):
            amount += count
    return amount


PROBES = {
    "raw": raw,
    "opening": opening,
    "remount": remount,
    "idle": idle,
    "cpu": cpu,
    "growth-files": growth_files,
    "growth-bytes": growth_bytes,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    bench.add_work_directory(parser)
    bench.add_site_options(parser)
    parser.add_argument("name", choices=PROBES)
    parser.add_argument("--json", type=Path, required=True, metavar="OUT")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--timeout", type=float, default=400, help="longest time of one step that grows, s")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    PROBES[options.name](Probe(options))


if __name__ == "__main__":
    main()
