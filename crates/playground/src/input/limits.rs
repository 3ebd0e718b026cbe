//! The largest inputs that the page and the judge accept.

/// Maximum length of an input in bytes.
pub(crate) const MAX_BYTES: usize = 2 << 20;
/// Maximum number of steps of a scene, each of which is replayed at each click.
pub(crate) const MAX_STEPS: usize = 2_000;
/// Maximum number of lines that the judge reads.
pub(crate) const MAX_LINES: usize = 20_000;
/// Maximum number of requests in the lines of a scene or of the judge.
pub(crate) const MAX_REQUESTS: usize = 20_000;
/// Maximum number of units of memory: the page draws each block.
pub(crate) const MAX_UNITS: usize = 4_096;
/// Maximum length of a name in bytes: a block shows it.
pub(crate) const MAX_NAME: usize = 16;
/// Maximum number of objects that one request of a scene allocates or frees.
pub(crate) const MAX_COUNT: usize = 1_000;
