//! Machines with several memory nodes: a cache on each, behind one handle.
//!
//! # Concepts
//! Each node has a registry of its own over its own pages, so nodes share no slabs, depots, colours
//! or pressure. A [`NumaCache`] allocates on the node of the calling CPU or, if that has no memory,
//! on the next nearest. It frees to the node that the object's address lies on: a CPU has magazines
//! for each node, and no magazine holds objects of two nodes. So objects of another node that a CPU
//! frees return to that node in whole magazines, and requests on the CPU's own node do not get
//! them. (FreeBSD's UMA collects them in cross-domain buckets, and sorts these when they are full.)
//!
//! # Costs
//! With one node, use a [`Cache`], which pays nothing for this file. With several, each call looks
//! up the node of the CPU or of the address, and does one load more; each CPU has a slot on each
//! node.

use core::array;
use core::fmt;
use core::ptr::NonNull;

use page_frame::{OutOfMemory, Violation};

use crate::cache::build_error::BuildError;
use crate::cache::handle::Cache;
use crate::hardening::presets::{Hardening, Off};
use crate::registry::handle::Registry;
use crate::system::System;

/// The memory nodes of a machine, and the registry of each.
///
/// ```
/// use slab::{NumaNodes, Registry, System};
/// fn current_cpu() -> usize { 0 } // in a kernel, reads a register
/// /// Three nodes in a row, of the same size.
/// struct Row<S: System> { registries: [Registry<S>; 3], node_bytes: usize, node_of_cpu: [u8; 12] }
/// // SAFETY: clause 1: the source of node n has memory from `n * node_bytes` on. Clause 2: fields.
/// unsafe impl<S: System> NumaNodes for Row<S> {
///     type System = S;
///     fn registries(&self) -> &[Registry<S>] { &self.registries }
///     fn here(&self) -> usize { self.node_of_cpu[current_cpu()].into() }
///     fn node_of(&self, address: usize) -> usize { address / self.node_bytes }
///     fn nearest(&self, node: usize, closer: usize) -> usize {
///         [[0, 1, 2], [1, 0, 2], [2, 1, 0]][node][closer]
///     }
/// }
/// ```
///
/// # Safety
/// 1. [`node_of`](Self::node_of) names, for each address in memory that the page source of a node's
///    registry allocates, that node.
/// 2. [`registries`](Self::registries) returns the same ones each time.
pub unsafe trait NumaNodes {
    /// The page source of a node, and the machine's CPUs. A source has pages of its own node only:
    /// the cache itself falls back to other nodes. Example: see [`NumaCache`].
    type System: System;

    /// Returns the registry of each node; at least one. Example: see [`NumaCache`].
    fn registries(&self) -> &[Registry<Self::System>];

    /// Returns the node that is nearest to the CPU of the caller. Example: see [`NumaCache`].
    fn here(&self) -> usize;

    /// Returns the node that `address` lies on. Example: see [`NumaCache`].
    fn node_of(&self, address: usize) -> usize;

    /// Returns the node with exactly `closer` nodes nearer to `node`; `node` itself for 0. By
    /// default nodes follow in the order of their numbers, modulo their count.
    /// Example: see [`NumaCache`].
    fn nearest(&self, node: usize, closer: usize) -> usize {
        (node + closer) % self.registries().len()
    }
}

// SAFETY: clauses 1 and 2: each method returns the result of the referenced value.
unsafe impl<N: NumaNodes + ?Sized> NumaNodes for &N {
    type System = N::System;

    fn registries(&self) -> &[Registry<N::System>] {
        (**self).registries()
    }

    fn here(&self) -> usize {
        (**self).here()
    }

    fn node_of(&self, address: usize) -> usize {
        (**self).node_of(address)
    }

    fn nearest(&self, node: usize, closer: usize) -> usize {
        (**self).nearest(node, closer)
    }
}

/// The cache of one node.
type CacheOf<N, K> = Cache<<N as NumaNodes>::System, K>;

/// A cache on each of up to `MAX` nodes.
///
/// ```
/// use core::{alloc::Layout, cell::Cell, mem::MaybeUninit};
/// use page_frame::{Arena, SingleCpu};
/// use slab::{NumaCache, NumaNodes, Registry};
/// type Node<'a> = (&'a Arena<'a>, SingleCpu);
/// struct Machine<'a> { border: usize, here: Cell<usize>, registries: [Registry<Node<'a>>; 2] }
/// // SAFETY: clause 1: node 1 has the memory from `border` on. Clause 2: the field never changes.
/// unsafe impl<'a> NumaNodes for Machine<'a> {
///     type System = Node<'a>;
///     fn registries(&self) -> &[Registry<Node<'a>>] { &self.registries }
///     fn here(&self) -> usize { self.here.get() }
///     fn node_of(&self, address: usize) -> usize { usize::from(address >= self.border) }
///     fn nearest(&self, node: usize, closer: usize) -> usize { (node + closer) % 2 }
/// }
/// let mut memory = vec![MaybeUninit::uninit(); 2 << 20];
/// let (low, high) = memory.split_at_mut(1 << 20);
/// let border = high.as_ptr().addr();
/// let (low, high) = (Arena::new(low)?, Arena::new(high)?);
/// let low = Registry::new(&low, SingleCpu::new())?;
/// let registries = [low, Registry::new(&high, SingleCpu::new())?];
/// let machine = Machine { border, here: Cell::new(1), registries };
///
/// let layout = Layout::new::<[u64; 32]>();
/// let packets = NumaCache::<_, 2>::new(&machine, |node| node.cache("packet", layout).build())?;
/// let packet = packets.allocate()?; // on node 1
/// machine.here.set(0); // a CPU of the other node
/// // SAFETY: clauses 1 and 2: from this cache, and not used any more.
/// unsafe { packets.free(packet) }; // returns to node 1
/// assert_eq!(packets.on(0).stats().slabs, 0);
/// assert_eq!(packets.caches().map(|cache| cache.stats().slabs).sum::<usize>(), 1);
/// packets.validate()?;
/// assert!(packets.shrink_all() > 0); // pages
/// for cache in packets.into_caches().into_iter().flatten() {
///     cache.destroy().map_err(|busy| busy.to_string())?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct NumaCache<N: NumaNodes, const MAX: usize, K: Hardening = Off> {
    nodes: N,
    /// One for each registry, in the same order.
    caches: [Option<CacheOf<N, K>>; MAX],
}

