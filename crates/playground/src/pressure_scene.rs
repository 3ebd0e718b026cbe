//! The scene of memory pressure: two caches over one small buddy, behind `Reclaiming`. When one
//! cache needs pages, empty slabs of the other one are released.
//!
//! ```text
//! dentry 100          a hundred dentries are allocated, as many as fit
//! free inode 50       the fifty youngest inodes are freed; `free inode all`
//! shrink              the registry releases every page that holds no object in use
//! ```

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::alloc::Layout;
use core::ptr::NonNull;

use buddy::{BlockState, Pressure, Trace};
use page_frame::{ListFull, OneContext, PAGE_SIZE, Reclaiming, Shrink, ShrinkList};
use slab::{Cache, Registry};

use crate::input::complaint::{Complaint, quoted};
use crate::input::limits::{MAX_COUNT, MAX_STEPS};
use crate::input::script::{Line, lines};
use crate::input::size::counted;
use crate::json::{Json, texts};
use crate::page_memory::{PAGES, PageBuddy, PageMemory};

type Source<'m> = Reclaiming<&'m PageBuddy<'m, OneContext>, ShrinkList<1>>;
type SceneRegistry<'s, 'm> = Registry<(&'s Source<'m>, OneContext)>;

/// The caches: name, plural, bytes of an object.
const CACHES: [(&str, &str, usize); 2] = [("dentry", "dentries", 192), ("inode", "inodes", 640)];

/// A cache and its objects in use, oldest first.
struct User<'s, 'm> {
    cache: Cache<(&'s Source<'m>, OneContext)>,
    plural: &'static str,
    held: Vec<NonNull<u8>>,
}

/// The caches over their memory.
struct Scene<'r, 's, 'm> {
    buddy: &'m PageBuddy<'m, OneContext>,
    registry: &'r SceneRegistry<'s, 'm>,
    users: Vec<User<'s, 'm>>,
    /// The address of the first page.
    base: usize,
}

/// One request.
enum Request {
    Allocate(usize, usize),
    Free(usize, usize),
    Shrink,
}

/// Replays the first `position` steps of `text`, and returns the state after them as JSON.
///
/// A step that is refused ends the replay: the state is the one before it, with a complaint.
pub(crate) fn show(text: &str, position: usize) -> Result<String, Complaint> {
    let lines: Vec<Line<'_>> = lines(text).collect();
    if lines.len() > MAX_STEPS {
        let last = lines[MAX_STEPS].number;
        return Err(Complaint::new(last, format!("The page replays at most {MAX_STEPS} steps.")));
    }
    // SAFETY: clause 1: what is built on it lives in this call, in one thread, without handlers.
    let cpu = unsafe { OneContext::new() };
    let mut memory = PageMemory::new(1);
    let base = memory.start_address();
    let buddy = memory.buddy(cpu.clone()).map_err(|error| cannot(&error))?;
    let source = Reclaiming::new(&buddy, ShrinkList::new());
    let registry = Registry::new(&source, cpu).map_err(|error| cannot(&error))?;
    let _registered = Registered::new(&source, &registry).map_err(|error| cannot(&error))?;
    let mut scene = Scene::new(&buddy, &registry, base).map_err(|error| cannot(&error))?;
    Ok(scene.replay(&lines, position))
}

/// A registry on the list of shrinkers of its own source, until this is dropped.
struct Registered<'r, 'm> {
    source: &'r Source<'m>,
    registry: &'r dyn Shrink,
}

impl<'r, 'm> Registered<'r, 'm> {
    fn new(source: &'r Source<'m>, registry: &'r dyn Shrink) -> Result<Self, ListFull> {
        // SAFETY: clause 1: the reference is valid for `'r`, and the value, which `show` drops
        // before `'r` ends, unregisters it. Clause 2: the list has no other shrinker.
        unsafe { source.shrinker().register(NonNull::from(registry)) }?;
        Ok(Self { source, registry })
    }
}

impl Drop for Registered<'_, '_> {
    fn drop(&mut self) {
        let was_there = self.source.shrinker().unregister(NonNull::from(self.registry));
        debug_assert_eq!(was_there, Ok(true), "no call is inside: there is one thread");
    }
}

fn cannot(error: &dyn core::fmt::Display) -> Complaint {
    Complaint::new(1, format!("No caches can be built: {error}."))
}

