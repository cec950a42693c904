//! The SlateDB engine against stores that count, fail, stall and stop.

use std::sync::Arc;
use std::time::Duration;

use slatedb::object_store::memory::InMemory;

use super::*;
use crate::meta::suite::{self, Engine};

fn options() -> SlateOptions {
    let mut options = SlateOptions::new(Handle::current());
    options.follow_interval = Duration::from_millis(50);
    options
}

struct Volume(Arc<dyn ObjectStore>);

#[async_trait]
impl Engine for Volume {
    async fn open(&self) -> Arc<dyn MetaStore> {
        Arc::new(SlateMeta::open(Arc::clone(&self.0), options()).await.unwrap())
    }

    async fn follow(&self) -> Arc<dyn MetaRead> {
        let store = Arc::clone(&self.0);
        Arc::new(SlateReader::open(store, options(), View::Latest).await.unwrap())
    }

    async fn open_checkpoint(&self, id: CheckpointId) -> Result<Arc<dyn MetaRead>, MetaError> {
        let view = View::Checkpoint(id);
        Ok(Arc::new(SlateReader::open(Arc::clone(&self.0), options(), view).await?))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slate_engine_passes_the_suite() {
    suite::all(async || Box::new(Volume(Arc::new(InMemory::new()))) as Box<dyn Engine>).await;
}
