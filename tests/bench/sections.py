"""Sections of REPORT.md: plots, growth, CPU time, and how long it all took."""

import plots
from report import heading, number, row
from targets import PEERS, Missing, raw

SHOWN = ("lidfs", *PEERS)
REQUEST_GROUPS = (
    ("seqwrite", "write\n1 GiB"),
    ("randwrite", "overwrite\n8 MiB"),
    ("create", "create\n2,000"),
    ("stat", "ls -lR\ncold"),
    ("rename", "rename\ndirectory"),
    ("unlink", "unlink\n2,000"),
    ("untar", "untar"),
    ("treecheck", "tree read\ncold"),
)


def pictures(results, directory):
    """Draws the plots; returns the section that shows them."""
    drawn = {"throughput": throughput(results)}
    for delay in (0, 20):
        drawn[f"requests-{delay}"] = requests(results, delay)
    drawn.update(growth_plots(results))
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("*.svg"):
        old.unlink()
    lines = ["", "## Plots", ""]
    for name, picture in drawn.items():
        if picture:
            (directory / f"{name}.svg").write_text(picture)
            lines += [f"![{name}](plots/{name}.svg)", ""]
    return lines


def figure(results, part, step, metric):
    try:
        return results.step(part, step)[metric]
    except (Missing, KeyError):
        return None


def throughput(results):
    groups, limits = [], {}
    for delay in (0, 20):
        for step, metric, kind, what in (("seqwrite", "MiBps_safe", "put", "write"), ("seqread", "MiBps", "get", "read cold")):
            name = f"{what}\n{delay} ms added"
            groups.append((name, [figure(results, f"{peer}-{delay}", step, metric) for peer in SHOWN]))
            try:
                limits[name] = raw(delay, kind)(results)
            except Missing:
                pass
    return plots.bars("1 GiB written until in the bucket, and read cold", "MiB/s; line: the raw store", SHOWN, groups, limits=limits)


def requests(results, delay):
    def count(peer, step):
        traffic = figure(results, f"{peer}-{delay}", step, "s3")
        return traffic and traffic["requests"]

    groups = [(name, [count(peer, step) for peer in SHOWN]) for step, name in REQUEST_GROUPS]
    return plots.bars(f"S3 requests, {delay} ms added", "requests, logarithmic", SHOWN, groups, logarithmic=True)


# ---------------------------------------------------------------- growth


def points(results, name):
    return results.files.get(name, {}).get("points", [])


def growth_plots(results):
    files, sizes = points(results, "growth-files"), points(results, "growth-bytes")
    by_files = lambda value: [(point["files"], value(point)) for point in files]
    by_bytes = lambda value: [(point["bytes"] / (1 << 30), value(point)) for point in sizes]
    rss = lambda point: max(point["rss_write_MB"], point["rss_read_MB"])
    asked = lambda key: lambda point: point[key]["s3"]["requests"]
    made = lambda point: point["s3"]["requests"]
    return {
        "growth-files-time": plots.curves(
            "Time as files grow in number", "us for each file; s to the first byte", "files in the volume",
            [("create and safe, us", by_files(lambda p: p["t"] / p["new"] * 1e6)), ("find, us", by_files(lambda p: p["find"]["t"] / p["files"] * 1e6)),
             ("cold mount to first byte, s", by_files(lambda p: p["first_byte"]["t"]))]),
        "growth-files-cost": plots.curves(
            "Requests, memory and bucket as files grow in number", "requests; MB", "files in the volume",
            [("requests to create", by_files(made)), ("requests of find", by_files(asked("find"))),
             ("requests to first byte", by_files(asked("first_byte"))), ("peak RSS, MB", by_files(rss)), ("bucket, MB", by_files(lambda p: p["bucket_MB"]))]),
        "growth-bytes-time": plots.curves(
            "Time as bytes grow", "s for each GiB; s to the first byte", "GiB in the volume",
            [("write and safe, s/GiB", by_bytes(lambda p: p["t"] / p["new"] * (1 << 30))), ("read cold, s/GiB", by_bytes(lambda p: p["read"]["t"] / p["new"] * (1 << 30))),
             ("cold mount to first byte, s", by_bytes(lambda p: p["first_byte"]["t"]))]),
        "growth-bytes-cost": plots.curves(
            "Requests, memory and bucket as bytes grow", "requests; MB", "GiB in the volume",
            [("requests to write", by_bytes(made)), ("requests to read", by_bytes(asked("read"))),
             ("requests to first byte", by_bytes(asked("first_byte"))), ("peak RSS, MB", by_bytes(rss)), ("bucket, MB", by_bytes(lambda p: p["bucket_MB"]))]),
    }


