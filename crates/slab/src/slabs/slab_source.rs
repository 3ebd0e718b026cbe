//! Where slabs come from.

use crate::slabs::Slabs;
use crate::slabs::environment::Environment;
use crate::slabs::geometry::Geometry;
use crate::system::System;

/// Where slabs come from: pages, and memory for headers that lie outside their slabs.
pub(crate) struct SlabSource<S: System> {
    pub(crate) environment: Environment<S>,
    /// Memory for headers without links, and for headers with a line of links.
    pub(crate) headers: [Slabs; 2],
}

impl<S: System> SlabSource<S> {
    /// Returns the internal cache of the headers of slabs cut by `geometry`.
    pub(crate) fn headers_for(&self, geometry: &Geometry) -> &Slabs {
        &self.headers[geometry.links_bytes() / 64]
    }
}
