//! Page maps: sizes that overflow, and pages beyond the range.

use std::ptr::NonNull;

use page_frame::{Order, PAGE_SIZE, PageMap, PageMapArray, Tag};

/// Mutation seen to fail: products that wrap around, which give too small a size.
#[test]
fn entries_of_too_many_pages_are_refused() {
    let most = usize::MAX / (size_of::<usize>() + 1);
    for pages in [most + 1, usize::MAX / size_of::<usize>() + 1, usize::MAX] {
        assert!(
            std::panic::catch_unwind(|| PageMapArray::metadata_bytes(pages)).is_err(),
            "{pages}"
        );
    }
    assert!(PageMapArray::metadata_bytes(most / 2) > most);
}

#[repr(align(64))]
struct Entries([u8; PageMapArray::metadata_bytes(70)]);

#[test]
fn pages_beyond_the_range_have_no_entry_to_set_or_read() {
    let mut entries = Entries([0; PageMapArray::metadata_bytes(70)]);
    let root =
        NonNull::without_provenance(std::num::NonZero::new(16 * PAGE_SIZE).expect("not zero"));
    // SAFETY: clause 1: zero, aligned, and ours. Clause 2: the pages are only named.
    let map = unsafe { PageMapArray::new_in(root, 70, NonNull::from(&mut entries.0).cast()) };
    for index in [70, 71, usize::MAX / 2, usize::MAX] {
        map.set_tag_at(index, Tag::RUN);
        map.clear_tags_among(index, usize::MAX);
        assert!(map.place_at(index).is_none() && !map.exchange_tag_at(index, Tag::NONE, Tag::RUN));
        assert_eq!((map.tag_at(index), map.deferred_among::<2>(index)[0].heads), (Tag::NONE, 0));
    }
    map.set_tag_at(0, Tag::deferred(Order::ZERO));
    map.set_tag_at(69, Tag::deferred(Order::ZERO));
    assert_eq!(map.deferred_among::<2>(0).map(|left| left.heads), [1, 1 << 5]);
    map.clear_tags_among(10, usize::MAX);
    assert_eq!((map.tag_at(69), map.tag_at(0)), (Tag::NONE, Tag::deferred(Order::ZERO)));
    for address in [0, 15 * PAGE_SIZE, 86 * PAGE_SIZE, usize::MAX] {
        assert_eq!((map.tag(address), map.owner(address).is_null()), (Tag::NONE, true));
    }
}
