//! `lidfs bench`: `docs/bench.md` describes the JSON form.
//!
//! ```text
//! CONFIG, URL -> the store             \
//! MOUNTPOINT --> status, config file -> the store of that mount, then the mount
//!                                       \--> figures -> charts -> terminal | SVG
//! ```

mod chart;
mod picture;
mod svg;

use std::future::Future;
use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::options::{ConfigArgs, Resolved};
use super::progress::StepLine;
use super::{Exit, Failure, target};
use crate::bench::{
    self, BenchError, MountPlan, MountSpeed, Report, SCHEMA, Stop, StorePlan, StoreSpeed,
};
use crate::config::Size;
use crate::daemon::{self, Entry, RequestCounts, Storage};
use crate::store::{StoreUrl, Transport};

/// Measure the store and a mount, and say which settings to change
///
/// A config file or a URL: the store, below the volume's prefix under fresh names that are removed
/// again; needs no key, and works beside a mount. A mount point: also the mount, in a fresh hidden
/// directory that is removed again. Says first what it will cost.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// A mount point, a config file, or s3://bucket/prefix; default: the store of the config
    #[arg(value_name = "MOUNTPOINT|CONFIG")]
    target: Option<PathBuf>,
    /// Bytes sent at most, and as many fetched, of the store and of the mount
    #[arg(long, value_name = "SIZE", default_value = "256 MiB")]
    size: Size,
    /// Bytes in an object by which throughput is measured; default: by --size, at most a pack
    #[arg(long, value_name = "SIZE")]
    object_size: Option<Size>,
    /// The figures as JSON, as docs/bench.md describes it
    #[arg(long)]
    json: bool,
    /// Write the picture to this file, too
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// What is to be measured.
struct Aim {
    /// With its plan.
    mount: Option<(Entry, MountPlan)>,
    /// The store's, with its plan.
    config: Option<(Resolved, StorePlan)>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    if let Some(path) = &args.svg {
        check_place(path)?;
    }
    let aim = aim(args)?;
    daemon::harden()?;
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failure, format!("no runtime: {error}")))?;
    let measured = measure(&runtime, &aim, args.json);
    // What was given up must not hold the process.
    runtime.shutdown_background();
    let report = measured?;
    if args.json {
        let text = serde_json::to_string_pretty(&report)
            .map_err(|error| Failure::of(Exit::Failure, &error))?;
        println!("{text}");
    } else {
        let look = chart::Look::of_terminal();
        print!("{}", picture::text(&report, aim.config.is_some(), &look));
    }
    if let Some(path) = &args.svg {
        std::fs::write(path, svg::page(&report, aim.config.is_some())).map_err(|error| {
            Failure::new(Exit::Failure, format!("{}: {error}; choose another file", path.display()))
        })?;
    }
    Ok(())
}

/// Before minutes of measuring.
fn check_place(svg: &Path) -> Result<(), Failure> {
    let dir = svg.parent().filter(|dir| !dir.as_os_str().is_empty());
    let wrong = if svg.is_dir() {
        "is a directory"
    } else if dir.is_some_and(|dir| !dir.is_dir()) {
        "its directory does not exist"
    } else {
        return Ok(());
    };
    Err(Failure::new(Exit::Failure, format!("--svg {}: {wrong}; choose another", svg.display())))
}

/// What the arguments name.
fn aim(args: &Args) -> Result<Aim, Failure> {
    let store = |resolved: Resolved| -> Result<Aim, Failure> {
        resolved.config.url()?;
        let plan = store_plan(args, &resolved)?;
        Ok(Aim { mount: None, config: Some((resolved, plan)) })
    };
    let Some(path) = &args.target else { return store(args.config.resolve_without_mount(None)?) };
    if let Some(url) = path.to_str().filter(|text| text.contains("://")) {
        return store(args.config.resolve_without_mount(Some(url))?);
    }
    if path.is_file() || (path.extension().is_some_and(|end| end == "toml") && !path.is_dir()) {
        if let Some(other) = &args.config.config {
            let (path, other) = (path.display(), other.display());
            let message = format!("{path} and -c {other} are both config files; give one of them");
            return Err(Failure::new(Exit::Usage, message));
        }
        let config = ConfigArgs { config: Some(path.clone()), ..args.config.clone() };
        return store(config.resolve_without_mount(None)?);
    }
    if path.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        let message = format!(
            "{}: neither a config file nor a mount point; `lidfs status` lists what is mounted",
            path.display()
        );
        return Err(Failure::new(Exit::Mountpoint, message));
    }
    mounted(args, target::find(path)?)
}