impl<N: NumaNodes, const MAX: usize, K: Hardening> NumaCache<N, MAX, K> {
    /// Builds a cache on each node with `build`, which is given the node's registry.
    /// Example: see [`NumaCache`].
    ///
    /// # Errors
    /// The first error of `build`. All caches built before it are destroyed.
    ///
    /// # Panics
    /// When there are more nodes than `MAX`, or `build` makes a cache of another registry or,
    /// after the first, of other objects.
    pub fn new(
        nodes: N,
        mut build: impl FnMut(&Registry<N::System>) -> Result<CacheOf<N, K>, BuildError>,
    ) -> Result<Self, BuildError> {
        let mut caches: [Option<Cache<_, K>>; MAX] = array::from_fn(|_| None);
        let registries = nodes.registries();
        assert!((1..=MAX).contains(&registries.len()), "{} nodes of {MAX}", registries.len());
        for (node, registry) in registries.iter().enumerate() {
            let cache = build(registry)?;
            let is_own = core::ptr::eq(cache.registry(), registry.inner());
            assert!(is_own, "node {node} has a cache of another registry");
            let is_alike = caches[0].as_ref().is_none_or(|first| first.is_like(&cache));
            assert!(is_alike, "node {node} has a cache of other objects than the first");
            caches[node] = Some(cache);
        }
        Ok(Self { nodes, caches })
    }

    /// Returns the cache on `node`: to allocate on that node or fail, and for its statistics.
    /// Example: see [`NumaCache`].
    ///
    /// # Panics
    /// When there is no such node.
    #[inline]
    pub fn on(&self, node: usize) -> &CacheOf<N, K> {
        self.caches[node].as_ref().expect("a node with a registry")
    }

    /// Iterates over the caches, by node. Example: see [`NumaCache`].
    pub fn caches(&self) -> impl Iterator<Item = &CacheOf<N, K>> {
        self.caches.iter().flatten()
    }

    /// Allocates an object on the node of the caller or, where there is no memory, on the next
    /// nearest that has some. As [`Cache::allocate`] otherwise. Example: see [`NumaCache`].
    ///
    /// # Errors
    /// [`OutOfMemory`] when no node has memory.
    #[inline]
    #[track_caller]
    pub fn allocate(&self) -> Result<NonNull<u8>, OutOfMemory> {
        let here = self.nodes.here();
        match self.on(here).allocate() {
            Ok(object) => Ok(object),
            Err(OutOfMemory) => self.allocate_away(here),
        }
    }

    #[cold]
    #[track_caller]
    fn allocate_away(&self, here: usize) -> Result<NonNull<u8>, OutOfMemory> {
        for closer in 1..self.nodes.registries().len() {
            if let Ok(object) = self.on(self.nodes.nearest(here, closer)).allocate() {
                return Ok(object);
            }
        }
        Err(OutOfMemory)
    }

    /// Frees an object to the node that it lies on. As [`Cache::free`] otherwise.
    /// Example: see [`NumaCache`].
    ///
    /// # Safety
    /// 1. `object` came from this cache, on whatever node, and has not been freed since.
    /// 2. No code uses it from now on.
    /// 3. It is in constructed state, as for [`Cache::free`].
    #[inline]
    #[track_caller]
    pub unsafe fn free(&self, object: NonNull<u8>) {
        let owner = self.on(self.nodes.node_of(object.addr().get()));
        // SAFETY: the caller's clauses; the node is the object's (nodes clause 1), so it came from
        // that node's cache.
        unsafe { owner.free(object) }
    }

    /// Shrinks the cache of each node, see [`Cache::shrink_all`]; returns the pages released. Waits
    /// for locks. Example: see [`NumaCache`].
    pub fn shrink_all(&self) -> usize {
        self.caches().map(Cache::shrink_all).sum()
    }

    /// Checks the invariants of the caches. O(objects), takes their locks.
    /// Example: see [`NumaCache`].
    ///
    /// # Errors
    /// Names the first invariant that does not hold.
    pub fn validate(&self) -> Result<(), Violation> {
        self.caches().try_for_each(Cache::validate)
    }

    /// Takes the handle apart into the caches, by node: to destroy each, or to list its objects in
    /// use. Example: see [`NumaCache`].
    pub fn into_caches(self) -> [Option<CacheOf<N, K>>; MAX] {
        self.caches
    }
}

impl<N: NumaNodes, const MAX: usize, K: Hardening> fmt::Debug for NumaCache<N, MAX, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.caches()).finish()
    }
}
