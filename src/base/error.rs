//! Kinds of error, by what the caller does next.

/// What the caller of a failed operation does next.
///
/// Every module's error type maps to one of these with its `kind()`; only
/// `fuse` turns a kind into an errno and only `cli` into an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A passing fault of store or network: the same call may succeed later.
    Retry,
    /// What was asked for does not exist.
    NotFound,
    /// Somebody else was faster: a condition failed or a newer writer holds the volume.
    Conflict,
    /// Bytes that do not authenticate or do not decode. Retrying cannot help.
    Corrupt,
    /// Credentials, permissions or keys do not suffice.
    Denied,
    /// No room left in something with a bound.
    Full,
    /// The request itself is wrong.
    Invalid,
    /// A broken invariant in this program.
    Bug,
}