fn parse(text: &str) -> Result<Request, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let cache = |name: &str| {
        let found = CACHES.iter().position(|(known, plural, _)| [*known, *plural].contains(&name));
        found.ok_or_else(|| {
            format!("{} is not a cache. The caches are dentry and inode.", quoted(name))
        })
    };
    let number = |text: &str| match text.parse() {
        Ok(count @ 1..=MAX_COUNT) => Ok(count),
        _ => Err(format!("{} is not a number of objects from 1 to {MAX_COUNT}.", quoted(text))),
    };
    match words[..] {
        ["shrink"] => Ok(Request::Shrink),
        ["free", name, "all"] => Ok(Request::Free(cache(name)?, usize::MAX)),
        ["free", name, count] => Ok(Request::Free(cache(name)?, number(count)?)),
        [name, count] => Ok(Request::Allocate(cache(name)?, number(count)?)),
        _ => Err(format!(
            "{} is not a request. Requests are dentry 10, inode 10, free inode 10 and shrink.",
            quoted(text)
        )),
    }
}

impl<'r, 's, 'm> Scene<'r, 's, 'm> {
    fn new(
        buddy: &'m PageBuddy<'m, OneContext>,
        registry: &'r SceneRegistry<'s, 'm>,
        base: usize,
    ) -> Result<Self, String> {
        let mut users = Vec::new();
        for (name, plural, bytes) in CACHES {
            let layout = Layout::from_size_align(bytes, 8).map_err(|error| error.to_string())?;
            // Room for all that there is: empty slabs are released only on request.
            let cache = registry.cache(name, layout).keep_empty(PAGES).build();
            let cache = cache.map_err(|error| error.to_string())?;
            users.push(User { cache, plural, held: Vec::new() });
        }
        Ok(Self { buddy, registry, users, base })
    }

    fn replay(&mut self, lines: &[Line<'_>], position: usize) -> String {
        let mut said = format!(
            "Two caches share {PAGES} pages. Each keeps its empty slabs until the other one needs pages."
        );
        let (mut complaint, mut done) = (None, 0);
        for line in lines.iter().take(position) {
            match parse(line.text).and_then(|request| self.perform(&request)) {
                Ok(sentence) => said = sentence,
                Err(message) => {
                    complaint =
                        Some(Json::object().number("line", line.number).text("message", &message));
                    break;
                }
            }
            done += 1;
        }
        let steps = texts(lines.iter().map(|line| line.text));
        let json = self.json(&said).number("position", done).member("steps", steps);
        json.maybe("complaint", complaint).finish()
    }

    fn perform(&mut self, request: &Request) -> Result<String, String> {
        match *request {
            Request::Allocate(which, count) => Ok(self.allocate(which, count)),
            Request::Free(which, count) => {
                let user = &mut self.users[which];
                if user.held.is_empty() {
                    return Err(format!("There are no {} in use.", user.plural));
                }
                let freed = user.free(count);
                Ok(format!("{freed} {} are freed. Their cache keeps its empty slabs.", user.plural))
            }
            Request::Shrink => {
                let pages = self.registry.shrink_all();
                Ok(format!(
                    "The registry is asked for all that it can spare, and releases {}.",
                    counted(pages, "page")
                ))
            }
        }
    }

    fn allocate(&mut self, which: usize, count: usize) -> String {
        let other = 1 - which;
        let slabs = |scene: &Self| [which, other].map(|user| scene.users[user].cache.stats().slabs);
        let before = slabs(self);
        let user = &mut self.users[which];
        let mut done = 0;
        while done < count {
            let Ok(object) = user.cache.allocate() else { break };
            user.held.push(object);
            done += 1;
        }
        let after = slabs(self);
        let (name, others) = (self.users[which].plural, self.users[other].plural);
        let mut said = format!("{done} {name} are allocated");
        said += &match after[0].saturating_sub(before[0]) {
            0 => " from the slabs that were there.".to_string(),
            grown => format!("; their cache grows by {}.", counted(grown, "slab")),
        };
        let released = before[1].saturating_sub(after[1]);
        if released > 0 {
            said += &format!(
                " The buddy had no page left, so the registry released {} of {others}.",
                counted(released, "empty slab")
            );
        }
        if done < count {
            said += &format!(
                " Then memory is out: {} refused.",
                match count - done {
                    1 => "one request is".to_string(),
                    refused => format!("{refused} requests are"),
                }
            );
        }
        said
    }

    fn json(&self, said: &str) -> Json {
        let mut pages: Vec<char> = Vec::new();
        for block in self.buddy.blocks() {
            let letter = if block.state == BlockState::Free { '.' } else { 'R' };
            pages.extend(core::iter::repeat_n(letter, block.frames));
        }
        for (user, letter) in self.users.iter().zip(['d', 'i']) {
            user.mark(&mut pages, self.base, letter);
        }
        let watermarks = self.buddy.trace();
        let marks = watermarks.marks();
        let users = Json::list(&self.users, |list, user| {
            let stats = user.cache.stats();
            list.push(
                Json::object()
                    .text("name", user.plural)
                    .number("held", user.held.len())
                    .number("slabs", stats.slabs)
                    .number("pages", stats.pages()),
            );
        });
        let pressure = watermarks.pressure();
        let free = self.buddy.free_frames_count();
        let reclaimable = pages.iter().filter(|letter| letter.is_ascii_lowercase()).count();
        let note = match pressure {
            Pressure::None => "There is no pressure: enough pages are free.",
            Pressure::Low => "Pressure is low: a kernel would wake the task that shrinks caches.",
            Pressure::Min => {
                "Pressure is at its worst: a kernel would let ordinary requests wait for that task."
            }
        };
        Json::object()
            .text("said", said)
            .text("pages", &pages.iter().collect::<String>())
            .number("free", free)
            .number("reclaimable", reclaimable)
            .number("min", marks.min)
            .number("low", marks.low)
            .number("high", marks.high)
            .text(
                "pressure",
                match pressure {
                    Pressure::None => "none",
                    Pressure::Low => "low",
                    Pressure::Min => "min",
                },
            )
            .member("users", users)
            .member("notes", texts([note]))
    }
}

impl User<'_, '_> {
    /// Frees the `count` youngest objects; returns how many there were.
    fn free(&mut self, count: usize) -> usize {
        let from = self.held.len().saturating_sub(count);
        let freed = self.held.len() - from;
        for object in self.held.drain(from..) {
            // SAFETY: clauses 1 and 2: allocated from this cache, and removed from the objects in
            // use. Clause 3: there is no constructor.
            unsafe { self.cache.free(object) };
        }
        freed
    }

