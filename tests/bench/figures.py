#!/usr/bin/env python3
"""Writes REPORT.md: lidfs's figures beside those of the peers.

    figures.py OUT.md PEERS.json CRASH.json RESULT.json...

PEERS.json holds tables that were measured once; each row names the step and the
metric of ours that belongs in it. A RESULT.json is what `bench.py run lidfs --json`
wrote, one for each delay.
"""

import json
import sys
from pathlib import Path

from report import DISTURBED, compare, heading, number, row


def ours(line, result, crash):
    """Our figure for a row of a table."""
    if line["metric"] == "crash":
        return short(crash.get(line["step"], {}).get("result", "-"))
    if line["metric"] == "rss":
        return number(result["rss_peak_MB"])
    figures = result["workloads"].get(line["step"])
    if figures is None:
        return "-"
    if "error" in figures:
        return short("FAIL: " + figures["error"])
    return FORMS[line["metric"]](figures, result) + marks(figures, result)


def short(text):
    return text.replace("|", "/").replace("\n", " ")[:70]


def requests(figures, _):
    traffic = figures["s3"]
    return f"{traffic['requests']}; {traffic['up_MB']:.0f}/{traffic['down_MB']:.0f}"


def seconds(figures, _):
    safe = f" / {number(figures['t_safe'])}" if figures["t_safe"] > 1.1 * figures["t"] + 0.05 else ""
    return number(figures["t"]) + safe


def seconds_safe(figures, _):
    return f"{number(figures['t_safe'])} ({figures['s3']['requests']})"


def rate(figures, result):
    return number(figures["MiBps"]) + (f" ({figures['s3']['requests']})" if result["settings"]["delay_ms"] else "")


def write_rate(figures, _):
    return f"{number(figures['MiBps'])} ({number(figures['MiBps_safe'])})"


def median(figures, _):
    return number(figures["median_ms"]) + (f", p95 {number(figures['p95_ms'])}" if "p95_ms" in figures else "")


FORMS = {"requests": requests, "t": seconds, "t_safe": seconds_safe, "MiBps": rate, "write_MiBps": write_rate, "median_ms": median}


FULL_SIZES = {"seq_mib": 1024, "files": 2000, "bigdir": 100_000}


def marks(figures, result):
    text = "<" if figures.get("done", 0) < figures.get("of", 0) else ""
    text += "?" if "safe_error" in figures else ""
    best = min((step["calib_ms"] for step in result["workloads"].values() if "calib_ms" in step), default=0)
    return text + ("*" if figures.get("calib_ms", 0) > DISTURBED * best else "")


def sizes(settings):
    """What to know of the sizes: nothing when they are those that the tables and the peers have."""
    small = [f"{name} {settings[name]} in place of {full}" for name, full in FULL_SIZES.items() if settings[name] != full]
    return ["", f"**lidfs was measured with other sizes, not to be compared with the peers: {', '.join(small)}.**"] if small else []


def main():
    out, peers, crash, *results = sys.argv[1:]
    peers = json.loads(Path(peers).read_text())
    crash = json.loads(Path(crash).read_text())
    by_delay = {}
    for file in results:
        result = json.loads(Path(file).read_text())
        by_delay[result["settings"]["delay_ms"]] = result

    first = next(iter(by_delay.values()))
    machine = first["machine"]
    lines = ["# lidfs beside its peers", ""]
    lines.append(f"lidfs: {first['date']}, {machine['cpus']} CPUs, kernel {machine['kernel']}, written by `tests/bench/run`.")
    lines.append(f"Peers: {peers['measured']}, {peers['machine']}. {peers['servers']}")
    lines += sizes(first["settings"])
    lines += ["", "`*` disturbed by other load, `<` stopped early (at the time limit, or with the stream beside it), `?` never reported safe. What the steps are: README.md.", ""]
    lines += [f"* {name}: {version}" for name, version in peers["versions"].items()]
    for table in peers["tables"]:
        result = by_delay.get(table["delay_ms"])
        if result is None:
            continue
        lines += ["", f"## {table['title']}", "", table["note"], ""]
        lines += heading(["workload", "lidfs"] + table["peers"])
        for line in table["rows"]:
            lines.append(row([line["workload"], ours(line, result, crash)] + [cell or "-" for cell in line["figures"]]))
    delays = sorted(by_delay)
    lines += ["", "## All steps of lidfs", ""]
    lines.append(compare([by_delay[delay] for delay in delays], [f"{delay:g} ms added" for delay in delays]))
    Path(out).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