def growth(results):
    lines = ["", "## Growth", ""]
    files, sizes = points(results, "growth-files"), points(results, "growth-bytes")
    if files:
        lines += ["Empty files, 1,000 to a directory, in one volume that grows. Times and requests of a row are those of what came new, until safe;", ""]
        lines[-2] += " `find` goes over all."
        lines += heading(["files", "create, s", "us/file", "requests", "per 1,000 files", "first byte cold, s", "requests", "`find`, s", "us/file", "requests", "files/request", "RSS, MB", "bucket, MB", "bytes/file"])
        for p in files:
            found = p["find"]
            lines.append(row([
                f"{p['files']:,}", number(p["t"]), number(p["t"] / p["new"] * 1e6), f"{p['s3']['requests']}", number(p["s3"]["requests"] / p["new"] * 1e3),
                number(p["first_byte"]["t"]), f"{p['first_byte']['s3']['requests']}", number(found["t"]), number(found["t"] / p["files"] * 1e6),
                f"{found['s3']['requests']}", number(p["files"] / max(found["s3"]["requests"], 1)),
                number(max(p["rss_write_MB"], p["rss_read_MB"])), number(p["bucket_MB"]), number(p["bucket_MB"] * 1e6 / p["files"]),
            ]))
    if sizes:
        lines += ["", "Incompressible bytes in one volume that grows, with a disk cache of 2 GiB. Times and requests of a row are those of the bytes that came new.", ""]
        lines += heading(["GiB", "write, s", "s/GiB", "requests/GiB", "read cold, s", "s/GiB", "requests/GiB", "first byte cold, s", "requests", "RSS, MB", "bucket, MB", "MB/GiB"])
        for p in sizes:
            new, total = p["new"] / (1 << 30), p["bytes"] / (1 << 30)
            lines.append(row([
                number(total), number(p["t"]), number(p["t"] / new), number(p["s3"]["requests"] / new),
                number(p["read"]["t"]), number(p["read"]["t"] / new), number(p["read"]["s3"]["requests"] / new),
                number(p["first_byte"]["t"]), f"{p['first_byte']['s3']['requests']}",
                number(max(p["rss_write_MB"], p["rss_read_MB"])), number(p["bucket_MB"]), number(p["bucket_MB"] / total),
            ]))
    return lines if files or sizes else []


# ---------------------------------------------------------------- CPU time, other probes


def cpu(results):
    found = results.files.get("cpu", {})
    steps = [(name, title) for name, title in (("seqwrite", "written"), ("seqread", "read cold")) if name in found]
    if not steps:
        return []
    lines = ["", "## CPU time of 1 GiB", "", "Share of the daemon's samples (`perf record`), by the innermost function that tells, which for copies of the kernel is", ""]
    lines[-2] += " who asked for them. The seconds are of this measurement, with the sampling in them."
    lines += heading(["", *(f"{title}: {found[name]['cpu_s_per_GiB']:g} s/GiB" for name, title in steps)])
    groups = sorted({group for name, _ in steps for group in found[name]["shares"]}, key=lambda g: (g == "rest", -found[steps[0][0]]["shares"].get(g, 0)))
    for group in groups:
        lines.append(row([group, *(share(found[name], group) for name, _ in steps)]))
    return lines


def share(found, group):
    part = found["shares"].get(group, 0)
    return f"{part:.0%}, {part * found['cpu_s_per_GiB']:.2f} s"


def parts(results):
    """How long each part took, and what failed."""
    if not results.parts:
        return []
    lines = ["", "## The parts of this run", "", *heading(["part", "s", ""])]
    for name, part in results.parts.items():
        lines.append(row([name, str(part["seconds"]), (part["error"] or "").replace("|", "/")]))
    lines.append(row(["all", str(sum(part["seconds"] for part in results.parts.values())), ""]))
    return lines
