//! Headers that go with every request, whichever it is.

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use http::HeaderValue;

use crate::store::{StoreConfig, StoreError, StoreFault};

/// A request that copies names another object, too.
const COPY_SOURCE: &str = "x-amz-copy-source";

/// Added before a request is signed.
#[derive(Debug)]
pub(super) struct EveryRequest {
    bucket_owner: Option<HeaderValue>,
    is_payer: bool,
}

impl EveryRequest {
    /// `None` where there is nothing to add.
    pub fn new(config: &StoreConfig) -> Result<Option<Self>, StoreError> {
        let owner = config.expected_bucket_owner.as_deref().map(HeaderValue::from_str);
        let bucket_owner = owner.transpose().map_err(|error| {
            StoreError::caused(StoreFault::Settings, "[store]: expected_bucket_owner", error)
        })?;
        let is_payer = config.request_payer;
        Ok((bucket_owner.is_some() || is_payer).then_some(Self { bucket_owner, is_payer }))
    }
}

impl Intercept for EveryRequest {
    fn name(&self) -> &'static str {
        "EveryRequest"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.request_mut().headers_mut();
        if let Some(owner) = &self.bucket_owner {
            headers.try_insert("x-amz-expected-bucket-owner", owner.clone())?;
            if headers.contains_key(COPY_SOURCE) {
                headers.try_insert("x-amz-source-expected-bucket-owner", owner.clone())?;
            }
        }
        if self.is_payer {
            headers.try_insert("x-amz-request-payer", "requester")?;
        }
        Ok(())
    }
}
