#!/usr/bin/env python3
"""Writes REPORT.md and its plots from the results of a run.

    figures.py RESULTS_DIR OUT.md

Beside OUT.md the plots go to `plots/`. peers.json has figures of peers that this run did not measure;
each row there names the step and the metric of ours that belongs in it. The section on what falls short
takes its rows from the table of targets and its words from shortfalls.md; without words for a row that
is not met this ends with an error, after having written the report.
"""

import json
import re
import sys
from pathlib import Path

import sections
from report import DISTURBED, compare, heading, number, row
from targets import PEERS, TARGETS, Results

HERE = Path(__file__).resolve().parent
SMALL_FILE_STEPS = ("create", "stat", "readsmall", "rename", "unlink")
FULL_SIZES = {"seq_mib": 1024, "files": 2000, "bigdir": 100_000}
MARKS = "`*` disturbed by other load, `<` stopped at the time limit (or with the stream beside it), `?` never reported safe, `-` not measured."

LEGEND = """"raw": `lidfs bench` with objects of 16 MiB, the best number at once; "memfs": a FUSE file
system that answers from memory (`memfs/`); "one PUT": the median of small ones, of `lidfs bench`."""


# ---------------------------------------------------------------- the table of targets, and what falls short


def table_of_targets(results):
    """The lines of the table, and the targets that are not met, each with what was measured."""
    lines = heading(["what", "target", "measured", "measured / target", "met"])
    unmet = []
    for target in TARGETS:
        goal, value, missing = target.judge(results)
        sign = "≥" if target.sign == ">=" else "≤"
        relation = f"{target.limit:g} x {target.of_name}" if target.of else ""
        if missing:
            lines.append(row([target.what, f"{sign} {relation or amount(target.limit, target.unit)}", "not measured", "", "no"]))
            unmet.append((target, f"not measured: {short(missing, 150)}"))
            continue
        wanted = f"{sign} {amount(goal, target.unit)}" + (f" ({relation})" if relation else "")
        ratio = number(value / goal) if goal else "-"
        met = target.is_met(goal, value)
        lines.append(row([target.what, wanted, amount(value, target.unit), ratio, "yes" if met else "**no**"]))
        if not met:
            unmet.append((target, f"{amount(value, target.unit)}, wanted {wanted}"))
    return lines, unmet


def amount(value, unit):
    return f"{number(value)} {unit}"


def shortfall_texts(file):
    """Words by the keys of targets: `## key, key` and paragraphs below it."""
    texts = {}
    for block in re.split(r"^## ", file.read_text(), flags=re.M)[1:]:
        keys, _, words = block.partition("\n")
        texts.update({key.strip(): words.strip() for key in keys.split(",")})
    return texts


def shortfalls(unmet, texts):
    """The section's lines, and the keys that have no words."""
    if not unmet:
        return ["Nothing."], []
    lines, silent, blocks = [], [], {}
    for target, how in unmet:
        words = texts.get(target.key)
        if words is None:
            silent.append(target.key)
        blocks.setdefault(words or "(to be explained)", []).append(f"**{target.what}**: {how}.")
    for words, rows in blocks.items():
        lines += [f"* {text}" for text in rows] + ["", words, ""]
    return lines, silent


# ---------------------------------------------------------------- tables beside the peers


def cell(line, result, crash, files):
    """What a run says in a row of a table; None when it says nothing."""
    if line["metric"] == "crash":
        return short(crash[line["step"]]["result"]) if line["step"] in (crash or {}) else None
    if result is None:
        return None
    if line["metric"] == "rss":
        return number(result["rss_peak_MB"])
    figures = result["workloads"].get(line["step"])
    if figures is None:
        return None
    if "error" in figures:
        killed = re.match(r"killed after (.*)", figures["error"])
        return f"not done in {killed[1]}" if killed else "FAIL: " + short(figures["error"])
    text = FORMS[line["metric"]](figures, result) + marks(figures, result)
    fewer = result["settings"]["files"] != files and line["step"] in SMALL_FILE_STEPS
    return text + (f" for {result['settings']['files']}" if fewer else "")


def short(text, length=70):
    return text.replace("|", "/").replace("\n", " ")[:length]


def requests(figures, _):
    traffic = figures["s3"]
    return f"{traffic['requests']}; {traffic['up_MB']:.0f}/{traffic['down_MB']:.0f}"


def seconds(figures, _):
    safe = f" / {number(figures['t_safe'])}" if figures["t_safe"] > 1.1 * figures["t"] + 0.05 else ""
    return number(figures["t"]) + safe


def seconds_safe(figures, _):
    return f"{number(figures['t_safe'])} ({figures['s3']['requests']})"


def seconds_alone(figures, _):
    return number(figures["t"])


def seconds_requests(figures, _):
    return f"{number(figures['t'])} ({figures['s3']['requests']})"


