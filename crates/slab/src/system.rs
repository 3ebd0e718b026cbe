//! The base of a registry as one type: the source of its pages, and the CPUs that use it.

use page_frame::{Cpu, PageMap, PageSource};

/// The page source and the CPUs of a registry, named by one type parameter.
///
/// Every pair of a page source and a machine is a system, so that `Registry<(Pages, Threads)>` and
/// `Registry<_>` need no declaration. A program with many signatures may name its own:
///
/// ```
/// use page_frame::{Arena, SingleCpu};
/// use slab::{Registry, System};
///
/// struct Embedded;
/// impl System for Embedded {
///     type Pages = Arena<'static>;
///     type Cpus = SingleCpu;
/// }
///
/// fn pages_held(registry: &Registry<Embedded>) -> usize {
///     registry.pages_held()
/// }
///
/// let memory = Vec::leak(vec![core::mem::MaybeUninit::uninit(); 8 << 20]);
/// let (arena, cpu) = (Arena::new(memory)?, SingleCpu::new());
/// let registry = Registry::for_system(arena, cpu, page_frame::panic_on_fault)?;
/// assert!(pages_held(&registry) > 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait System {
    /// Where pages come from, and what maps their addresses to tags and owners.
    /// Example: see [`System`].
    type Pages: PageSource + PageMap;
    /// The CPUs or threads that allocate and free. Example: see [`System`].
    type Cpus: Cpu + Clone;
}

impl<P: PageSource + PageMap, C: Cpu + Clone> System for (P, C) {
    type Pages = P;
    type Cpus = C;
}
