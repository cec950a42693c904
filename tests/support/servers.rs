//! Real S3 servers for tests: one of each kind for all test processes of a run.
//!
//! The first process that asks starts it; the last one's end stops it (`servers/shared` says how).
//! Each user makes a bucket of its own.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use aws_config::{BehaviorVersion, ConfigLoader};
use aws_sdk_s3::config::Credentials;
use lidfs::store::{S3Config, S3Store, StoreConfig};

/// Kinds of server; each name is that of its script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Ceph RADOS Gateway: conditional writes are atomic.
    CephRgw,
    /// s3s-fs: quick, conditional writes are not atomic.
    S3sFs,
    /// moto: keeps the headers of server-side encryption, and encrypts nothing.
    Moto,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::CephRgw => "ceph-rgw",
            Self::S3sFs => "s3s-fs",
            Self::Moto => "moto",
        }
    }
}

/// A running server.
#[derive(Debug, Clone)]
pub struct Server {
    /// What its script exported: `AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID` and so on.
    pub env: HashMap<String, String>,
}

/// Locks of this process on the servers it uses, until it ends.
static USED: Mutex<Vec<(Kind, File)>> = Mutex::new(Vec::new());
static BUCKETS: AtomicU32 = AtomicU32::new(0);

fn open(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

impl Server {
    /// The server of this kind, started if it does not run yet.
    pub fn get(kind: Kind) -> Self {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("servers").join(kind.name());
        fs::create_dir_all(&dir).unwrap();
        let mut used = USED.lock().unwrap();
        if used.iter().all(|(other, _)| *other != kind) {
            let users = open(&dir.join("users"));
            users.lock_shared().unwrap();
            used.push((kind, users));
        }
        let starting = open(&dir.join("starting"));
        starting.lock().unwrap();
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/servers").join("shared");
        // Output goes to files: daemons would keep a pipe of ours open for ever.
        let output = dir.join(format!("start-{}", std::process::id()));
        let log = open(&dir.join("log"));
        let status = Command::new(script)
            .args(["start", kind.name()])
            .arg(&dir)
            .stdin(Stdio::null())
            .stdout(File::create(&output).unwrap())
            .stderr(log)
            .status()
            .unwrap();
        assert!(status.success(), "{} did not start: see {}/log", kind.name(), dir.display());
        let exports = fs::read_to_string(&output).unwrap();
        fs::remove_file(&output).unwrap();
        let exports = exports.lines().filter_map(|line| {
            let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
            Some((name.to_owned(), value.trim_matches('\'').to_owned()))
        });
        Self { env: exports.collect() }
    }

    /// One of the exported values.
    pub fn var(&self, name: &str) -> &str {
        &self.env[name]
    }

    /// The configuration of a store on this server.
    pub fn config(&self) -> StoreConfig {
        StoreConfig {
            endpoint: Some(self.var("AWS_ENDPOINT_URL").to_owned()),
            region: Some(self.var("AWS_REGION").to_owned()),
            deadline: Duration::from_secs(30),
            ..StoreConfig::default()
        }
    }

    /// A loader with the credentials of the server's user.
    pub fn loader(&self) -> ConfigLoader {
        loader(self.var("AWS_ACCESS_KEY_ID"), self.var("AWS_SECRET_ACCESS_KEY"))
    }

    /// A store on a bucket, which need not exist.
    pub async fn store(&self, bucket: &str) -> S3Store {
        let config = S3Config::new(bucket, &self.config());
        S3Store::connect_with(config, self.loader()).await.unwrap()
    }

    /// A store on a new bucket.
    pub async fn new_bucket(&self) -> S3Store {
        let bucket = self.new_bucket_name().await;
        self.store(&bucket).await
    }

    /// A new bucket.
    pub async fn new_bucket_name(&self) -> String {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
        let count = BUCKETS.fetch_add(1, Ordering::Relaxed);
        let bucket = format!("test-{now}-{}-{count}", std::process::id());
        let store = self.store(&bucket).await;
        store.client().create_bucket().bucket(&bucket).send().await.unwrap();
        bucket
    }
}

/// A loader with these credentials and nothing of this machine's.
pub fn loader(key: &str, secret: &str) -> ConfigLoader {
    aws_config::defaults(BehaviorVersion::latest())
        .credentials_provider(Credentials::new(key, secret, None, None, "test"))
}
