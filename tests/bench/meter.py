"""What is measured beside time: requests, memory, CPU time, and how disturbed the machine was."""

import hashlib
import json
import os
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
now = time.perf_counter


def built(name, work):
    """A program of this directory (a crate), built on first use into the work directory."""
    build = ["cargo", "build", "--release", "--quiet", "--locked", "--manifest-path", HERE / name / "Cargo.toml"]
    subprocess.run([*build, "--target-dir", work / name], check=True)
    return work / name / "release" / name


# ---------------------------------------------------------------- the counting proxy


class Proxy:
    """The proxy of `s3proxy/`, built on first use into the work directory."""

    def __init__(self, work, upstream, delay_ms, mb_per_s):
        options = ["--listen", "127.0.0.1:0", "--stats", "127.0.0.1:0", "--upstream", upstream]
        options += ["--delay-ms", str(delay_ms), "--mb-per-s", str(mb_per_s)]
        self.process = subprocess.Popen(
            [built("s3proxy", work), *options], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        words = self.process.stdout.readline().split()
        if len(words) != 4:
            raise SystemExit("the proxy did not start")
        self.address, self.stats_address = words[1], words[3]

    def counters(self):
        return json.load(urllib.request.urlopen(f"http://{self.stats_address}/", timeout=10))

    def stop(self):
        self.process.kill()
        self.process.wait()


def traffic(before, after):
    """What went through the proxy between two readings."""
    counts = {name: count - before["requests"].get(name, 0) for name, count in after["requests"].items()}
    counts = {name: count for name, count in counts.items() if count}
    return {
        "requests": sum(counts.values()),
        "up_MB": round((after["up_bytes"] - before["up_bytes"]) / 1e6, 2),
        "down_MB": round((after["down_bytes"] - before["down_bytes"]) / 1e6, 2),
        "by_operation": dict(sorted(counts.items(), key=lambda item: -item[1])),
    }


# ---------------------------------------------------------------- noise and memory


def cpu_pressure():
    """Seconds for which some process waited for a CPU, since boot."""
    for line in Path("/proc/pressure/cpu").read_text().splitlines():
        if line.startswith("some"):
            return int(line.rsplit("total=", 1)[1]) / 1e6
    return 0.0


def calibration_ms(content=bytes(16 << 20)):
    """A fixed piece of work: how fast is the machine at this moment?"""
    start = now()
    hashlib.sha256(content).digest()
    return (now() - start) * 1e3


class MemorySampler:
    """Peak resident memory of the daemons, all together, sampled four times a second."""

    def __init__(self, peer):
        self.peer = peer
        self.pids = []
        self.peak = 0
        self.overall_peak = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def begin(self):
        """Starts a new peak. Called with the peer mounted, so its processes are found."""
        self.pids = self.peer.pids()
        self.peak = 0

    def peak_mb(self):
        self._sample()
        return round(self.peak / 1e6, 1)

    def _watch(self):
        while True:
            self._sample()
            time.sleep(0.25)

    def _sample(self):
        resident = 0
        for pid in self.pids:
            try:
                resident += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            except OSError:
                pass  # ended since
        self.peak = max(self.peak, resident)
        self.overall_peak = max(self.overall_peak, resident)


def cpu_seconds(pids):
    """User and system time of these processes so far; one that has ended counts nothing."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