/// The mount, and its store if the configuration names the same volume.
fn mounted(args: &Args, entry: Entry) -> Result<Aim, Failure> {
    let status = target::status(&entry)?;
    if status.read_only {
        return Err(BenchError::ReadOnly { mountpoint: entry.mountpoint }.into());
    }
    let is_given = args.config.config.is_some();
    let file = args.config.config.clone().or_else(|| entry.config.clone());
    let config = ConfigArgs { config: file, ..args.config.clone() };
    let is_same = |resolved: &Resolved| {
        resolved.config.volume.url.as_ref().is_some_and(|url| url.to_string() == status.volume.url)
    };
    let resolved = match config.resolve_without_mount(None) {
        Ok(resolved) if is_same(&resolved) => Some(resolved),
        Ok(_) if is_given => {
            let message = format!(
                "the config names another volume than {}, which is mounted at {}; give the config of that mount",
                status.volume.url,
                entry.mountpoint.display()
            );
            return Err(Failure::new(Exit::Config, message));
        }
        Err(failure) if is_given => return Err(failure),
        _ => None,
    };
    let config = match resolved {
        Some(resolved) => {
            let plan = store_plan(args, &resolved)?;
            Some((resolved, plan))
        }
        None => None,
    };
    if args.size.0 < bench::SIZE_MIN {
        return Err(wrong_size("too little to measure by; at least 1 MiB"));
    }
    Ok(Aim { mount: Some((entry, MountPlan::new(args.size.0))), config })
}

fn store_plan(args: &Args, resolved: &Resolved) -> Result<StorePlan, Failure> {
    let object = args.object_size.as_ref().map(|size| size.0);
    let plan = StorePlan::new(args.size.0, object, resolved.config.write.pack_size.0);
    plan.map_err(|why| wrong_size(&why))
}

fn wrong_size(why: &str) -> Failure {
    Failure::new(Exit::Usage, format!("--size, --object-size: {why}"))
}

/// The store first: whatever the mount shows is to be held against it.
fn measure(runtime: &Runtime, aim: &Aim, is_json: bool) -> Result<Report, Failure> {
    let storage = match &aim.config {
        Some((resolved, _)) => Some(runtime.block_on(daemon::open_storage(&resolved.config))?),
        None => None,
    };
    let (stop, line) = (Stop::default(), Arc::new(StepLine::new()));
    let speeds = runtime.block_on(async {
        let mut signals = Signals::new()?;
        announce(&announcement(aim, storage.as_ref()), is_json);
        let store = match (&storage, &aim.config) {
            (Some(storage), Some((_, plan))) => {
                let left =
                    format!("objects whose names begin with {}/{}", storage.url, plan.prefix);
                let work = measure_store(storage, plan, &stop, &line);
                Some(signals.guard(work, &stop, &left).await?)
            }
            _ => None,
        };
        let mount = match &aim.mount {
            Some((entry, plan)) => {
                let left = format!("a directory .lidfs-bench-* in {}", entry.mountpoint.display());
                let work = measure_mount(entry, plan, &stop, &line);
                Some(signals.guard(work, &stop, &left).await?)
            }
            None => None,
        };
        Ok::<_, Failure>((store, mount))
    });
    line.end();
    let (store, mount) = speeds?;
    let advice = match (&aim.config, &storage) {
        (Some((resolved, _)), Some(storage)) => {
            bench::advise(&resolved.config, &storage.url, store.as_ref(), mount.as_ref())
        }
        _ => Vec::new(),
    };
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Ok(Report { schema: SCHEMA, version, store, mount, advice })
}

async fn measure_store(
    storage: &Storage,
    plan: &StorePlan,
    stop: &Stop,
    line: &StepLine,
) -> Result<StoreSpeed, Failure> {
    let progress = |step: &str| line.show(&format!("store: {step}"));
    let store = Arc::clone(&storage.store);
    Ok(bench::measure_store(store, &storage.url, plan, stop, &progress).await?)
}

/// On a thread of its own, because a mount may let its callers wait.
async fn measure_mount(
    entry: &Entry,
    plan: &MountPlan,
    stop: &Stop,
    line: &Arc<StepLine>,
) -> Result<MountSpeed, Failure> {
    let (entry, plan, stop, line) = (entry.clone(), plan.clone(), stop.clone(), Arc::clone(line));
    let work = move || {
        let progress = move |step: &str| line.show(&format!("mount: {step}"));
        bench::measure_mount(&entry, &plan, &stop, &progress)
    };
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|error| Failure::of(Exit::Failure, &error))??)
}

