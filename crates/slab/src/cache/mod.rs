//! The caches as users see them.

mod build;
pub(crate) mod build_error;
pub(crate) mod builder;
pub(crate) mod bulk;
pub(crate) mod deferred;
pub(crate) mod destroy;
pub(crate) mod handle;
mod inspect;
pub(crate) mod mempool;
pub(crate) mod numa;
mod options;
mod pool;
pub(crate) mod pooled;
pub(crate) mod typed;
