//! Transparent huge pages: when the system backs an area of the space by one page of 2 MiB.

pub(crate) mod scan;
#[cfg(test)]
mod tests;