    /// Marks the pages of the slabs: the upper-case letter where an object is in use.
    fn mark(&self, pages: &mut [char], base: usize, letter: char) {
        let mut used: Vec<usize> = self.held.iter().map(|object| object.addr().get()).collect();
        used.sort_unstable();
        self.cache.for_each_slab(|slab| {
            let end = slab.start + slab.order.bytes();
            let next = used.partition_point(|object| *object < slab.start);
            let is_used = used.get(next).is_some_and(|object| *object < end);
            let letter = if is_used { letter.to_ascii_uppercase() } else { letter };
            let first = (slab.start - base) / PAGE_SIZE;
            pages[first..first + slab.order.pages()].fill(letter);
        });
    }
}

impl Drop for User<'_, '_> {
    /// Frees what the user holds, so that the cache ends without objects in use.
    fn drop(&mut self) {
        self.free(usize::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_needs_pages_gets_the_empty_slabs_of_the_other() {
        let script = "dentry 1000\ndentry 100\nfree dentry all\ninode 300";
        let before = show(script, 3).expect("a state");
        assert!(
            before.contains(r#""pressure":"min""#) || before.contains(r#""pressure":"low""#),
            "{before}"
        );
        let json = show(script, 4).expect("a state");
        assert!(json.contains("empty slabs of dentries"), "{json}");
    }

    #[test]
    fn memory_runs_out_when_nothing_can_be_released() {
        let json = show("dentry 1000\ndentry 1000\ninode 1000", 9).expect("a state");
        assert!(json.contains("Then memory is out"), "{json}");
        assert!(!json.contains("complaint"), "{json}");
    }

    #[test]
    fn shrinking_idle_caches_frees_every_page_of_theirs() {
        let json = show("dentry 500\ninode 100\nfree dentry all\nfree inode all\nshrink", 9)
            .expect("a state");
        assert!(json.contains(r#""reclaimable":0"#), "{json}");
        assert!(!json.contains('D') && json.contains(r#""pressure":"none""#), "{json}");
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for text in
            ["grow", "dentry", "dentry 0", "dentry 1001", "free page 3", "free inode 1", "inode -1"]
        {
            assert!(show(text, 9).expect("a state").contains("complaint"), "{text}");
        }
    }
}
