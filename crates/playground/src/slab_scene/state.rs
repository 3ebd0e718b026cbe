//! The state of the slab scene as JSON.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::cache::SceneCache;
use crate::input::size::counted;
use crate::json::{Json, numbers, texts};

/// Bytes of a line of the CPU cache.
const LINE_BYTES: usize = 64;
/// Sets of the CPU cache: 32 KiB, eight lines in each set.
const SETS: usize = 64;
/// Lines in a set.
const WAYS: usize = 8;

/// Returns the state, with what the last step did.
pub(super) fn json(cache: &SceneCache<'_>, said: &str) -> Json {
    let geometry = cache.geometry();
    let slabs = cache.slabs();
    let held = cache.numbers();
    let stats = cache.stats();
    let mut sets = [0_usize; SETS];
    let mut out_of_slabs = 0;
    let drawn = Json::list(&slabs, |list, slab| {
        out_of_slabs += slab.capacity - slab.free;
        let first = slab.start + slab.colour_offset;
        let objects = Json::list(0..slab.capacity, |list, index| {
            let address = first + index * geometry.stride();
            sets[address / LINE_BYTES % SETS] += 1;
            match held.get(&address) {
                Some(number) => list.push_number(*number),
                None => list.push_text(""),
            }
        });
        list.push(
            Json::object()
                .number("page", cache.page_of(slab))
                .number("colour", slab.colour_offset)
                .number("free", slab.free)
                .member("objects", objects),
        );
    });
    let most = sets.iter().copied().max().unwrap_or(0);
    let magazines = Json::list(cache.magazines(), |list, pair| {
        list.push(Json::list(pair.into_iter().flatten(), |list, length| list.push_number(length)));
    });
    let introduction = introduction(cache);
    let json = Json::object()
        .text("said", if said.is_empty() { &introduction } else { said })
        .number("stride", geometry.stride())
        .number("capacity", geometry.capacity())
        .number("record", geometry.bookkeeping_offset().unwrap_or(geometry.slab_bytes()))
        .number("bytes", geometry.slab_bytes())
        .flag("coloured", cache.is_coloured())
        .member("slabs", drawn)
        .number("held", held.len())
        .number("cached", out_of_slabs - held.len())
        .number("cpu", cache.current() as usize)
        .number("room", stats.magazine_capacity)
        .number("depot", stats.depot_magazines)
        .member("magazines", magazines)
        .member("sets", numbers(sets));
    json.member("notes", texts(notes(cache, slabs.len(), most)))
}

fn introduction(cache: &SceneCache<'_>) -> String {
    let geometry = cache.geometry();
    format!(
        "A slab is one page of {} bytes: {} of {} bytes, and {} bytes left over.",
        geometry.slab_bytes(),
        counted(geometry.capacity(), "object"),
        geometry.stride(),
        geometry.leftover_bytes()
    )
}

fn notes(cache: &SceneCache<'_>, slabs: usize, most: usize) -> Vec<String> {
    let geometry = cache.geometry();
    let mut notes = Vec::new();
    let offsets: Vec<String> = (0..geometry.colours())
        .map(|colour| format!("{}", geometry.colour_offset(colour)))
        .collect();
    notes.push(match (cache.is_coloured(), offsets.len()) {
        (false, _) => "Colours are off: the first object of each slab is at byte 0.".into(),
        (true, 1) => {
            "There is one colour only: too few bytes are left over to shift the objects.".into()
        }
        (true, count) => format!(
            "{count} colours: the first object of a slab is at byte {}.",
            offsets.join(", ")
        ),
    });
    if slabs > 0 {
        let more = match most > WAYS {
            true => format!("more than its {WAYS} lines, so they evict one another"),
            false => format!("and it has {WAYS} lines"),
        };
        notes.push({
            let verb = if most == 1 { "begins" } else { "begin" };
            format!(
                "In the fullest of the {SETS} sets, {} {verb}, {more}.",
                counted(most, "object")
            )
        });
    }
    notes
}
