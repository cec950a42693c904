//! One contract for every store and every decorator.
//!
//! ```text
//!   checks (what a store must do)  x  stores (memory, file, decorators, real servers)
//!                                  -  skips (what a server is known not to do, with the reason)
//! ```

#[path = "../support/mod.rs"]
mod support;

mod checks;
mod encryption;
mod faults;
mod refusals;
mod tls;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::FutureExt;
use lidfs::base::{Epoch, VolumeId};
use lidfs::crypto::{DataKey, DataKeys, ObjectKind, SecretKey};
use lidfs::store::object_store::ObjectStore;
use lidfs::store::object_store::memory::InMemory;
use lidfs::store::object_store::prefix::PrefixStore;
use lidfs::store::{
    CustomerKeys, FaultyStore, LocalStore, MeasuredStore, SealedStore, StoreConfig, StoreUrl,
};

use checks::CHECKS;
use support::servers::{Kind, Server};

/// A check that a store is known to fail, and why that is not ours to mend.
struct Skip {
    check: &'static str,
    reason: &'static str,
}

const MEMORY: &[Skip] = &[];

const FILE: &[Skip] = &[Skip {
    check: "a_key_may_be_the_beginning_of_another",
    reason: "a name in a file system is a file or a directory, not both",
}];

const CEPH_RGW: &[Skip] = &[];

const CEPH_RGW_ENCRYPTING: &[Skip] = &[
    Skip { check: "a_copy_has_content_and_metadata", reason: NO_COPY },
    Skip { check: "a_copy_may_refuse_to_replace", reason: NO_COPY },
    Skip { check: "names_of_any_kind_round_trip", reason: NO_COPY },
];
const NO_COPY: &str = "version 16 copies nothing that is or is to be encrypted, and answers 501";

const S3S_FS: &[Skip] = &[
    Skip {
        check: "of_concurrent_creates_exactly_one_wins",
        reason: "it checks the condition first and writes later",
    },
    Skip {
        check: "of_concurrent_updates_exactly_one_wins",
        reason: "it checks the condition first and writes later",
    },
    Skip {
        check: "a_conditional_read_is_refused_by_its_condition",
        reason: "it ignores If-Match and If-None-Match of GET",
    },
    Skip {
        check: "a_key_may_be_the_beginning_of_another",
        reason: "objects are files, and it answers 500",
    },
    Skip {
        check: "a_prefix_of_names_is_no_object",
        reason: "prefixes are directories, and it answers 500",
    },
    Skip { check: "a_suffix_longer_than_the_object_is_all_of_it", reason: "it answers 500" },
    Skip { check: "a_listing_has_the_etags_of_head", reason: "its listings have no ETags" },
    Skip { check: "names_of_any_kind_round_trip", reason: "it lists `+` as a space" },
];

/// Runs every check that is not skipped, each in a fresh corner of the store.
async fn hold(store: Arc<dyn ObjectStore>, skips: &[Skip]) {
    static CORNERS: AtomicU32 = AtomicU32::new(0);
    for skip in skips {
        assert!(CHECKS.iter().any(|(name, _)| *name == skip.check), "no check {}", skip.check);
    }
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        if let Some(skip) = skips.iter().find(|skip| skip.check == *name) {
            println!("skip {name}: {}", skip.reason);
            continue;
        }
        let corner = CORNERS.fetch_add(1, Ordering::Relaxed);
        let corner = PrefixStore::new(Arc::clone(&store), format!("corner-{corner}"));
        match AssertUnwindSafe(check(Arc::new(corner))).catch_unwind().await {
            Ok(()) => println!("ok   {name}"),
            Err(_) => failed.push(*name),
        }
    }
    assert!(failed.is_empty(), "{store} does not hold the contract: {failed:?}");
}

#[tokio::test]
async fn memory_holds_the_contract() {
    hold(Arc::new(InMemory::new()), MEMORY).await;
}

#[tokio::test]
async fn measured_store_holds_the_contract() {
    hold(Arc::new(MeasuredStore::new(InMemory::new())), MEMORY).await;
}

#[tokio::test]
async fn faulty_store_without_faults_holds_the_contract() {
    hold(Arc::new(FaultyStore::new(InMemory::new())), MEMORY).await;
}

/// Seals what goes into `inner`.
fn sealed(inner: impl ObjectStore) -> SealedStore {
    let key = DataKey { epoch: Epoch(1), key: SecretKey::generate() };
    let keys = DataKeys::new(key, Vec::new());
    SealedStore::new(Arc::new(inner), keys, VolumeId([3; 16]), ObjectKind::Metadata)
}

#[tokio::test]
async fn sealed_store_holds_the_contract() {
    hold(Arc::new(sealed(InMemory::new())), MEMORY).await;
}

#[tokio::test]
async fn sealed_store_on_ceph_rgw_holds_the_contract() {
    hold(Arc::new(sealed(Server::get(Kind::CephRgw).new_bucket().await)), CEPH_RGW).await;
}

#[tokio::test]
async fn local_store_holds_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    hold(Arc::new(LocalStore::open(dir.path()).unwrap()), FILE).await;
}

#[tokio::test]
async fn store_opened_by_file_url_holds_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let url: StoreUrl = format!("file://{}/new/dir", dir.path().display()).parse().unwrap();
    hold(
        lidfs::store::open(&url, &StoreConfig::default(), CustomerKeys::default())
            .await
            .unwrap()
            .store,
        FILE,
    )
    .await;
}

#[tokio::test]
async fn ceph_rgw_holds_the_contract() {
    let store = Server::get(Kind::CephRgw).new_bucket().await;
    hold(Arc::new(store), CEPH_RGW).await;
}

#[tokio::test]
async fn ceph_rgw_over_tls_holds_the_contract() {
    let server = Server::get(Kind::CephRgw);
    let bucket = server.new_bucket().await.bucket().to_owned();
    hold(Arc::new(refusals::over_tls(&server, &bucket).await), CEPH_RGW).await;
}

#[tokio::test]
async fn ceph_rgw_with_a_key_of_ours_holds_the_contract() {
    let store = encryption::over_tls(encryption::SSE_C, encryption::keys(Some(1), None)).await;
    hold(Arc::new(store), CEPH_RGW_ENCRYPTING).await;
}

#[tokio::test]
async fn ceph_rgw_with_a_key_service_holds_the_contract() {
    let store = encryption::over_tls(encryption::SSE_KMS, encryption::keys(None, None)).await;
    hold(Arc::new(store), CEPH_RGW_ENCRYPTING).await;
}

#[tokio::test]
async fn s3s_fs_holds_the_contract() {
    let store = Server::get(Kind::S3sFs).new_bucket().await;
    hold(Arc::new(store), S3S_FS).await;
}