/// With JSON on standard output, other words do not go there.
fn announce(text: &str, is_json: bool) {
    if is_json {
        eprint!("{text}");
    } else {
        print!("{text}");
        // It is to be seen before, not after.
        let _ = std::io::stdout().flush();
    }
}

/// What it will cost, one line for each.
fn announcement(aim: &Aim, storage: Option<&Storage>) -> String {
    let mut lines = Vec::new();
    if let (Some(storage), Some((_, plan))) = (storage, &aim.config) {
        lines.push(store_announcement(&storage.url, &storage.transport, plan));
    }
    if let Some((entry, plan)) = &aim.mount {
        let place = entry.mountpoint.display();
        lines.push(format!(
            "mount {place}: writes and reads up to {}, makes {} small files, waits for {} fsyncs; all of it is \
             removed, and leaves the bucket with a later gc\n",
            size(plan.bytes), plan.files, plan.fsyncs
        ));
        if aim.config.is_none() {
            lines.push(format!(
                "store of {place}: not measured, as it is not known how it was mounted; give its config with -c\n"
            ));
        }
    }
    lines.concat()
}

fn store_announcement(url: &StoreUrl, transport: &Transport, plan: &StorePlan) -> String {
    let (puts, gets, heads) = (plan.puts(), plan.objects(), plan.heads());
    let place = match transport {
        Transport::Local => String::new(),
        Transport::Plain(place) | Transport::Tls(place) => format!(" at {place}"),
    };
    let cost = match url {
        StoreUrl::S3 { .. } => {
            let counts =
                RequestCounts { put: puts, get: gets, head: heads, ..RequestCounts::default() };
            format!(", about {:.4} USD at Amazon's list price without traffic", counts.cost_usd())
        }
        StoreUrl::File { .. } => String::new(),
    };
    format!(
        "store {url}{place}: sends and fetches up to {} each, in {puts} PUT, {gets} GET, {heads} HEAD at most{cost}; \
         all of it is removed\n",
        size(plan.bytes())
    )
}

/// One decimal, unlike [`Size`], which is exact.
fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

/// The signals that ask for an end.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::new(Exit::Failure, format!("signals: {error}")))
        };
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }

    /// Asks `work` to end by the first signal, and leaves it by the second.
    async fn guard<T>(
        &mut self,
        work: impl Future<Output = Result<T, Failure>>,
        stop: &Stop,
        left: &str,
    ) -> Result<T, Failure> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = self.next() => {
                    if stop.is_set() {
                        let message = format!("interrupted twice; {left} may be left: delete them");
                        return Err(Failure::new(Exit::Failure, message));
                    }
                    stop.set();
                    if std::io::stderr().is_terminal() {
                        eprintln!("removing what was written; a second signal gives up");
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_will_cost_is_said_before() {
        let plan = StorePlan::new(256 << 20, None, 16 << 20).unwrap();
        let url: StoreUrl = "s3://bucket/volume".parse().unwrap();
        let transport = Transport::Tls("https://s3.test".to_owned());
        assert_eq!(
            store_announcement(&url, &transport, &plan),
            "store s3://bucket/volume at https://s3.test: sends and fetches up to 256.3 MiB each, in 353 PUT, \
             352 GET, 163 HEAD at most, about 0.0020 USD at Amazon's list price without traffic; all of it is \
             removed\n"
        );
        let url: StoreUrl = "file:///tmp/bucket".parse().unwrap();
        let said = store_announcement(&url, &Transport::Local, &plan);
        assert!(
            said.starts_with("store file:///tmp/bucket: sends") && !said.contains("USD"),
            "{said}"
        );
    }

    #[test]
    fn a_picture_that_cannot_be_written_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let told = |path: &Path| check_place(path).unwrap_err().message;
        assert!(told(dir.path()).ends_with("is a directory; choose another"));
        assert!(told(&dir.path().join("no/x.svg")).contains("its directory does not exist"));
        assert!(check_place(&dir.path().join("x.svg")).is_ok());
        assert!(check_place(Path::new("x.svg")).is_ok());
    }

    #[tokio::test]
    async fn the_second_signal_says_what_may_be_left() {
        let (mut signals, stop) = (Signals::new().unwrap(), Stop::default());
        stop.set();
        let raise = async {
            // Until it is heard.
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP)
                .unwrap();
            std::future::pending::<Result<(), Failure>>().await
        };
        let failure = signals.guard(raise, &stop, "objects x").await.unwrap_err();
        assert_eq!(failure.message, "interrupted twice; objects x may be left: delete them");
    }
}