def rate(figures, result):
    return number(figures["MiBps"]) + (f" ({figures['s3']['requests']})" if result["settings"]["delay_ms"] else "")


def write_rate(figures, _):
    return f"{number(figures['MiBps'])} ({number(figures['MiBps_safe'])})"


def median(figures, _):
    return number(figures["median_ms"]) + (f", p95 {number(figures['p95_ms'])}" if "p95_ms" in figures else "")


FORMS = {
    "requests": requests,
    "t": seconds,
    "t_alone": seconds_alone,
    "t_safe": seconds_safe,
    "t_requests": seconds_requests,
    "MiBps": rate,
    "write_MiBps": write_rate,
    "median_ms": median,
}


def marks(figures, result):
    text = "<" if figures.get("done", 0) < figures.get("of", 0) else ""
    text += "?" if "safe_error" in figures else ""
    best = min((step["calib_ms"] for step in result["workloads"].values() if "calib_ms" in step), default=0)
    return text + ("*" if figures.get("calib_ms", 0) > DISTURBED * best else "")


def tables(results, peers):
    """Those of peers.json, with the columns of this run in them."""
    files = results.files.get("lidfs-0", {}).get("settings", {}).get("files")
    lines = []
    for table in peers["tables"]:
        delay = table["delay_ms"]
        lines += ["", f"## {table['title']}", "", table["note"], ""]
        lines += heading(["workload", "lidfs", *table["peers"]])
        for line in table["rows"]:
            cells = [cell(line, results.files.get(f"lidfs-{delay}"), results.files.get("crash-lidfs"), files) or "-"]
            for peer, earlier in zip(table["peers"], line["figures"]):
                crash = results.files.get(f"crash-{peer}")
                measured = cell(line, results.files.get(f"{peer}-{delay}"), crash, files) if peer in PEERS else None
                cells.append(measured or (f"{earlier} †" if earlier else "-"))
            lines.append(row([line["workload"], *cells]))
    return lines


# ---------------------------------------------------------------- the report


def head(results, peers):
    first = results.files.get("lidfs-0") or next(iter(results.files.values()), {})
    machine, settings = first.get("machine", {}), first.get("settings", {})
    lines = ["# lidfs beside its peers and its targets", ""]
    lines.append(
        f"{first.get('date', '-')}, {machine.get('cpus', '?')} CPUs, kernel {machine.get('kernel', '?')}; written by `tests/bench/run`. "
        "lidfs, rclone-crypt and gocryptfs-s3fs are of this run, on S3 servers on loopback (s3s-fs; gocryptfs-s3fs on Ceph RGW, because "
        "s3s-fs refuses keys that end in a slash) behind a proxy that counts, and delays where it says so. "
        f"`†`: measured before ({peers['measured']}, {peers['machine']}; {peers['servers']})"
    )
    small = [f"{name} {settings[name]} in place of {full}" for name, full in FULL_SIZES.items() if settings.get(name, full) != full]
    if small:
        lines += ["", f"**Measured with small sizes, not to be compared with targets or peers: {', '.join(small)}.**"]
    lines += ["", f"{MARKS} What the steps are: README.md.", ""]
    return lines + [f"* {name}: {version}" for name, version in peers["versions"].items()]


def main():
    directory, out = map(Path, sys.argv[1:])
    results = Results(directory)
    peers = json.loads((HERE / "peers.json").read_text())
    rows, unmet = table_of_targets(results)
    short_lines, silent = shortfalls(unmet, shortfall_texts(HERE / "shortfalls.md"))

    lines = head(results, peers)
    lines += ["", "## Targets", "", f"{len(TARGETS) - len(unmet)} of {len(TARGETS)} met. {LEGEND}", "", *rows]
    lines += ["", "## What falls short, why, what it would take", "", *short_lines]
    lines += sections.pictures(results, out.parent / "plots")
    lines += sections.growth(results)
    lines += sections.cpu(results)
    lines += tables(results, peers)
    ours = [(name, results.files[name]) for name in ("lidfs-0", "lidfs-20", "lidfs-128m", "memfs") if name in results.files]
    if ours:
        labels = {"lidfs-0": "0 ms", "lidfs-20": "20 ms", "lidfs-128m": "0 ms, memory 128 MiB", "memfs": "memfs"}
        lines += ["", "## All steps of lidfs", "", compare([result for _, result in ours], [labels[name] for name, _ in ours])]
    lines += sections.parts(results)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n")
    print(f"report in {out}: {len(TARGETS) - len(unmet)} of {len(TARGETS)} targets met")
    if silent:
        names = ", ".join(silent)
        raise SystemExit(f"figures.py: not met and not explained: {names}; say why in {HERE / 'shortfalls.md'}, then run with --report-only")


if __name__ == "__main__":
    main()
