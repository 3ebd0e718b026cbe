//! Transparent huge pages: when the system backs an area of the space by one page of 2 MiB.

mod backoff;
mod growth;
pub(crate) mod scan;
#[cfg(test)]
mod tests;
