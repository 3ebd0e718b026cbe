//! Owners of allocations, and whether what they keep looks like a leak.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::picture::text::{size, thousands};

/// The owner of an allocation: a call site of kmalloc, a cache, or a page request of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    Site(u32),
    /// A cache, and the call site where the trace names it.
    Cache(u32, Option<u32>),
    /// Blocks of an order, and the call site where the trace names it.
    Pages(u8, Option<u32>),
}

/// Totals of one owner.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Use {
    pub(crate) allocations: u64,
    pub(crate) live: u64,
    pub(crate) live_bytes: u64,
    pub(crate) oldest_micros: Option<u64>,
    /// Live allocations by the quarter of the trace that they are from.
    pub(crate) live_by_quarter: [u64; 4],
}

/// An owner looks like a leak if at least this share of its allocations is live, in percent,
const LEAK_SHARE: u64 = 80;
/// if that is at least this number of them,
const LEAK_OBJECTS: u64 = 20;
/// and if each quarter of the trace has at least this share of them, in percent. Memory that is
/// allocated once at the start does not grow in each quarter, and neither does a full cache.
const LEAK_QUARTER: u64 = 10;

impl Use {
    /// Whether the owner looks like a leak.
    pub(crate) fn looks_like_a_leak(&self) -> bool {
        self.live >= LEAK_OBJECTS
            && self.live * 100 >= self.allocations * LEAK_SHARE
            && self.live_by_quarter.iter().all(|live| live * 100 >= self.live * LEAK_QUARTER)
    }
}

impl Owner {
    /// Returns the owner in words; `name` returns the name of a number of the trace.
    pub(crate) fn name<'n>(self, name: impl Fn(u32) -> &'n str) -> String {
        match self {
            Self::Site(id) => format!("kmalloc in {}", name(id)),
            Self::Cache(id, None) => format!("cache {}", name(id)),
            Self::Cache(id, Some(site)) => format!("cache {} in {}", name(id), name(site)),
            Self::Pages(order, None) => format!("pages of order {order}"),
            Self::Pages(order, Some(site)) => format!("pages of order {order} in {}", name(site)),
        }
    }
}

/// Says whether what is live at the end looks like a leak. `is_whole` is whether the recording lost
/// no events, for certain.
pub(crate) fn verdict(
    uses: &HashMap<Owner, Use>,
    name: impl Fn(Owner) -> String,
    is_whole: bool,
) -> String {
    // Pages without a call site are above all those of the page cache, which grows.
    let is_suspect = |(owner, used): &(&Owner, &Use)| {
        !matches!(owner, Owner::Pages(_, None)) && used.looks_like_a_leak()
    };
    let mut suspects: Vec<_> = uses.iter().filter(is_suspect).collect();
    suspects.sort_by_cached_key(|(owner, used)| (Reverse(used.live_bytes), name(**owner)));
    let Some((owner, used)) = suspects.first() else {
        let hidden = match is_whole {
            true => "",
            false => " Lost events may hide one.",
        };
        return format!(
            "Leak? None in sight: nothing keeps most of its allocations from every quarter\n\
             of the recording.{hidden}"
        );
    };
    let more = match suspects.len() - 1 {
        0 => String::new(),
        more => format!("\n{more} more look like it."),
    };
    let uncertain = match is_whole {
        true => "",
        false => "\nEvents may be lost: some of it may have been freed.",
    };
    format!(
        "Leak? It looks like one: {}\nhas {} live, {} of its {} allocations,\nfrom every quarter of the recording.\n\
         A cache that is still filling looks the same.{more}{uncertain}",
        name(**owner),
        size(used.live_bytes),
        thousands(used.live),
        thousands(used.allocations),
    )
}
