"""Sections of REPORT.md: plots, growth, CPU time, and how long it all took."""

import plots
from report import heading, number, row
from targets import PEERS, Missing, raw

GIB = 1 << 30
SHOWN = ("lidfs", *PEERS)
SEQUENTIAL = (("seqwrite", "MiBps_safe", "put", "write"), ("seqread", "MiBps", "get", "read cold"))
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
        for step, metric, kind, what in SEQUENTIAL:
            name = f"{what}\n{delay} ms added"
            groups.append((name, [figure(results, f"{peer}-{delay}", step, metric) for peer in SHOWN]))
            try:
                limits[name] = raw(delay, kind)(results)
            except Missing:
                pass
    title = "1 GiB written until in the bucket, and read cold"
    return plots.bars(title, "MiB/s; line: the raw store", SHOWN, groups, limits=limits)


def requests(results, delay):
    def count(peer, step):
        traffic = figure(results, f"{peer}-{delay}", step, "s3")
        return traffic and traffic["requests"]

    groups = [(name, [count(peer, step) for peer in SHOWN]) for step, name in REQUEST_GROUPS]
    return plots.bars(f"S3 requests, {delay} ms added", "requests, logarithmic", SHOWN, groups, logarithmic=True)


# ---------------------------------------------------------------- growth


def points(results, name):
    return results.files.get(name, {}).get("points", [])


def peak_rss(point):
    return max(point["rss_write_MB"], point["rss_read_MB"])


def growth_plots(results):
    def line(name, key, value):
        size = GIB if key == "bytes" else 1
        return [(point[key] / size, value(point)) for point in points(results, name)]

    def asked(step):
        return lambda point: point[step]["s3"]["requests"]

    pictures = {}
    for name, key, unit, across, read, what in (
        ("growth-files", "files", 1e-6, "files in the volume", "find", ("create and safe, us", "find, us")),
        ("growth-bytes", "bytes", 1 / GIB, "GiB in the volume", "read", ("write and safe, s/GiB", "read cold, s/GiB")),
    ):
        # `find` goes over all of the volume, reading over what came new.
        of = "files" if read == "find" else "new"
        series = [
            (what[0], line(name, key, lambda p: p["t"] / p["new"] / unit)),
            (what[1], line(name, key, lambda p: p[read]["t"] / p[of] / unit)),
            ("cold mount to first byte, s", line(name, key, lambda p: p["first_byte"]["t"])),
        ]
        pictures[f"{name}-time"] = plots.curves(f"Time as {key} grow", "units: in the legend", across, series)
        series = [
            ("requests to write", line(name, key, lambda p: p["s3"]["requests"])),
            (f"requests of {read}", line(name, key, asked(read))),
            ("requests to first byte", line(name, key, asked("first_byte"))),
            ("peak RSS, MB", line(name, key, peak_rss)),
            ("bucket, MB", line(name, key, lambda p: p["bucket_MB"])),
        ]
        pictures[f"{name}-cost"] = plots.curves(f"Requests, memory and bucket as {key} grow", "requests; MB", across, series)
    return pictures


FILES_NOTE = """Empty files, 1,000 to a directory, in one volume that grows. Times and requests of a row are those of what came new, until safe;
`find` goes over all."""
BYTES_NOTE = """Incompressible bytes in one volume that grows, with a disk cache of 2 GiB. Times and requests of a row are those of what came new."""
FILES_HEAD = "files; create, s; us/file; requests; per 1,000 files; first byte cold, s; requests; `find`, s; us/file; requests; files/request"
BYTES_HEAD = "GiB; write, s; s/GiB; requests/GiB; read cold, s; s/GiB; requests/GiB; first byte cold, s; requests"


def growth(results):
    lines = []
    if points(results, "growth-files"):
        lines += ["", "## Growth: files", "", FILES_NOTE, ""]
        lines += heading((FILES_HEAD + "; RSS, MB; bucket, MB; bytes/file").split("; "))
        lines += [row([f"{p['files']:,}", *map(number, of_files(p))]) for p in points(results, "growth-files")]
    if points(results, "growth-bytes"):
        lines += ["", "## Growth: bytes", "", BYTES_NOTE, ""]
        lines += heading((BYTES_HEAD + "; RSS, MB; bucket, MB; MB/GiB").split("; "))
        lines += [row(map(number, of_bytes(p))) for p in points(results, "growth-bytes")]
    return lines


def of_files(p):
    found, first, asked = p["find"], p["first_byte"], p["s3"]["requests"]
    return [
        *(p["t"], p["t"] / p["new"] * 1e6, asked, asked / p["new"] * 1e3, first["t"], first["s3"]["requests"]),
        *(found["t"], found["t"] / p["files"] * 1e6, found["s3"]["requests"], p["files"] / max(found["s3"]["requests"], 1)),
        *(peak_rss(p), p["bucket_MB"], p["bucket_MB"] * 1e6 / p["files"]),
    ]


def of_bytes(p):
    new, total, read, first = p["new"] / GIB, p["bytes"] / GIB, p["read"], p["first_byte"]
    return [
        *(total, p["t"], p["t"] / new, p["s3"]["requests"] / new, read["t"], read["t"] / new, read["s3"]["requests"] / new),
        *(first["t"], first["s3"]["requests"], peak_rss(p), p["bucket_MB"], p["bucket_MB"] / total),
    ]


# ---------------------------------------------------------------- CPU time, other probes


CPU_NOTE = """Share of the daemon's samples (`perf record`), by the innermost function that tells, which for copies of the kernel is who asked
for them. The seconds are of this measurement, with the sampling in them."""


def cpu(results):
    found = results.files.get("cpu", {})
    steps = [(name, title) for name, title in (("seqwrite", "written"), ("seqread", "read cold")) if name in found]
    if not steps:
        return []
    lines = ["", "## CPU time of 1 GiB", "", CPU_NOTE, ""]
    lines += heading(["", *(f"{title}: {found[name]['cpu_s_per_GiB']:g} s/GiB" for name, title in steps)])
    first = found[steps[0][0]]["shares"]
    every = {group for name, _ in steps for group in found[name]["shares"]}
    groups = sorted(every, key=lambda group: (group == "rest", -first.get(group, 0)))
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
