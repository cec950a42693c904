//! Tests of the file system without a kernel.
