//! Where slabs come from.

use core::ptr::NonNull;

use page_frame::sync::{AtomicPtr, Ordering};

use crate::slabs::Slabs;
use crate::slabs::environment::Environment;
use crate::slabs::layout::geometry::Geometry;
use crate::system::System;

/// Where slabs come from: pages, and memory for headers that lie outside their slabs.
pub(crate) struct SlabSource<S: System> {
    pub(crate) environment: Environment<S>,
    /// Memory for headers without links, and for headers with a line of links; null before the
    /// first cache is made.
    pub(crate) headers: AtomicPtr<[Slabs; 2]>,
}

impl<S: System> SlabSource<S> {
    /// Returns the internal cache of the headers of slabs cut by `geometry`.
    pub(crate) fn headers_for(&self, geometry: &Geometry) -> &Slabs {
        // Acquire: pairs with the Release of the exchange that set it.
        let headers = NonNull::new(self.headers.load(Ordering::Acquire));
        let headers = headers.expect("it was set before the first cache was made");
        // SAFETY: I1 of the registry's shared part: it lives as long as the registry.
        let headers = unsafe { headers.as_ref() };
        &headers[geometry.links_bytes() / 64]
    }
}
