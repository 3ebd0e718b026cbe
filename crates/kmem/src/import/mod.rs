//! Makes compact traces of what Linux records: `perf.data`, the text of `perf script`, the kernel's
//! own `trace` file.
//!
//! [`text`] reads lines, `perf_data` (with the feature of that name) reads samples by the formats
//! inside the file; both find fields by name, so that old and new kernels are read alike.
//! [`compact`] writes. Names of programs, of hosts and of files, process numbers and command lines
//! are never looked at.

mod call_chain;
pub mod compact;
pub mod error;
mod event_line;
#[cfg(feature = "perf-data")]
mod format;
mod lost;
#[cfg(feature = "perf-data")]
pub mod perf_data;
#[cfg(feature = "perf-data")]
mod piped;
pub mod text;
mod words;

/// The call site of an event whose recording does not name it.
const UNKNOWN: &str = "?";

/// A recorded event, as far as a compact trace keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded<'t> {
    /// Nanoseconds of the recording's clock.
    pub time_ns: u64,
    /// Where it happened.
    pub cpu: u32,
    /// What happened.
    pub what: What<'t>,
}

/// What was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What<'t> {
    /// Bytes or an object.
    Allocate {
        /// The address.
        address: u64,
        /// Bytes asked for.
        requested_bytes: u64,
        /// Bytes set aside.
        allocated_bytes: u64,
        /// The gfp mask, by name or as a number.
        gfp: &'t str,
        /// Call site of bytes.
        site: &'t str,
        /// Cache of an object; empty where the kernel does not say.
        cache: Option<&'t str>,
    },
    /// Bytes or an object are freed.
    Free {
        /// The address.
        address: u64,
        /// Whether it is an object of a cache.
        of_cache: bool,
    },
    /// A block of pages.
    AllocatePages {
        /// First frame.
        frame: u64,
        /// Its order.
        order: u64,
        /// The kernel's migratetype.
        migratetype: u64,
        /// The gfp mask, by name or as a number.
        gfp: &'t str,
        /// The call site, where the recording has call chains.
        site: Option<&'t str>,
    },
    /// A block of pages is freed.
    FreePages {
        /// First frame.
        frame: u64,
        /// Its order.
        order: u64,
    },
}

/// Kinds of events by the kernel's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Kmalloc,
    CacheAllocate,
    Kfree,
    CacheFree,
    PageAllocate,
    PageFree,
}

impl Kind {
    /// Returns the kind of an event of the kernel's name. Those of before 6.1 have `_node` twins,
    /// those of before 3.3 other names for freed pages.
    fn of(name: &str) -> Option<Self> {
        match name {
            "kmalloc" | "kmalloc_node" => Some(Self::Kmalloc),
            "kmem_cache_alloc" | "kmem_cache_alloc_node" => Some(Self::CacheAllocate),
            "kfree" => Some(Self::Kfree),
            "kmem_cache_free" => Some(Self::CacheFree),
            "mm_page_alloc" => Some(Self::PageAllocate),
            // `mm_page_free_batched` repeats events of this one.
            "mm_page_free" | "mm_page_free_direct" | "mm_pagevec_free" => Some(Self::PageFree),
            _ => None,
        }
    }
}

/// Fields of an event by name.
trait Fields<'t> {
    /// Returns a number: hexadecimal for addresses, as it is written for others.
    fn number(&self, name: &str, is_address: bool) -> Option<u64>;
    /// Returns text: as written, a symbol, or the number.
    fn text(&self, name: &str) -> Option<&'t str>;
}

/// Whether an event is an allocation of pages that failed: its page is null, or its frame is the
/// one that kernels record for no page.
fn has_failed<'t>(kind: Kind, fields: &impl Fields<'t>) -> bool {
    kind == Kind::PageAllocate
        && (fields.number("page", true) == Some(0)
            || fields.text("page").is_some_and(|page| matches!(page, "(nil)" | "(null)"))
            || fields.number("pfn", false) == Some(u64::MAX))
}

/// Takes an event's fields together; `None` when one that is needed is missing or is no number.
fn what<'t>(kind: Kind, fields: &impl Fields<'t>) -> Option<What<'t>> {
    let address = || fields.number("ptr", true);
    let frame = || fields.number("pfn", false);
    let gfp = || fields.text("gfp_flags").unwrap_or("?");
    let allocate = |cache| {
        Some(What::Allocate {
            address: address()?,
            requested_bytes: fields.number("bytes_req", false)?,
            allocated_bytes: fields.number("bytes_alloc", false)?,
            gfp: gfp(),
            site: fields.text("call_site").unwrap_or(UNKNOWN),
            cache,
        })
    };
    match kind {
        Kind::Kmalloc => allocate(None),
        Kind::CacheAllocate => allocate(Some(fields.text("name").unwrap_or(""))),
        Kind::Kfree | Kind::CacheFree => {
            Some(What::Free { address: address()?, of_cache: kind == Kind::CacheFree })
        }
        Kind::PageAllocate => Some(What::AllocatePages {
            frame: frame()?,
            order: fields.number("order", false)?,
            migratetype: fields.number("migratetype", false).unwrap_or(0),
            gfp: gfp(),
            site: None,
        }),
        Kind::PageFree => {
            Some(What::FreePages { frame: frame()?, order: fields.number("order", false)? })
        }
    }
}
