//! Owners of page blocks: call sites, or the gfp masks of requests whose call site the trace does
//! not name.

use std::collections::HashMap;

use super::caller::{Caller, Source};
use super::usage::{Moments, Usage};

/// Maximum number of owners. Beyond it all further ones are one.
pub(super) const MAX_OWNERS: usize = 1 << 13;
/// The owner of the requests of all further owners.
const OTHERS: u16 = MAX_OWNERS as u16 - 1;
/// No owner yet.
const NONE: u16 = u16::MAX;

/// All owners, found by the trace's numbers.
#[derive(Default)]
pub(super) struct PageOwners {
    list: Vec<Owner>,
    sites: Numbers,
    gfps: Numbers,
}

struct Owner {
    name: Box<str>,
    is_site: bool,
    usage: Usage,
}

/// Names by the trace's numbers, and the owner of each.
#[derive(Default)]
struct Numbers {
    by_id: Vec<Option<(Box<str>, u16)>>,
    by_name: HashMap<Box<str>, u16>,
}

impl PageOwners {
    pub(super) fn name_site(&mut self, id: u32, name: &str) {
        self.sites.name(id, name);
    }

    pub(super) fn name_gfp(&mut self, id: u32, name: &str) {
        self.gfps.name(id, name);
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    #[inline(always)]
    pub(super) fn usage(&mut self, owner: u16) -> &mut Usage {
        &mut self.list[usize::from(owner)].usage
    }

    /// Returns the owner of requests of the call site, or of the gfp mask if the call site is not
    /// known.
    #[inline]
    pub(super) fn find(&mut self, gfp: u16, site: Option<u16>) -> u16 {
        let (numbers, id) = match site {
            Some(site) => (&self.sites, site),
            None => (&self.gfps, gfp),
        };
        match numbers.by_id.get(usize::from(id)) {
            Some(Some((_, owner))) if *owner != NONE => *owner,
            _ => self.add(gfp, site),
        }
    }

    #[cold]
    fn add(&mut self, gfp: u16, site: Option<u16>) -> u16 {
        let is_site = site.is_some();
        let id = usize::from(site.unwrap_or(gfp));
        let numbers = if is_site { &mut self.sites } else { &mut self.gfps };
        let named = numbers.by_id.get_mut(id).and_then(Option::as_mut);
        let (name, owner) = named.expect("the reader passes on only numbers that were named");
        if let Some(known) = numbers.by_name.get(name) {
            *owner = *known;
            return *known;
        }
        let next = self.list.len() as u16;
        let (new_name, new) = match next {
            ..OTHERS => (name.clone(), next),
            _ => ("(others)".into(), OTHERS),
        };
        *owner = new;
        numbers.by_name.insert(name.clone(), new);
        if new == next {
            self.list.push(Owner { name: new_name, is_site, usage: Usage::default() });
        }
        new
    }

    /// Returns all owners as callers; `pinned` has the pinned bytes of each.
    pub(super) fn callers(&self, moments: &Moments, pinned: &[u64]) -> Vec<Caller> {
        let caller = |(index, owner): (usize, &Owner)| Caller {
            site: owner.name.to_string(),
            is_named: owner.is_site,
            source: Source::Pages,
            allocations: owner.usage.allocations,
            failed: owner.usage.failed,
            requested_bytes: owner.usage.requested_bytes,
            allocated_bytes: owner.usage.requested_bytes,
            live: owner.usage.live,
            at_peak: owner.usage.at_peak(moments),
            pinned_bytes: pinned.get(index).copied().unwrap_or(0),
        };
        self.list.iter().enumerate().map(caller).collect()
    }
}

impl Numbers {
    fn name(&mut self, id: u32, name: &str) {
        let index = id as usize;
        if self.by_id.len() <= index {
            self.by_id.resize(index + 1, None);
        }
        self.by_id[index].get_or_insert_with(|| (name.into(), NONE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_site_comes_before_a_gfp_mask_and_names_are_owners() {
        let mut owners = PageOwners::default();
        owners.name_gfp(3, "GFP_KERNEL");
        owners.name_gfp(4, "GFP_KERNEL");
        owners.name_site(3, "pipe_write");
        let gfp = owners.find(3, None);
        assert_eq!((owners.find(4, None), owners.find(3, None)), (gfp, gfp));
        let site = owners.find(3, Some(3));
        assert_ne!(site, gfp);
        assert_eq!(owners.find(4, Some(3)), site);
        let callers = owners.callers(&Moments::default(), &[]);
        let names: Vec<_> = callers.iter().map(|one| (&*one.site, one.is_named)).collect();
        assert_eq!(names, [("GFP_KERNEL", false), ("pipe_write", true)]);
    }

    #[test]
    fn owners_beyond_the_limit_are_one() {
        let mut owners = PageOwners::default();
        for id in 0..MAX_OWNERS as u32 + 100 {
            owners.name_site(id, &id.to_string());
            let found = owners.find(0, Some(id as u16));
            assert_eq!(u32::from(found), id.min(OTHERS.into()));
        }
        assert_eq!(owners.len(), MAX_OWNERS);
    }
}
