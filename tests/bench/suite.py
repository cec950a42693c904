#!/usr/bin/env python3
"""Measures everything that REPORT.md shows, part by part, and keeps the results.

    suite.py DIR [--quick] [--only PART,...]

Each part is a process of its own with a time limit. One that fails is noted in DIR/results/parts.json,
its figures are missing in the report, and the next one begins. `--only` measures some parts again and
keeps the results of the others.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
SERVER_SCRIPTS = HERE.parent / "support" / "servers"

# What the peers do in minutes and more at 20 ms is cut short there: fewer files, a time limit for each step. No git:
# s3s-fs refuses keys as long as rclone's encryption makes of the names of git's packs.
PEER_STEPS = (
    "seqwrite,first_byte,seqread,seqread_warm,randprep,randmiss,randread_cached,randwrite,fsync,"
    "create,stat,readsmall,rename,unlink,untar,treecheck"
)
SLOW_STEPS = "seqwrite,first_byte,seqread,randprep,randmiss,randwrite,create,stat,readsmall,rename,unlink"

# s3s-fs refuses keys that end in a slash.
SERVERS = {"gocryptfs-s3fs": "ceph-rgw"}


@dataclass(frozen=True)
class Part:
    """One measurement: what is run, its limit in seconds, and variables that it has."""

    name: str
    words: tuple
    limit: float
    env: dict = field(default_factory=dict)
    # Another server than the run's, which is started for it.
    server: str = ""


def peer(name, kind, delay, limit, *more, env=None):
    words = ("bench.py", "run", kind, "--delay-ms", str(delay), *map(str, more))
    return Part(name, words, limit, env or {}, SERVERS.get(kind, ""))


def probe(name, limit, *more, of=None, env=None):
    return Part(name, ("probes.py", of or name, *map(str, more)), limit, env or {})


def parts(quick):
    small = ("--files", 200, "--bigdir", 1000) if quick else ()
    probing = ("--quick",) if quick else ()
    few = ("--files", 50 if quick else 100)
    limited = ("--timeout", 20 if quick else 60, "--safe-timeout", 30 if quick else 90)
    memory = "seqwrite,first_byte,seqread,randprep,randwrite,overread,fsync,create,stat,readsmall,untar,treecheck,bigdir,bigdir_ls"
    ceiling = "seqwrite,seqread,seqread_warm,randprep,randread_cached,mem_create,mem_stat,mem_unlink"
    return [
        probe("raw-0", 300, "--delay-ms", 0, *probing, of="raw"),
        peer("lidfs-0", "lidfs", 0, 900, *small),
        peer("memfs", "memfs", 0, 300, "--workloads", ceiling, *small),
        probe("raw-20", 300, "--delay-ms", 20, *probing, of="raw"),
        peer("lidfs-20", "lidfs", 20, 900, *small),
        peer("lidfs-fsync", "lidfs", 20, 400, "--mb-per-s", 20, "--workloads", "fsync_mixed", "--timeout", 120, *small),
        peer("lidfs-128m", "lidfs", 0, 400, "--workloads", memory, *small, env={"LIDFS_CACHE_MEMORY": "128 MiB"}),
        probe("opening", 200, *probing),
        probe("remount", 200, *probing),
        probe("cpu", 300, *probing),
        probe("idle", 400, *probing),
        probe("growth-files", 1500, *probing),
        # Its bucket takes 10 GiB of disk; the cache need not take as much again.
        probe("growth-bytes", 900, *probing, env={"LIDFS_CACHE_DISK_SIZE": "2 GiB"}),
        peer("rclone-crypt-0", "rclone-crypt", 0, 600, "--workloads", PEER_STEPS, *limited, *small),
        peer("gocryptfs-s3fs-0", "gocryptfs-s3fs", 0, 600, "--workloads", PEER_STEPS, *limited, *small),
        peer("rclone-crypt-20", "rclone-crypt", 20, 900, "--workloads", PEER_STEPS, *limited, *small),
        peer("gocryptfs-s3fs-20", "gocryptfs-s3fs", 20, 600, "--workloads", SLOW_STEPS, *limited, *few),
        Part("crash-lidfs", ("crash.py", "lidfs"), 120),
        Part("crash-rclone-crypt", ("crash.py", "rclone-crypt"), 120),
        Part("crash-gocryptfs-s3fs", ("crash.py", "gocryptfs-s3fs"), 120, server=SERVERS["gocryptfs-s3fs"]),
    ]


def measure(part, work, results, servers):
    """Runs one part; returns how it went. What it printed is in DIR/results/NAME.log."""
    output, log = results / f"{part.name}.json", results / f"{part.name}.log"
    output.unlink(missing_ok=True)
    script, *words = part.words
    command = [sys.executable, HERE / script, *words, "--dir", work, "--json", output]
    start = time.monotonic()
    try:
        env = {**os.environ, **part.env, **servers.env(part.server)}
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
        return {"seconds": round(time.monotonic() - start), "error": str(error)}
    with open(log, "w") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=env, start_new_session=True)
        try:
            code = process.wait(timeout=part.limit)
            error = f"exit {code}: {last_line(log)}" if code else None
        except subprocess.TimeoutExpired:
            error = f"ended after {part.limit:g} s"
        finally:
            end(process)
    clean_up(work)
    if error is None and not output.exists():
        error = "no result"
    return {"seconds": round(time.monotonic() - start), "error": error}


class Servers:
    """Those of tests/support/servers that single parts want; started once, stopped and removed at the end."""

    def __init__(self, work):
        self.work = work
        self.variables = {}

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        for name in self.variables:
            subprocess.run([SERVER_SCRIPTS / name, "stop", self.work / name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            shutil.rmtree(self.work / name, ignore_errors=True)

    def env(self, name):
        """What a part has to know of it: the variables that the script exports."""
        if name and name not in self.variables:
            self.variables[name] = {}
            port = random.randrange(10000, 30000)
            words = [SERVER_SCRIPTS / name, "start", self.work / name, str(port)]
            output = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=300)
            if output.returncode:
                raise RuntimeError(f"{name} does not start: {output.stderr.strip()[-200:]}")
            self.variables[name] = dict(re.findall(r"^export (\w+)='([^']*)'$", output.stdout, re.M))
        return self.variables.get(name, {})


def end(process):
    """Politely first: it then unmounts and removes its bucket."""
    for sign, patience in ((signal.SIGTERM, 60), (signal.SIGKILL, 10)):
        if process.poll() is None:
            process.send_signal(sign)
            try:
                process.wait(timeout=patience)
            except subprocess.TimeoutExpired:
                continue
    try:
        os.killpg(process.pid, signal.SIGKILL)  # what it left in its group
    except ProcessLookupError:
        pass


def clean_up(work):
    """Mounts that a part left below the work directory, and their daemons; inner ones first."""
    volumes = str(work / "volumes") + "/"
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    mounts = [mount for mount in mounts if mount.startswith(volumes)]
    for mount in reversed(mounts):
        subprocess.run(["umount", "-l", mount], stderr=subprocess.DEVNULL)
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                words = Path("/proc", entry, "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if any(word.startswith(volumes) for word in words):
                try:
                    os.kill(int(entry), signal.SIGKILL)
                except ProcessLookupError:
                    pass


def last_line(log):
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=lambda text: Path(text).resolve())
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], metavar="PART,...")
    options = parser.parse_args()
    results = options.dir / "results"
    results.mkdir(parents=True, exist_ok=True)
    plan = parts(options.quick)
    unknown = set(options.only) - {part.name for part in plan}
    if unknown:
        raise SystemExit(f"no part {', '.join(unknown)}; there are: {', '.join(part.name for part in plan)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    notes = results / "parts.json"
    outcome = json.loads(notes.read_text()) if options.only and notes.exists() else {}
    begin = time.monotonic()
    with Servers(options.dir) as servers:
        for number, part in enumerate(plan, 1):
            if options.only and part.name not in options.only:
                continue
            print(f"{time.strftime('%H:%M:%S')} {number:2}/{len(plan)} {part.name:22}", end="", flush=True)
            outcome[part.name] = measure(part, options.dir, results, servers)
            notes.write_text(json.dumps(outcome, indent=1) + "\n")
            error = outcome[part.name]["error"]
            print(f"{outcome[part.name]['seconds']:5} s" + (f"  FAILED: {error}" if error else ""), flush=True)
    print(f"measured in {(time.monotonic() - begin) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
