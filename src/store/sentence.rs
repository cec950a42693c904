//! An error in words for people, whichever layer it has come up to.

use std::error::Error;

use super::find;

/// An error and those of its causes that it does not quote already, on one line.
///
/// Ends with what a store of ours says, if one is among the causes: that is written for people,
/// and what lies below it for programmers.
pub fn sentence(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // What lies around the store's own words is for programmers too.
        let plain = find(error).map(ToString::to_string);
        let told = plain.as_ref().unwrap_or(&said);
        if text.contains(&said) {
            text = text.replace(&said, told);
        } else if !text.contains(told) {
            text = format!("{text} ({told})");
        }
        if plain.is_some() {
            break;
        }
        cause = error.source();
    }
    one_line(&text)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::{StoreError, StoreFault, object_store};

    /// A layer that quotes what it got.
    #[derive(Debug, thiserror::Error)]
    #[error("Unavailable error: object store error ({0})")]
    struct Engine(#[source] Arc<object_store::Error>);

    /// A layer that speaks for itself.
    #[derive(Debug, thiserror::Error)]
    #[error("metadata: opening the volume: try again")]
    struct Meta(#[source] Box<dyn Error + Send + Sync>);

    #[test]
    fn what_the_store_says_stands_without_the_words_of_the_layers_around_it() {
        let fault = StoreError::caused(
            StoreFault::Denied,
            "s3://b/p: access denied; check the credentials",
            std::io::Error::other("sdk"),
        );
        let source = Arc::new(fault.into_object_store("S3", "p/meta/manifest"));
        let engine = Engine(source);
        let plain = "s3://b/p: access denied; check the credentials";
        assert_eq!(sentence(&engine), format!("Unavailable error: object store error ({plain})"));
        let whole = format!("metadata: opening the volume: try again ({plain})");
        assert_eq!(sentence(&Meta(Box::new(engine))), whole);
    }

    #[test]
    fn causes_are_told_once_and_on_one_line() {
        let text = sentence(&Meta(Box::new(std::io::Error::other("first\nsecond"))));
        assert_eq!(text, "metadata: opening the volume: try again (first second)");
    }
}
